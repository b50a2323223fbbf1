"""The charts of indicators known before training against outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rwloss.study.figures import decimal, significant
from rwloss.study.report.charts import SIGNS, Chart, Point, decades, looks, plain
from rwloss.study.results import Results
from rwloss.study.ties import (
    INDICATORS,
    MAPS_IN_CORRELATIONS,
    OUTCOMES,
    Pair,
    Tie,
    tie_title,
)
from rwloss.words import count_of, percent

CLASS_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
CLASS_SIGNS = "●◆■▲✚★"
"""The same symbols in text."""

_NARROW = 190  # pixels across the narrowest chart, and down any
_MARKER = 11  # pixels across a point


def ties(results: Results) -> list[Chart]:
    """One chart per indicator and outcome; each point is a map, or a class of a map."""
    return [_tie(results, *each) for each in enumerate(results.ties)]


def _tie(results: Results, number: int, tie: Tie) -> Chart:
    from matplotlib.ticker import MaxNLocator

    # A logarithmic axis has no place for 0, negative values and infinity.
    is_log = tie.indicator == "pull"
    pairs = [pair for pair in tie.pairs if not is_log or 0 < pair.indicator < math.inf]
    largest = max((pair.indicator for pair in pairs), default=0.0) or 1.0
    xaxis = {"title": INDICATORS[tie.indicator]} | (
        decades([pair.indicator for pair in pairs])
        if is_log
        else {"range": [-0.08 * largest, 1.08 * largest], "nticks": 5}
    )
    known = [pair.outcome for pair in pairs if math.isfinite(pair.outcome)]
    highest = max(known, default=float(results.study.steps))
    never = 1.25 * highest
    yaxis: dict[str, Any] = {"title": OUTCOMES[tie.outcome]}
    if tie.outcome == "birth step":
        ticks = MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(0, highest) if known else [0]
        ticks = [tick for tick in ticks if tick <= highest]
        yaxis["range"] = [-0.08 * highest, 1.45 * highest]
        yaxis["tickvals"] = [*ticks, never]
        yaxis["ticktext"] = [*(f"{tick:.10g}" for tick in ticks), "not in<br>every run"]
    else:
        yaxis |= {"range": [-0.08, 1.08], "dtick": 0.5, "tick0": 0}
    heights = [pair.outcome if math.isfinite(pair.outcome) else never for pair in pairs]
    groups = _close([pair.indicator for pair in pairs], heights, xaxis, yaxis)
    texts = [plain(_pair_text(pair, tie.outcome), 120) for pair in pairs]
    maps, look = list(results.study.maps), looks(results.study.maps, results.reference)
    points = []
    for i, (pair, group) in enumerate(zip(pairs, groups, strict=True)):
        label = None if pair.class_name is None else results.class_names.index(pair.class_name)
        # Overlapping points are drawn as rings, small ones on top; the text of each lists all of
        # them.
        ring = min(6, 30 / max(1, len(group) - 1))
        points.append(
            Point(
                maps.index(pair.map),
                label,
                None,
                x=pair.indicator,
                y=heights[i],
                text="<br>".join(texts[j] for j in group),
                symbol=CLASS_SYMBOLS[(label or 0) % len(CLASS_SYMBOLS)]
                + SIGNS[look[pair.map].round],
                size=8 + ring * (len(group) - 1 - group.index(i)) if len(group) > 1 else _MARKER,
            )
        )
    notes = [_correlation(tie)]
    if len(pairs) < len(tie.pairs):
        notes.append(f"Not drawn: {len(tie.pairs) - len(pairs)} at 0, below, or infinite.")
    if any(len(group) > 1 for group in groups):
        notes.append("Overlapping points are drawn inside each other.")
    return Chart(
        f"tie-{number}",
        heading=tie_title(tie),
        label=f"{INDICATORS[tie.indicator]} against {OUTCOMES[tie.outcome]}, {tie.over}.",
        points=sorted(points, key=lambda point: -point.size),
        xaxis=xaxis,
        yaxis=yaxis,
        note=" ".join(notes),
        height=260,
    )


def _pair_text(pair: Pair, outcome: str) -> str:
    of = pair.map if pair.class_name is None else f"{pair.map}, {pair.class_name}"
    if outcome == "birth step":
        step = f"born at step {pair.outcome:.0f}"
        what = "not born in every run" if math.isinf(pair.outcome) else step
    elif outcome == "test Dice":
        what = f"Dice {decimal(pair.outcome)}"
    else:
        what = f"lost in {percent(pair.outcome)} of runs"
    return f"{of}: {significant(pair.indicator)}, {what}"


def _correlation(tie: Tie) -> str:
    found = tie.correlation
    maps = len({pair.map for pair in tie.pairs})
    if maps < MAPS_IN_CORRELATIONS:
        few = count_of(maps, "map")
        return f"No rank correlation: {few}, and fewer than {MAPS_IN_CORRELATIONS} say nothing."
    if found.rho is None:
        return f"No rank correlation: {found.n} {tie.over}, or all alike."
    rho, p = decimal(found.rho, 2, signed=True), significant(found.p)
    return f"Rank correlation {rho}, p = {p}, {found.n} {tie.over}."


def _close(
    x: Sequence[float], y: Sequence[float], xaxis: Mapping[str, Any], yaxis: Mapping[str, Any]
) -> list[list[int]]:
    """For each point, all that are less than a marker apart, directly or through other points.

    >>> axis = {"range": [0, _NARROW]}
    >>> _close([0, 50, 0, 0], [0, 0, 9, 18], axis, axis)
    [[0, 2, 3], [1], [0, 2, 3], [0, 2, 3]]
    """
    from scipy.sparse.csgraph import connected_components

    places = []  # in pixels
    for values, axis in ((x, xaxis), (y, yaxis)):
        known = np.log10(values) if axis.get("type") == "log" else np.array(values)
        places.append(_NARROW / np.ptp(axis["range"]) * known)
    near = np.hypot(*(np.subtract.outer(each, each) for each in places)) < _MARKER
    group = connected_components(near)[1].tolist() if len(x) else []
    return [[i for i, other in enumerate(group) if other == own] for own in group]
