"""The charts of a report: lines and points of single runs with their axes, drawn by page.js.

Each line and point knows its map, class and seed, so that the page can leave out what its reader
has not chosen, and draw means and bands of the rest. Plotly reads tags in its texts, so names of a
dataset stand in HTML or are made harmless by `plain`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from rwloss.study.axes import named
from rwloss.study.figures import decimal, significant
from rwloss.study.outcomes import METRICS, SCORES, ClassOutcome, Curve, known_of
from rwloss.study.results import Results
from rwloss.study.summaries import RunRow

MOST_POINTS = 150
"""Most points of a line: more than a chart of this width can show."""

REFERENCE = "#7d7d7d"
"""Grey, for the map that the others are compared with."""

# Okabe & Ito's colours, told apart with every common form of colour blindness, the palest last.
# Each has a contrast of 3 or more on one of the page's two backgrounds, and of 2 on the other.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "9px,9px", "9px,3px,3px,3px", "15px,6px,3px,6px")
"""Of lines, as Plotly and SVG read them: the next one when all colours have been used. Dotted lines
are runs that are not done."""

SIGNS = ("", "-open", "-dot", "-open-dot")
"""The same for points: endings of the names of Plotly's symbols."""


class Look(NamedTuple):
    """How a map is drawn: its colour, and the number of its dash in DASHES and sign in SIGNS."""

    colour: str
    round: int = 0


