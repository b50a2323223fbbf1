"""Tables and sizes in the output; file names cannot garble the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.training.scores import ClassSummary, Statistic

_HEAD = ("class", "score", "mean", "std", "median", "n", "missed", "false alarms", "in neither")


def size_of(number: int) -> str:
    """Bytes in MiB, with two digits or more.

    >>> size_of(300_000), size_of(3_000_000_000)
    ('0.29 MiB', '2,861 MiB')
    """
    size = number / 2**20
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{size:,.{digits}f} MiB"


def printable(text: str) -> str:
    r"""Text on one line, with control characters (of file names) as escapes.

    >>> print(printable("a\n\x1b[31mb"))
    a\n\x1b[31mb
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def print_table(rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Print rows in aligned columns; on a terminal the last column is wrapped.

    err: on standard error.
    """
    # Messages of other libraries may have several lines; names keep each space.
    safe = [[*map(printable, row[:-1]), printable(" ".join(row[-1].split()))] for row in rows]
    if (sys.stderr if err else sys.stdout).isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for row in safe:
            table.add_row(*map(Text, row))  # Text: brackets in names are no markup
        Console(stderr=err, highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    for row in safe:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]), err=err)


def print_failures(failed: Sequence[tuple[str, str]], cases: int) -> None:
    """Print the cases that failed, each with its reason, on standard error. cases: number of
    all."""
    if failed:
        typer.echo(f"{len(failed):,} of {count_of(cases, 'case')} failed:", err=True)
        print_table(failed, err=True)


def print_in_voxels(cases: int) -> None:
    """Print that distances are in voxels in this many cases; nothing if there are none."""
    if cases:
        typer.echo(
            f"{count_of(cases, 'case')} without a spacing: distances are in voxels; give "
            "--spacing for mm."
        )


def print_scores(summary: Iterable[ClassSummary], unit: str) -> None:
    """Print a row per class and metric. unit: of the distances, "mm" or "voxels"."""
    print_table([_HEAD, *(row for each in summary for row in _rows(each, unit))])


def _rows(summary: ClassSummary, unit: str) -> Iterator[list[str]]:
    from rwloss.metrics import find

    counts = [f"{n:,}" for n in (summary.missed, summary.false_alarms, summary.empty)]
    name = summary.name
    for each, values in summary.values.items():
        metric = find(each)
        title = f"{metric.title} {unit}" if metric.is_distance else metric.title
        digits = 3 if metric.range == "0 to 1" else 2
        yield [name, title, *_cells(values, digits), *counts]
        name = ""


def _cells(values: Statistic, digits: int) -> list[str]:
    """Mean, standard deviation, median and n."""
    figures = (values.mean, values.std, values.median)
    shown = ["-" if figure is None else f"{figure:.{digits}f}" for figure in figures]
    return [*shown, f"{values.n:,}"]
