"""The charts of a report with one point per run, in one row per map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from rwloss.study.figures import decimal, significant
from rwloss.study.outcomes import ClassOutcome, known_of
from rwloss.study.report.charts import Chart, Point, decades, fitted, headed, plain
from rwloss.study.report.curves import gradient_norm, learning, wrong_way
from rwloss.study.results import Results
from rwloss.study.summaries import RunRow


def charts_of_runs(results: Results) -> dict[str, list[Chart]]:
    """All charts of runs by section; one per class, and others where there is something to show."""
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
            *(other_scores(results, metric) for metric in results.directions() if metric != "dice"),
        ],
        "learning": [learning(results, *each) for each in classes],
        "births": [_births(results, *each) for each in classes],
        "residuals": [chart for chart in residuals if chart.points],
        "wrong_way": [chart for chart in (wrong_way(results),) if chart.lines],
        "gradient_norm": [chart for chart in (gradient_norm(results),) if chart.lines],
    }


_Mark: TypeAlias = tuple[float, str, str]
"""Position of a run in its row, its symbol, and its text."""


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

    points = _points(results, number, mark)
    xaxis = {"range": [-0.1, 1.03], "dtick": 0.2, "tick0": 0}  # failed runs stand left of 0
    if not any(row.status == "failed" for row in results.runs):
        xaxis = fitted([point.x for point in points])
    return Chart(
        f"score-{'mean' if number is None else number}",
        heading=name,
        label=f"Test Dice of every run by map: {name}.",
        points=points,
        xaxis={"title": "test Dice", **xaxis},
        in_rows=True,
        has_means=True,
        class_number=number,
    )


def other_scores(results: Results, metric: str) -> Chart:
    """A test score of every run, mean over classes."""
    name, title = results.title(metric), results.titled(metric)

    def mark(row: RunRow) -> _Mark | None:
        value = row.outcome.tested(metric) if row.status == "done" else None
        if value is None:
            return None
        lost = bool(row.outcome.lost) if row.outcome.knows_losses else None
        return value, _symbol(lost), f"{name} {significant(value)}"

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
    """The remaining gradient where a class is predicted nowhere."""
    left = [each.residual for row in results.runs if (each := _class(row, name)) and each.residual]
    norms = known_of(each.gradient_norm for each in left)
    # A logarithmic axis has no 0: it is drawn one decade below all others.
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
        label=f"Remaining gradient where {name} is predicted nowhere, by map.",
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
    """One point per run with a mark; seeds are spread over the height of a row."""
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
    """The outcome of a class in a finished run."""
    classes = row.outcome.classes if row.status == "done" else ()
    return next((each for each in classes if each.name == name), None)


def _symbol(lost: bool | None) -> str:
    return "diamond" if lost is None else "x" if lost else "circle"
