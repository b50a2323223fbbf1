"""The `rwloss` program: its commands, and what a user sees when something is wrong."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rwloss._version import __version__
from rwloss.cli.options import summary_of, with_options
from rwloss.errors import RWLossError

COMMANDS = (
    "demo",
    "maps",
    "check",
    "show",
    "precompute",
    "verify",
    "train",
    "predict",
    "evaluate",
    "compare",
    "report",
    "nnunet-path",
)
"""In the order of a user's work. Each is the function of its name in the module of its name."""

OLD_SPELLINGS = {"output": "out"}
"""Options that were called otherwise once, and still work."""


class _Sections(TyperCommand):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            is_argument = parameter.param_type_name == "argument"
            section = getattr(parameter, "rich_help_panel", None) or "Options"
            if record := parameter.get_help_record(ctx):
                sections.setdefault("Arguments" if is_argument else section, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class _Group(TyperGroup):
    """Commands that are built when they are used: the others cost no time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            function, text = with_options(_function(cmd_name))
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(cmd_name, cls=_Sections, help=text)(function)
            self.commands[cmd_name] = typer.main.get_command(alone)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, without building them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(_function(name))) for name in COMMANDS])


def _function(name: str) -> Callable[..., None]:
    name = name.replace("-", "_")
    function: Callable[..., None] = getattr(importlib.import_module(f"rwloss.cli.{name}"), name)
    return function


app = typer.Typer(
    name="rwloss",
    cls=_Group,
    help="Every segmentation loss as softmax times a region-wise map.",
    epilog="Exit codes: 0 done, 1 some cases failed (each is named, the others are kept), "
    "2 wrong use, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: OLD_SPELLINGS.get(name, name),
    },
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rwloss {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the program; wrong use is an error on standard error with exit code 2, no traceback.

    What is printed to a closed stream is lost. A stream that can't take it, such as a file on a
    full disk, ends the program with exit code 1.
    """
    _open_streams()
    try:
        app()
    except RWLossError as error:
        with suppress(OSError):
            typer.echo(f"rwloss: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is not None or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        with suppress(OSError):
            typer.echo(f"rwloss: the output can't be written ({error.strerror})", err=True)
        os._exit(1)  # at a usual end, Python would write what is left of the output again


def _open_streams() -> None:
    """Open what is closed of the standard streams: else the next file would take its place."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
