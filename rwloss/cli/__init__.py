"""The command line: one command a file, thin; heavy imports inside the commands that need them."""

from rwloss.cli.app import app, main

__all__ = ["app", "main"]
