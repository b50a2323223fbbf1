"""Atomic writing of files; locks, journals and TOML."""
