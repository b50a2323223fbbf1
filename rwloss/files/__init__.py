"""Files that appear complete or not at all; locks, journals and TOML."""
