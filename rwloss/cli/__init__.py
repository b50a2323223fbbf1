"""The command line: one thin file per command; heavy imports inside the commands that need them."""

from rwloss.cli.app import app, main

__all__ = ["app", "main"]
