"""The `rwloss` program: its commands, and what a user sees when something is wrong."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from typing import Annotated, Any, cast

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
"""In the order in which users need them. Each is a function in the module of the same name."""

OLD_SPELLINGS = {"output": "out"}
"""Former names of options, which still work."""


class _Sections(TyperCommand):
    """A command whose help groups its options in sections."""

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
    """Commands that are built on use, so that the others cost no time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, without building them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(_function(name))) for name in COMMANDS])


@cache
def _command(name: str) -> Any:
    function, text = with_options(_function(name))
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=_Sections, help=text)(function)
    return typer.main.get_command(alone)


def _function(name: str) -> Callable[..., None]:
    name = name.replace("-", "_")
    function: Callable[..., None] = getattr(importlib.import_module(f"rwloss.cli.{name}"), name)
    return function


app = typer.Typer(
    name="rwloss",
    cls=_Group,
    help="Every segmentation loss as softmax times a region-wise map.",
    epilog="Exit codes: 0 done, 1 some cases failed (they are named, the results of the others "
    "are kept), "
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


class _OutputError(RWLossError):
    """The output of a command cannot be printed."""


class _Stream:
    """A standard stream. is_lossy: text that cannot be written is dropped, and the command
    continues."""

    def __init__(self, stream: Any, *, is_lossy: bool) -> None:
        self._stream, self._is_lossy = stream, is_lossy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        self._try(self._stream.write, text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Callable[..., Any], *arguments: str) -> None:
        try:
            do(*arguments)
        except OSError as error:
            if self._is_lossy:
                return
            if error.errno == errno.EPIPE:  # such as `| head`: ends without a word
                raise
            raise _OutputError(f"standard output can't be written: {error.strerror}") from error


def main() -> None:
    """Run the program; wrong use is an error on standard error with exit code 2, no traceback.

    A closed or full standard stream does not stop the command; if output is lost, the exit code is
    1.
    """
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # closed: no other file may take its number
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    with (
        redirect_stdout(cast(Any, _Stream(sys.stdout, is_lossy=False))),
        redirect_stderr(cast(Any, _Stream(sys.stderr, is_lossy=True))),
    ):
        try:
            app()
        except RWLossError as error:
            typer.echo(f"rwloss: {error}", err=True)
            sys.exit(1 if isinstance(error, _OutputError) else 2)
