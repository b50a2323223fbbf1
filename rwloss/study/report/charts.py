"""The charts of a report, as JSON for Plotly: series of single runs, which page.js draws.

Every point knows its map, class and seed, so that the page can leave out what its reader has not
chosen, and draw means and bands of what is left. Names of data sets stand in HTML alone or are
neutralised by `plain`, for Plotly reads tags in its texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

from rwloss.study.outcomes import ClassOutcome
from rwloss.study.report.logs import Log
from rwloss.study.report.palette import looks
from rwloss.study.report.wording import decimal, significant
from rwloss.study.results import ClassTally, MapSummary, Results, RunRow, Tie
from rwloss.study.wording import INDICATORS, OUTCOMES

Key: TypeAlias = tuple[int, int | None, int | None]
"""Number of the map, number of the class, seed; None where a point is of all."""

Role: TypeAlias = Literal["line", "mean", "band", "points", "centre"]


@dataclass(frozen=True)
class Series:
    """What Plotly draws as one trace.

    role: "line" (a run over its steps), "mean" and "band" (of the lines of the same map, computed
    in the page), "points" (a run or a map each), "centre" (mean of the points of the same map).
    keys: one for a line, mean, band or centre; one for each of the points. counts: whether a line
    or point is part of means. shifts: of points off the middle of their map's row.
    """

    role: Role
    keys: tuple[Key, ...]
    plot: dict[str, Any]
    counts: tuple[bool, ...] = ()
    shifts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """One chart. heading and note stand above it; label is its text for those who can't see it.

    in_rows: the vertical axis has a row for each map. class_number: of the class it is about.
    """

    id: str
    heading: str
    label: str
    series: tuple[Series, ...]
    xaxis: dict[str, Any]
    yaxis: dict[str, Any] = field(default_factory=dict)
    in_rows: bool = False
    class_number: int | None = None
    note: str = ""
    height: int = 300


def plain(text: str, longest: int = 48) -> str:
    """A text that Plotly shows as it is: no tags, no entities, not too long.

    >>> plain("<b>a</b> & b")
    '&lt;b&gt;a&lt;/b&gt; &amp; b'
    """
    short = " ".join(text.split())
    if len(short) > longest:
        short = short[: longest - 1] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def class_names(results: Results) -> tuple[str, ...]:
    """Foreground classes, as the runs name them."""
    return tuple(dict.fromkeys(each.name for row in results.runs for each in row.outcome.classes))


class Charts:
    """The charts of one study."""

    def __init__(self, results: Results, logs: Sequence[Log]) -> None:
        """Results, and the log of every run of the study."""
        self.results, self.logs = results, logs
        self.names = list(results.study.maps)
        self.classes = class_names(results)
        self.looks = looks(self.names, results.reference)
        self.rows = {(row.map, row.seed): row for row in results.runs}
        self.seeds = list(results.study.seeds)

    def learning(self) -> list[Chart]:
        """Validation Dice over steps, a chart for each class."""
        return [
            self._curves(
                f"learning-{number}",
                heading=name,
                label=f"Validation Dice of {name} over training steps, a line for each run and "
                "the mean of each map.",
                of=partial(_dice_of, name),
                yaxis={"title": "validation Dice", "range": [-0.02, 1.02]},
                class_number=number,
            )
            for number, name in enumerate(self.classes)
        ]

    def wrong_way(self) -> list[Chart]:
        """Wrong-way mass over steps."""
        chart = self._curves(
            "wrong-way",
            heading="Wrong-way mass in training",
            label="Part of the push that goes the wrong way, over training steps.",
            of=lambda log: [(step, 100 * mass) for step, mass in log.wrong_way_mass],
            yaxis={"title": "wrong-way mass, % of the push", "rangemode": "tozero"},
        )
        return [chart] if any(log.wrong_way_mass for log in self.logs) else []

    def scores(self) -> list[Chart]:
        """Test Dice, a point for each run: of the mean over classes, and of each class."""
        charts = [
            self._scores("score-mean", "Mean over classes", None, lambda row: row.outcome.test_dice)
        ]
        for number, name in enumerate(self.classes):
            charts.append(
                self._scores(
                    f"score-{number}",
                    name,
                    number,
                    partial(_test_dice_of, name),
                )
            )
        return charts

    def births(self) -> list[Chart]:
        """The step at which each class was born, a point for each run."""
        return [self._births(number, name) for number, name in enumerate(self.classes)]

    def residuals(self) -> list[Chart]:
        """What still pushes where a class is empty, a point for each run in which one was."""
        found = [self._residuals(number, name) for number, name in enumerate(self.classes)]
        return [chart for chart in found if chart.series]

    def ties(self) -> list[Chart]:
        """Indicators against outcomes."""
        return [self._tie(number, tie) for number, tie in enumerate(self.results.ties)]

    def _curves(
        self,
        id_: str,
        *,
        heading: str,
        label: str,
        of: Callable[[Log], Sequence[tuple[int, float | None]]],
        yaxis: dict[str, Any],
        class_number: int | None = None,
    ) -> Chart:
        bands, lines, means = [], [], []
        for number, name in enumerate(self.names):
            look = self.looks[name]
            colour, dash = look.colour, look.dash
            of_map: Key = (number, class_number, None)
            line = {"color": colour, "dash": dash}
            style = {"type": "scatter", "mode": "lines"}
            band = {"fill": "toself", "fillcolor": colour, "opacity": 0.14, "hoverinfo": "skip"}
            edge = {**line, "width": 0.8 if look.round else 0}  # bands of one colour
            bands.append(Series("band", (of_map,), {**style, **band, "line": edge}))
            for log in self.logs:
                points = of(log) if log.map == name else ()
                if not points:
                    continue
                done = self.rows[name, log.seed].status == "done"
                lines.append(
                    Series(
                        "line",
                        ((number, class_number, log.seed),),
                        {
                            **style,
                            "x": [step for step, _ in points],
                            "y": [None if y is None else round(y, 5) for _, y in points],
                            "line": {**line, "width": 1, **({} if done else {"dash": "dot"})},
                            "opacity": 0.4,
                            "hoverinfo": "skip",
                        },
                        counts=(done,),
                    )
                )
            means.append(
                Series(
                    "mean",
                    (of_map,),
                    {
                        **style,
                        "line": {**line, "width": 2.5},
                        "hoverinfo": "text",
                        "name": plain(name),
                    },
                )
            )
        return Chart(
            id=id_,
            heading=heading,
            label=label,
            series=(*bands, *lines, *means),
            xaxis={"title": "training step", "rangemode": "tozero"},
            yaxis=yaxis,
            class_number=class_number,
        )

    def _scores(
        self,
        id_: str,
        heading: str,
        class_number: int | None,
        of: Callable[[RunRow], float | None],
    ) -> Chart:
        series = []
        name_of = None if class_number is None else self.classes[class_number]
        for number, name in enumerate(self.names):
            points = []
            for row in self.results.runs:
                if row.map != name or row.status not in {"done", "failed"}:
                    continue
                dice = of(row) if row.status == "done" else None
                if dice is None and row.status == "done":
                    continue
                points.append(
                    (
                        row,
                        -0.06 if dice is None else dice,
                        _score_symbol(row, name_of, self.results.reference_failures),
                        f"{name}, seed {row.seed}: "
                        + ("failed, no score" if dice is None else f"Dice {decimal(dice)}"),
                    )
                )
            series.append(self._points(number, class_number, points, counts=lambda x: x >= 0))
            series.append(
                Series(
                    "centre",
                    ((number, class_number, None),),
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "name": plain(name),
                        "marker": {
                            "symbol": "line-ns-open",
                            "size": 20,
                            "color": self.looks[name].colour,
                            "line": {"width": 3, "color": self.looks[name].colour},
                        },
                        "hoverinfo": "text",
                    },
                )
            )
        failed = any(row.status == "failed" for row in self.results.runs)
        return Chart(
            id=id_,
            heading=heading,
            label=f"Test Dice of every run by map: {heading}.",
            series=tuple(series),
            xaxis={"title": "test Dice", "range": [-0.1 if failed else -0.03, 1.03], "dtick": 0.2,
                   "tick0": 0},
            in_rows=True,
            class_number=class_number,
        )  # fmt: skip

    def _done(self, name: str, class_name: str) -> Iterator[tuple[RunRow, ClassOutcome]]:
        """The runs of a map that are done, and what became of a class in each."""
        for row in self.results.runs:
            found = _class(row, class_name)
            if row.map == name and row.status == "done" and found is not None:
                yield row, found

    def _births(self, class_number: int, class_name: str) -> Chart:
        steps, series = self.results.study.steps, []
        never = 1.5 * steps  # so far off that its tick does not meet the last step's
        for number, name in enumerate(self.names):
            points = []
            for row, found in self._done(name, class_name):
                if found.end_dice is None:
                    continue
                born, lost = found.birth_step is not None, found.collapsed
                what = f"born at step {found.birth_step}" if born else "never born"
                if born and lost:
                    what += ", died" if found.died else ", lost at the end"
                points.append(
                    (
                        row,
                        never if found.birth_step is None else found.birth_step,
                        "x" if born and lost else "circle" if born else "square-open",
                        f"{name}, seed {row.seed}: {what}",
                    )
                )
            series.append(self._points(number, class_number, points))
        return Chart(
            id=f"birth-{class_number}",
            heading=class_name,
            label=f"Step at which {class_name} was born in each run, by map.",
            series=tuple(series),
            xaxis={
                "title": "birth step",
                "range": [-0.05 * steps, 1.65 * steps],
                "tickangle": 0,
                "tickvals": [0, steps // 2, steps, never],
                "ticktext": ["0", f"{steps // 2}", f"{steps}", "never"],
            },
            in_rows=True,
            class_number=class_number,
        )

    def _residuals(self, class_number: int, class_name: str) -> Chart:
        found = [
            (number, row, each, each.residual.gradient_norm, each.residual.push_share)
            for number, name in enumerate(self.names)
            for row, each in self._done(name, class_name)
            if each.residual is not None and each.residual.gradient_norm is not None
        ]
        norms = [norm for _, _, _, norm, _ in found]
        # A logarithmic axis has no 0: it stands a decade below all others.
        least = min((norm for norm in norms if norm > 0), default=1.0)
        edge = 10.0 ** (math.floor(math.log10(least)) - 1)
        series = []
        for number, name in enumerate(self.names):
            points = [
                (
                    row,
                    norm or edge,
                    _state_symbol(each.collapsed),
                    f"{name}, seed {row.seed}: gradient {significant(norm)} of the first; "
                    f"{100 * share:.2g} % of the push at the class",
                )
                for of, row, each, norm, share in found
                if of == number
            ]
            if points:
                series.append(self._points(number, class_number, points))
        return Chart(
            id=f"residual-{class_number}",
            heading=class_name,
            label=f"Gradient that is left where {class_name} is predicted nowhere, by map.",
            series=tuple(series),
            xaxis={
                "title": "gradient left, first = 1",  # as short as a phone needs
                **_decades([x for one in series for x in one.plot["x"]]),
            },
            in_rows=True,
            class_number=class_number,
            note="0 is drawn at the left edge." if 0 in norms else "",
        )

    def _points(
        self,
        number: int,
        class_number: int | None,
        points: Sequence[tuple[RunRow, float, str, str]],
        counts: Callable[[float], bool] = lambda x: True,
    ) -> Series:
        """Points in the row of a map; seeds lie one above the other, as far as there is room."""
        places = {seed: place for place, seed in enumerate(self.seeds)}
        middle = (len(places) - 1) / 2
        return Series(
            "points",
            tuple((number, class_number, row.seed) for row, _, _, _ in points),
            {
                "type": "scatter",
                "mode": "markers",
                "x": [float(f"{x:.12g}") for _, x, _, _ in points],
                "text": [plain(text, 120) for _, _, _, text in points],
                "hoverinfo": "text",
                "marker": {
                    "symbol": [symbol for _, _, symbol, _ in points],
                    "size": 10,
                    "color": self.looks[self.names[number]].colour,
                    "line": {"width": [2 if "open" in symbol else 1 for _, _, symbol, _ in points]},
                },
            },
            counts=tuple(counts(x) for _, x, _, _ in points),
            shifts=tuple(
                round(0.5 * (places[row.seed] - middle) / max(1, middle * 2), 4)
                for row, _, _, _ in points
            ),
        )

    def _tie(self, number: int, tie: Tie) -> Chart:
        known_pairs = list(pairs(self.results, tie))
        # A logarithmic axis has no place for 0, what is below it, and infinity.
        found = [each for each in known_pairs if tie.indicator != "pull" or 0 < each[2] < math.inf]
        left_out = len(known_pairs) - len(found)
        known = [y for _, _, _, y in found if math.isfinite(y)]
        highest = max(known, default=float(self.results.study.steps))
        never = 1.25 * highest
        texts = [self._pair_text(name, label, x, y, tie) for name, label, x, y in found]
        yaxis: dict[str, Any] = {"title": OUTCOMES[tie.outcome]}
        if tie.outcome == "birth step":
            ticks = _round_ticks(highest) if known else [0]
            yaxis |= {
                "range": [-0.08 * highest, 1.45 * highest],
                "tickvals": [*ticks, never],
                "ticktext": [*(f"{tick:.10g}" for tick in ticks), "not in<br>every run"],
            }
        else:
            yaxis |= {"range": [-0.08, 1.08], "dtick": 0.5, "tick0": 0}
        largest = max((x for _, _, x, _ in found), default=0.0) or 1.0
        xaxis: dict[str, Any] = {"title": INDICATORS[tie.indicator]} | (
            _decades([x for _, _, x, _ in found])
            if tie.indicator == "pull"
            else {"range": [-0.08 * largest, 1.08 * largest], "nticks": 5}
        )
        drawn = [(x, y if math.isfinite(y) else never) for _, _, x, y in found]
        groups = _close([(_place(x, xaxis), _place(y, yaxis)) for x, y in drawn])
        series: list[Series] = []
        for (name, label, _, _), (x, y), close in zip(found, drawn, groups, strict=True):
            # Each tells of all that are close: what lies beneath can't be pointed at.
            size = _sizes(len(close))[close.index(len(series))]
            series.append(
                Series(
                    "points",
                    ((self.names.index(name), label, None),),
                    {
                        "type": "scatter",
                        "mode": "markers",
                        "x": [x],
                        "y": [y],
                        "text": ["<br>".join(plain(texts[i], 120) for i in close)],
                        "hoverinfo": "text",
                        "marker": {
                            "symbol": _CLASS_SYMBOLS[(label or 0) % len(_CLASS_SYMBOLS)]
                            + self.looks[name].sign,
                            "size": size,
                            "color": self.looks[name].colour,
                            "line": {"width": 2 if self.looks[name].round else 1},
                        },
                    },
                    counts=(True,),
                )
            )
        series.sort(key=lambda one: -one.plot["marker"]["size"])  # the small ones on top
        notes = [_correlation(tie)]
        if left_out:
            notes.append(f"Not drawn: {left_out} at 0, below, or infinite.")
        if any(len(close) > 1 for close in groups):
            notes.append("Close points are drawn inside each other, each at its place.")
        return Chart(
            id=f"tie-{number}",
            heading=f"{INDICATORS[tie.indicator]} and {OUTCOMES[tie.outcome]}",
            label=f"{INDICATORS[tie.indicator]} against {OUTCOMES[tie.outcome]}, {tie.over}.",
            series=tuple(series),
            xaxis=xaxis,
            yaxis=yaxis,
            note=" ".join(notes),
            height=260,
        )

    def _pair_text(self, name: str, label: int | None, x: float, y: float, tie: Tie) -> str:
        of = name if label is None else f"{name}, {self.classes[label]}"
        what = "not born in every run" if math.isinf(y) else f"step {y:.0f}"
        if tie.outcome == "test Dice":
            what = decimal(y)
        return f"{of}: {significant(x)} and {what}"


_CLASS_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
CLASS_SIGNS = "●◆■▲✚★"
"""The same symbols in text."""


def pairs(results: Results, tie: Tie) -> Iterator[tuple[str, int | None, float, float]]:
    """Map, number of the class (None for all), indicator and outcome: what a tie is made from."""
    numbers = {name: number for number, name in enumerate(class_names(results))}
    for each in results.whole.maps:
        found = results.indicators.get(each.map)
        if found is None or not each.done:
            continue
        if tie.over == "maps":
            outcome = _of_map(each, tie.outcome)
            if outcome is not None:
                yield each.map, None, float(getattr(found, tie.indicator)), outcome
            continue
        for tally in each.classes:
            pull = found.pull.get(tally.name)
            if pull is not None and tally.known:
                yield each.map, numbers[tally.name], pull, _of_tally(tally, tie.outcome)


def _of_map(each: MapSummary, outcome: str) -> float | None:
    if outcome == "test Dice":
        return None if each.test_dice is None else each.test_dice.mean
    return each.lost / each.lost_known if each.lost_known else None


def _of_tally(tally: ClassTally, outcome: str) -> float:
    if outcome == "collapsed":
        return tally.collapsed / tally.known
    return sum(tally.birth_steps) / tally.known if tally.born == tally.known else math.inf


def _correlation(tie: Tie) -> str:
    found = tie.correlation
    if found.rho is None or found.p is None:
        return f"No rank correlation: {found.n} {tie.over}, or all alike."
    rho = f"{found.rho:+.2f}".replace("-", "\N{MINUS SIGN}")
    return f"Rank correlation {rho}, p = {significant(found.p)}, {found.n} {tie.over}."


_NARROW = 190
"""Pixels across the narrowest chart of a tie, and down any."""

_MARKER = 11
"""Pixels across a point of a tie."""


def _place(value: float, axis: Mapping[str, Any]) -> float:
    """Where a value stands on an axis, in pixels."""
    low, high = map(float, axis["range"])
    known = math.log10(value) if axis.get("type") == "log" else value
    return _NARROW * (known - low) / (high - low)


def _sizes(count: int) -> list[float]:
    """Of points that lie inside each other, so that a ring of each is seen.

    >>> _sizes(1), _sizes(3)
    ([11], [20, 14, 8])
    """
    ring = min(6, 30 / max(1, count - 1))
    return [_MARKER] if count == 1 else [8 + ring * i for i in reversed(range(count))]


def _close(places: Sequence[tuple[float, float]]) -> list[list[int]]:
    """For each point all that hide each other with it, itself among them, in their order.

    Those less than a marker apart, and those less than one from these.

    >>> _close([(0, 0), (50, 0), (0, 9), (0, 18)])
    [[0, 2, 3], [1], [0, 2, 3], [0, 2, 3]]
    """
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        near = [one for one in groups if any(math.dist(place, places[j]) < _MARKER for j in one)]
        groups = [one for one in groups if one not in near]
        groups.append(sorted([i, *(j for one in near for j in one)]))
    return [next(one for one in groups if i in one) for i in range(len(places))]


def _round_ticks(highest: float) -> list[float]:
    """Round numbers from 0 to the highest value at most, two to four of them.

    >>> _round_ticks(233.3), _round_ticks(1200)
    ([0, 100, 200], [0.0, 500.0, 1000.0])
    """
    decade = 10 ** math.floor(math.log10(highest))
    steps = [factor * decade for factor in (0.2, 0.5, 1, 2, 5)]
    step = next(each for each in steps if highest < 4 * each)
    return [i * step for i in range(math.floor(highest / step) + 1)]


def _decades(values: Sequence[float]) -> dict[str, Any]:
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


def _class(row: RunRow, name: str) -> ClassOutcome | None:
    return next((each for each in row.outcome.classes if each.name == name), None)


def _dice_of(name: str, log: Log) -> Sequence[tuple[int, float | None]]:
    return log.dice.get(name, ())


def _test_dice_of(name: str, row: RunRow) -> float | None:
    found = _class(row, name)
    return None if found is None else found.test_dice


def _state_symbol(lost: bool | None) -> str:
    return "diamond" if lost is None else "x" if lost else "circle"


def _score_symbol(row: RunRow, name: str | None, reference_failures: Sequence[int]) -> str:
    if row.status == "failed":
        return "triangle-left-open"
    if name is None:
        lost = bool(row.outcome.lost) if row.outcome.knows_losses else None
    else:
        found = _class(row, name)
        lost = None if found is None else found.collapsed
    symbol = _state_symbol(lost)
    return f"{symbol}-open" if row.seed in reference_failures else symbol
