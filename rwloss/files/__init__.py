"""Files that appear whole or not at all: locks, journals, TOML."""
