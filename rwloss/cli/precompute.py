"""`rwloss precompute`: maps for a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwloss.cli.options import IgnoreLabel, MapText, NumClasses, Spacing, parse_spacing

if TYPE_CHECKING:
    from rwloss.precompute import Outcome, Summary


def precompute(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="An nnU-Net raw folder, or a folder or glob of label files (NIfTI, PNG, TIFF, "
            "NumPy; MHA and NRRD with SimpleITK).",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the maps.")],
    map_text: MapText,
    num_classes: NumClasses = None,
    spacing: Spacing = None,
    ignore_label: IgnoreLabel = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Worker processes; one a core by default.")
    ] = None,
) -> None:
    """Make the maps of a data set once; train with them as often as you like.

    Maps that are there already, of the same labels and whole, are kept: run the same command again
    to go on. A case that fails is named, and the others are done.
    """
    from rwloss.precompute import precompute as run

    with _progress() as progress:
        summary = run(
            source,
            out,
            map_text,
            num_classes=num_classes,
            spacing_mm=parse_spacing(spacing),
            ignore_label=ignore_label,
            jobs=jobs,
            progress=progress,
        )
    _report(summary)
    if summary.failed:
        raise typer.Exit(1)


def _report(summary: Summary) -> None:
    kept = f", {summary.kept} kept from an earlier run" if summary.kept else ""
    typer.echo(
        f"{summary.made} maps of {summary.expression} made{kept} in {summary.seconds:.1f} s: "
        f"{summary.folder}"
    )
    if summary.expression != summary.asked:
        typer.echo(
            f"These are the static part of {summary.asked}: links, schedules and terms that depend "
            "on the prediction are computed in training"
        )
    for outcome in summary.failed:
        typer.echo(f"failed: {outcome.case}: {outcome.reason}", err=True)
    if summary.failed:
        total = len(summary.outcomes)
        typer.echo(f"{len(summary.failed)} of {total} cases failed; the others are done", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[Outcome, int], None]]:
    """A bar on a terminal, a plain line now and then elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("maps", total=None)
        yield lambda _, total: bar.update(task, advance=1, total=total)


class _PlainLines:
    """A line for each tenth of the work: a log file is no place for a bar."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, outcome: Outcome, total: int) -> None:
        """Count one case."""
        self.done += 1
        if self.done * 10 // total > (self.done - 1) * 10 // total:
            typer.echo(f"{self.done} of {total} cases", err=True)
