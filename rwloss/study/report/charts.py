"""The charts of a report: lines and points of single runs with their axes, drawn by page.js.

Each line and point records its map, class and seed, so that the page can hide unselected ones, and
draw means and bands of the others. Plotly interprets tags in its texts, so names from a dataset are
put in HTML or escaped by `plain`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rwloss.study.axes import named
from rwloss.study.results import Results

REFERENCE = "#7d7d7d"
"""Gray, for the reference."""

# Okabe & Ito's colors, which are distinct in every common form of color blindness, palest last.
# Each has a contrast of 3 or more on one of the page's two backgrounds, and of 2 on the other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "9px,9px", "9px,3px,3px,3px", "15px,6px,3px,6px")
"""Dash patterns of lines for Plotly and SVG: the next one is used after all colors. Dotted lines
are unfinished runs."""

SIGNS = ("", "-open", "-dot", "-open-dot")
"""The same for points: endings of the names of Plotly's symbols."""


class Look(NamedTuple):
    """How a map is drawn: its color, and the index of its dash in DASHES and sign in SIGNS."""

    colour: str
    round: int = 0


def looks(names: Iterable[str], reference: str | None) -> dict[str, Look]:
    """The look of each map; up to 24 maps and the reference all look different.

    >>> looks(["boundary", "dice_ce"], "dice_ce")
    {'boundary': Look(colour='#0072B2', round=0), 'dice_ce': Look(colour='#7d7d7d', round=0)}
    """
    found: dict[str, Look] = {}
    for name in names:
        round_, index = divmod(len(found.keys() - {reference}), len(COLOURS))
        other = Look(COLOURS[index], round_ % len(DASHES))
        found[name] = Look(REFERENCE) if name == reference else other
    return found


@dataclass(frozen=True)
class Line:
    """A run over its steps. map: its number. done: whether it is part of means."""

    map: int
    seed: int
    done: bool
    x: Sequence[int]
    y: Sequence[float | None]


@dataclass(frozen=True)
class BandedLine:
    """A number of a map with its band. texts: shown at each x. in_steps: constant between steps."""

    map: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    texts: Sequence[str]
    in_steps: bool = False


@dataclass(frozen=True)
class Point:
    """A run, a map or a class of a map. class_number, seed: None if it covers all.

    y: where maps have rows, the distance from the middle of the row. text: shown at the point.
    counts: whether it is part of the mean.
    """

    map: int
    class_number: int | None
    seed: int | None
    x: float
    y: float
    text: str
    symbol: str
    size: float = 10
    counts: bool = True


@dataclass(frozen=True)
class Span:
    """An interval in the row of a map."""

    map: int
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """One chart. heading and note are above it; label is its alternative text for screen readers.

    in_rows: the vertical axis has a row for each map. has_means: a bar marks the mean of the points
    of a map. class_number: of the class that it is about. spans: intervals beside the points.
    of_others: the reference has no row. without_mean: maps whose mean lies between two groups.
    """

    id: str
    heading: str
    label: str
    xaxis: dict[str, Any]
    yaxis: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[Line] = ()
    banded: Sequence[BandedLine] = ()
    points: Sequence[Point] = ()
    in_rows: bool = False
    has_means: bool = False
    spans: Sequence[Span] = ()
    of_others: bool = False
    without_mean: Sequence[int] = ()
    class_number: int | None = None
    note: str = ""
    height: int = 300


def plain(text: str, longest: int = 48) -> str:
    """A text that Plotly shows literally: no tags, no entities, not too long.

    >>> plain("<b>a</b> & b")
    '&lt;b&gt;a&lt;/b&gt; &amp; b'
    """
    short = " ".join(text.split())
    return html.escape(short if len(short) <= longest else short[: longest - 1] + "…", quote=False)


def headed(chart: Chart, part: Results, number: int) -> Chart:
    """The chart of one part of a study with axes, with its values as heading and its own id."""
    if not part.values:
        return chart
    values = named(part.values)
    return replace(
        chart,
        id=f"{chart.id}-at-{number}",
        heading=f"{chart.heading}, {values}",
        label=f"{chart.label} With {values}.",
    )


STEPS = {"title": "training step", "rangemode": "tozero"}


def fitted(values: Sequence[float]) -> dict[str, Any]:
    """An axis of scores in 0..1 that covers the values with a margin.

    >>> fitted([0.7, 0.8])
    {'range': [0.68, 0.82], 'nticks': 6}
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(0.02, 0.05 * (high - low))
    ends = max(-0.03, low - room), min(1.03, high + room)
    return {"range": [round(end, 4) for end in ends], "nticks": 6}


def decades(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with two to four ticks at powers of ten, away from its ends."""
    known = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    low, high = math.floor(min(known)), math.ceil(max(known) + 0.01)
    return {
        "type": "log",
        "range": [low - 0.15, high + 0.15],
        "dtick": math.ceil((high - low) / 3),
        "tickangle": 0,
        "exponentformat": "power",
    }