def looks(names: Iterable[str], reference: str | None) -> dict[str, Look]:
    """The look of each map; up to 24 maps beside the reference all look different.

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
    """A figure of a map with its band. texts: shown at each x. in_steps: constant between."""

    map: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    texts: Sequence[str]
    in_steps: bool = False


@dataclass(frozen=True)
class Point:
    """A run, a map or a class of a map. class_number, seed: None where it is of all.

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
    """One chart. heading and note stand above it; label is its text for those who can't see it.

    in_rows: the vertical axis has a row for each map. has_means: a bar marks the mean of the points
    of a map. class_number: of the class that it is about. spans: intervals beside the points.
    of_others: the reference has no row.
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
    class_number: int | None = None
    note: str = ""
    height: int = 300


def plain(text: str, longest: int = 48) -> str:
    """A text that Plotly shows as it is: no tags, no entities, not too long.

    >>> plain("<b>a</b> & b")
    '&lt;b&gt;a&lt;/b&gt; &amp; b'
    """
    short = " ".join(text.split())
    return html.escape(short if len(short) <= longest else short[: longest - 1] + "…", quote=False)


def headed(chart: Chart, part: Results, number: int) -> Chart:
    """The chart of a part of a study with axes: headed by its values, and with an id of its own."""
    if not part.values:
        return chart
    values = named(part.values)
    return replace(
        chart,
        id=f"{chart.id}-at-{number}",
        heading=f"{chart.heading}, {values}",
        label=f"{chart.label} With {values}.",
    )


def charts_of_runs(results: Results) -> dict[str, list[Chart]]:
    """All charts of runs by their section; one for each class, and what else there is to show."""
    found: dict[str, list[Chart]] = {}
    for number, part in enumerate(results.conditions):
        for section, charts in _of_condition(part).items():
            found.setdefault(section, []).extend(headed(each, part, number) for each in charts)
    return found


def _of_condition(results: Results) -> dict[str, list[Chart]]:
    classes = [*enumerate(results.class_names)]
    residuals = [_residuals(results, *each) for each in classes]
    return {
        "scores": [
            *(_scores(results, *each) for each in ((None, "Mean over classes"), *classes)),
            *(_other_scores(results, metric) for metric in METRICS if metric != "dice"),
        ],
        "learning": [_learning(results, *each) for each in classes],
        "births": [_births(results, *each) for each in classes],
        "residuals": [chart for chart in residuals if chart.points],
        "wrong_way": [chart for chart in (_wrong_way(results),) if chart.lines],
    }


# --- Curves over training steps

STEPS = {"title": "training step", "rangemode": "tozero"}


def _learning(results: Results, number: int, name: str) -> Chart:
    return Chart(
        f"learning-{number}",
        heading=name,
        label=f"Validation Dice of {name} over training steps, a line for each run and the mean of "
        "each map.",
        lines=_lines(results, [row.outcome.log.dice.get(name, ()) for row in results.runs]),
        xaxis=STEPS,
        yaxis={"title": "validation Dice", "range": [-0.02, 1.02]},
        class_number=number,
    )


def _wrong_way(results: Results) -> Chart:
    curves = [
        [(step, mass and 100 * mass) for step, mass in row.outcome.log.wrong_way_mass]
        for row in results.runs
    ]
    return Chart(
        "wrong-way",
        heading="Wrong-way mass in training",
        label="Share of the push that goes the wrong way, over training steps.",
        lines=_lines(results, curves),
        xaxis=STEPS,
        yaxis={"title": "wrong-way mass, % of the push", "rangemode": "tozero"},
    )


def _lines(results: Results, curves: Sequence[Curve]) -> list[Line]:
    """The curve of each run. All are thinned alike, because means are of steps that all have."""
    numbers = list(results.study.maps)
    stride = max(1, -(-max(map(len, curves), default=0) // MOST_POINTS))
    lines = []
    for row, curve in zip(results.runs, curves, strict=True):
        last = len(curve) - 1  # always kept: it is the end of the run
        kept = [point for i, point in enumerate(curve) if i % stride == 0 or i == last]
        x, y = [step for step, _ in kept], [None if v is None else round(v, 5) for _, v in kept]
        if kept:
            lines.append(Line(numbers.index(row.map), row.seed, row.status == "done", x, y))
    return lines


# --- A point for each run, in a row for each map

_Mark: TypeAlias = tuple[float, str, str]
"""Where a run stands in its row, its symbol, and what is said of it."""


def _scores(results: Results, number: int | None, name: str) -> Chart:
    """Test Dice of a class, or its mean over classes."""

    def mark(row: RunRow) -> _Mark | None:
        if row.status == "failed":
            return -0.06, "triangle-left-open", "failed, no score"
        if number is not None:
            found = _class(row, name)
            dice, lost = (found.test_dice, found.collapsed) if found else (None, None)
        else:
            dice = row.outcome.test_dice if row.status == "done" else None
            lost = bool(row.outcome.lost) if row.outcome.knows_losses else None
        if dice is None:
            return None
        ending = "-open" if row.reference_failed else ""
        return dice, _symbol(lost) + ending, f"Dice {decimal(dice)}"

    left = -0.1 if any(row.status == "failed" for row in results.runs) else -0.03
    return Chart(
        f"score-{'mean' if number is None else number}",
        heading=name,
        label=f"Test Dice of every run by map: {name}.",
        points=_points(results, number, mark),
        xaxis={"title": "test Dice", "range": [left, 1.03], "dtick": 0.2, "tick0": 0},
        in_rows=True,
        has_means=True,
        class_number=number,
    )


def _other_scores(results: Results, metric: str) -> Chart:
    """Another score of the test than Dice, mean over classes."""
    unit = "" if METRICS[metric] else f", {results.distance_unit}"
    title = f"{SCORES[metric]}{unit}"

    def mark(row: RunRow) -> _Mark | None:
        value = row.outcome.tested(metric) if row.status == "done" else None
        if value is None:
            return None
        lost = bool(row.outcome.lost) if row.outcome.knows_losses else None
        return value, _symbol(lost), f"{SCORES[metric]} {significant(value)}"

    return Chart(
        f"score-{metric}",
        heading=f"{title}: mean over classes",
        label=f"{title} of every run by map, mean over classes.",
        points=_points(results, None, mark),
        xaxis={"title": title, "rangemode": "tozero"},
        in_rows=True,
        has_means=True,
    )


def _births(results: Results, number: int, name: str) -> Chart:
    """The step at which a class was born."""
    steps = results.study.steps
    never = 1.5 * steps  # so far off that its tick does not meet the last step's

    def mark(row: RunRow) -> _Mark | None:
        found = _class(row, name)
        if found is None or found.end_dice is None:
            return None
        if found.birth_step is None:
            return never, "square-open", "never born"
        end = (", died" if found.died else ", lost at the end") if found.collapsed else ""
        return found.birth_step, _symbol(found.collapsed), f"born at step {found.birth_step}{end}"

    return Chart(
        f"birth-{number}",
        heading=name,
        label=f"Step at which {name} was born in each run, by map.",
        points=_points(results, number, mark),
        xaxis={
            "title": "birth step",
            "range": [-0.05 * steps, 1.65 * steps],
            "tickangle": 0,
            "tickvals": [0, steps // 2, steps, never],
            "ticktext": ["0", f"{steps // 2}", f"{steps}", "never"],
        },
        in_rows=True,
        class_number=number,
    )


def _residuals(results: Results, number: int, name: str) -> Chart:
    """The gradient that is left where a class is predicted nowhere."""
    left = [each.residual for row in results.runs if (each := _class(row, name)) and each.residual]
    norms = known_of(each.gradient_norm for each in left)
    # A logarithmic axis has no 0: it stands a decade below all others.
    least = min((norm for norm in norms if norm > 0), default=1.0)
    edge = 10.0 ** (math.floor(math.log10(least)) - 1)

    def mark(row: RunRow) -> _Mark | None:
        found = _class(row, name)
        if found is None or found.residual is None or found.residual.gradient_norm is None:
            return None
        norm, share = found.residual.gradient_norm, found.residual.push_share
        what = f"gradient {significant(norm)} of the first; {significant(share and 100 * share)} %"
        return norm or edge, _symbol(found.collapsed), f"{what} of the push at the class"

    points = _points(results, number, mark)
    return Chart(
        f"residual-{number}",
        heading=name,
        label=f"Gradient that is left where {name} is predicted nowhere, by map.",
        points=points,
        # A phone has no room for a longer title.
        xaxis={"title": "gradient left, first = 1", **decades([point.x for point in points])},
        in_rows=True,
        class_number=number,
        note="0 is drawn at the left edge." if 0 in norms else "",
    )


def _points(
    results: Results, number: int | None, mark: Callable[[RunRow], _Mark | None]
) -> list[Point]:
    """A point for each run that has a mark; seeds are spread over the height of a row."""
    maps, seeds = list(results.study.maps), results.repeats
    middle = (len(seeds) - 1) / 2
    points = []
    for row in results.runs:
        if (found := mark(row)) is not None:
            x, symbol, what = found
            points.append(
                Point(
                    maps.index(row.map),
                    number,
                    row.seed,
                    x=float(f"{x:.12g}"),
                    y=round(0.5 * (seeds.index(row.repeat) - middle) / max(1, middle * 2), 4),
                    text=plain(f"{row.map}, seed {row.repeat}: {what}", 120),
                    symbol=symbol,
                    counts=row.status == "done",
                )
            )
    return points


def _class(row: RunRow, name: str) -> ClassOutcome | None:
    """The outcome of a class in a run that is done."""
    classes = row.outcome.classes if row.status == "done" else ()
    return next((each for each in classes if each.name == name), None)


def _symbol(lost: bool | None) -> str:
    return "diamond" if lost is None else "x" if lost else "circle"


def decades(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at powers of ten, two to four of them, off its ends."""
    known = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    low, high = math.floor(min(known)), math.ceil(max(known) + 0.01)
    return {
        "type": "log",
        "range": [low - 0.15, high + 0.15],
        "dtick": math.ceil((high - low) / 3),
        "tickangle": 0,
        "exponentformat": "power",
    }
