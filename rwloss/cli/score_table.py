"""Scores as a table: each mean with its number of cases, and the cases that are not in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rwloss.cli.listing import print_table

if TYPE_CHECKING:
    from rwloss.training.scores import ClassSummary, Statistic

_HEAD = ("class", "score", "mean", "std", "median", "n", "missed", "false alarms", "in neither")


def print_scores(summary: Iterable[ClassSummary], unit: str) -> None:
    """Print three rows per class. unit: of the distances, "mm" or "voxels"."""
    print_table([_HEAD, *(row for each in summary for row in _rows(each, unit))])


def _rows(summary: ClassSummary, unit: str) -> list[list[str]]:
    counts = [f"{n:,}" for n in (summary.missed, summary.false_alarms, summary.empty)]
    return [
        [summary.name, "Dice", *_cells(summary.dice, 3), *counts],
        ["", f"HD95 {unit}", *_cells(summary.hd95_mm, 2), *counts],
        ["", f"ASSD {unit}", *_cells(summary.assd_mm, 2), *counts],
    ]


def _cells(values: Statistic, digits: int) -> list[str]:
    """Mean, standard deviation, median and n."""
    figures = (values.mean, values.std, values.median)
    shown = ["-" if figure is None else f"{figure:.{digits}f}" for figure in figures]
    return [*shown, f"{values.n:,}"]
