"""Charts and table of stability: over learning rates, and until each class is born."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rwloss.study.axes import named
from rwloss.study.figures import NOTHING, left_open
from rwloss.study.rates import BirthCurve
from rwloss.study.report.charts import STEPS, BandedLine, Chart, plain
from rwloss.study.report.tables import Cell, Table, TableRow, axis_cells, axis_titles
from rwloss.study.results import Results
from rwloss.study.stability_profile import StabilityProfile
from rwloss.words import percent

_SHARE: dict[str, Any] = {"range": [-0.03, 1.03], "dtick": 0.25, "tick0": 0}


def profile_charts(results: Results) -> Iterator[Chart]:
    """Charts of the share of runs that keep every class, one per combination of other axes."""
    maps = list(results.study.maps)
    groups = groupby(results.profiles, key=lambda each: each.values)
    for number, (values, group) in enumerate(groups):
        found = [each for each in group if each.kept]
        if not found:
            continue
        rates = [rate for each in found for rate in each.learning_rates]
        heading = "Runs that keep every class" + (f", {named(values)}" if values else "")
        yield Chart(
            f"profile-{number}",
            heading=heading,
            label=f"{heading}: their share over learning rates, a line for each map.",
            banded=[_profile(each, maps.index(each.map)) for each in found],
            xaxis={
                "title": "learning rate",
                "type": "log",
                "range": [math.log10(min(rates)) - 0.1, math.log10(max(rates)) + 0.1],
                "tickvals": sorted({*rates}),
                "ticktext": [f"{rate:g}" for rate in sorted({*rates})],
            },
            yaxis={"title": "share of runs", **_SHARE},
        )


def _profile(profile: StabilityProfile, number: int) -> BandedLine:
    texts = [
        plain(f"{profile.map}, {x:g}: {kept.count} of {kept.of} runs ({left_open(kept)})", 120)
        for x, kept in zip(profile.learning_rates, profile.kept, strict=True)
    ]
    return BandedLine(
        number,
        profile.learning_rates,
        y=[kept.share for kept in profile.kept],
        low=[kept.low for kept in profile.kept],
        high=[kept.high for kept in profile.kept],
        texts=texts,
    )


def birth_charts(results: Results) -> Iterator[Chart]:
    """Charts of the share of runs in which a class is not born yet, one per class."""
    for number, name in enumerate(results.class_names):
        found = [
            _births(tally.births, place, each.map, results.study.steps)
            for place, each in enumerate(results.whole.maps)
            for tally in each.classes
            if tally.name == name and tally.births is not None
        ]
        if found:
            yield Chart(
                f"not-born-{number}",
                heading=name,
                label=f"Share of runs in which {name} is not born yet, over training steps.",
                banded=found,
                xaxis=STEPS,
                yaxis={"title": "not born yet", **_SHARE},
                class_number=number,
            )


def _births(curve: BirthCurve, number: int, name: str, last: int) -> BandedLine:
    """A curve, drawn to the last step of the runs; it ends when the class is born in every run."""
    steps, share, low, high = (
        [*each, end] if last > curve.steps[-1] else [*each]
        for each, end in (
            (curve.steps, last),
            (curve.share, curve.share[-1]),
            (curve.low, curve.low[-1]),
            (curve.high, curve.high[-1]),
        )
    )
    texts = [
        plain(f"{name}, step {x}: {percent(y)} not born", 120)
        for x, y in zip(steps, share, strict=True)
    ]
    return BandedLine(number, steps, share, low, high, texts, in_steps=True)


def profiles_table(results: Results) -> Table:
    """The table of every map with each combination of other axes: decades, and the shares."""
    names, rates = list(results.study.maps), results.study.axes.get("learning_rate", ())
    rows = []
    for each in results.profiles:
        kept = dict(zip(each.learning_rates, each.kept, strict=True))
        wide = each.decades
        cells = [
            Cell(each.map, each.map),
            *axis_cells(results.study, each.values),
            Cell(NOTHING)
            if wide is None
            else Cell(f"{wide.mean:.2f}", wide.mean, f"{wide.low:.2f} to {wide.high:.2f}"),
        ]
        for rate in rates:
            if (found := kept.get(rate)) is None:
                cells.append(Cell(NOTHING))
            else:
                text = f"{found.count} of {found.of}"
                bad = found.count < found.of
                cells.append(Cell(text, found.share, left_open(found), is_bad=bad))
        rows.append(TableRow(tuple(cells), names.index(each.map)))
    others = results.profiles[0].values if results.profiles else ()
    columns = {"map": "", **axis_titles(others), "decades": "decades"}
    return Table(
        "profiles",
        "Runs that keep every class by learning rate, and decades of it over which at least 95 % "
        "of runs do.",
        columns | {f"{rate:g}": "interval" for rate in rates},
        tuple(rows),
    )
