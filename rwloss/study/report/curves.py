"""The charts of a report that show runs over their training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from rwloss.study.outcomes import Curve, known_of
from rwloss.study.report.charts import STEPS, Chart, Line, decades
from rwloss.study.results import Results

MOST_POINTS = 150
"""Most points of a line, more than a chart of this width can show."""

TWO_MODES = 0.2
"""Gap in validation Dice between two groups of runs above which their mean says nothing."""


def learning(results: Results, number: int, name: str) -> Chart:
    """Validation Dice of a class."""
    lines = _lines(results, [row.outcome.log.dice.get(name, ()) for row in results.runs])
    split = [
        each
        for each in range(len(results.study.maps))
        if has_two_modes(known_of(one.y[-1] for one in lines if one.map == each and one.done))
    ]
    return Chart(
        f"learning-{number}",
        heading=name,
        label=f"Validation Dice of {name} over training steps, a line for each run and the mean of "
        "each map.",
        lines=lines,
        without_mean=split,
        xaxis=STEPS,
        yaxis={"title": "validation Dice", "range": [-0.02, 1.02]},
        class_number=number,
    )


def has_two_modes(ends: Sequence[float]) -> bool:
    """Whether the mean misleads: the end values have too wide a gap, so no run ends near it.

    Too wide: more than half of their range, and more than TWO_MODES.

    >>> has_two_modes([0.0, 0.01, 0.8, 0.82]), has_two_modes([0.5, 0.6, 0.7])
    (True, False)
    """
    ranked = sorted(ends)
    gaps = [high - low for low, high in pairwise(ranked)]
    return bool(gaps) and max(gaps) > max(TWO_MODES, (ranked[-1] - ranked[0]) / 2)


def gradient_norm(results: Results) -> Chart:
    """The norm of the gradient with respect to all weights."""
    lines = _lines(results, [row.outcome.log.gradient_norm for row in results.runs])
    norms = [norm for line in lines for norm in known_of(line.y)]
    # A logarithmic axis has no 0.
    lines = [replace(one, y=[norm or None for norm in one.y]) for one in lines]
    return Chart(
        "gradient-norm",
        heading="Gradient norm in training",
        label="Norm of the gradient with respect to all weights, over training steps.",
        lines=lines,
        xaxis=STEPS,
        yaxis={"title": "norm of the gradient", **decades(norms)},
    )


def wrong_way(results: Results) -> Chart:
    """The share of the push that goes the wrong way."""
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
        yaxis={
            "title": "wrong-way mass, % of the push",
            "rangemode": "tozero",
            "exponentformat": "e",  # not 600µ %
        },
    )


def _lines(results: Results, curves: Sequence[Curve]) -> list[Line]:
    """The curve of each run. All are thinned to the same steps, because means need common steps."""
    numbers = list(results.study.maps)
    stride = max(1, -(-max(map(len, curves), default=0) // MOST_POINTS))
    lines = []
    for row, curve in zip(results.runs, curves, strict=True):
        last = len(curve) - 1  # always kept: it is the end of the run
        kept = [point for i, point in enumerate(curve) if i % stride == 0 or i == last]
        x, y = (
            [step for step, _ in kept],
            [None if v is None else float(f"{v:.5g}") for _, v in kept],
        )
        if kept:
            lines.append(Line(numbers.index(row.map), row.seed, row.status == "done", x, y))
    return lines
