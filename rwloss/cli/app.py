"""The `rwloss` program: its commands, and what a user sees when something is wrong."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rwloss._version import __version__
from rwloss.cli.check import check
from rwloss.cli.compare import compare
from rwloss.cli.demo import demo
from rwloss.cli.evaluate import evaluate
from rwloss.cli.maps import maps
from rwloss.cli.nnunet_path import nnunet_path
from rwloss.cli.precompute import precompute
from rwloss.cli.predict import predict
from rwloss.cli.report import report
from rwloss.cli.show import show
from rwloss.cli.train import train
from rwloss.cli.verify import verify
from rwloss.errors import RWLossError

app = typer.Typer(
    name="rwloss",
    help="Every segmentation loss as softmax times a region-wise map.",
    epilog="Exit codes: 0 done, 1 some cases failed (each named, the others kept), 2 wrong use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    precompute,
    verify,
    maps,
    check,
    show,
    predict,
    evaluate,
    demo,
    train,
    compare,
    report,
    nnunet_path,
):
    app.command()(command)


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
    """Run the program; errors of use go to standard error with exit code 2, without a traceback."""
    try:
        app()
    except RWLossError as error:
        typer.echo(f"rwloss: {error}", err=True)
        sys.exit(2)
