"""Differences from the reference in every test score: the table and the forest plots."""

from __future__ import annotations

from collections.abc import Iterator

from rwloss.study.axes import kept_apart
from rwloss.study.differences import Difference
from rwloss.study.figures import NOTHING, bounds, decimal, significant
from rwloss.study.report.charts import Chart, Point, Span, plain
from rwloss.study.report.tables import (
    Cell,
    Table,
    TableRow,
    axis_cells,
    axis_titles,
    interval_cell,
    share_cell,
)
from rwloss.study.results import Results
from rwloss.study.summaries import StudyPart


def differences_table(results: Results, part: StudyPart, which: str) -> Table:
    """The table of every map against the reference in every score, with intervals and tests."""
    names = list(results.study.maps)
    rows = []
    for each in part.differences:
        found = each.comparison
        verdict = "significant" if found.significant else "not significant"
        if not found.can_claim:
            verdict = "too few seeds to claim anything"
        cells = (
            Cell(found.map, found.map),
            *axis_cells(results.study, found.values),
            score_cell(results, each.metric),
            interval_cell(found.difference, signed=True),
            _bounds(each),
            share_cell(each.improvement),
            Cell(significant(each.false_claim), each.false_claim),
            Cell(significant(found.corrected_p), found.corrected_p),
            Cell(verdict, verdict),
        )
        rows.append(TableRow(cells, names.index(found.map)))
    return Table(
        f"differences-{which}",
        f"Difference from {results.reference} in every test score. {results.about_scores()}",
        {
            "map": "", **axis_titles(kept_apart(results.study.axes)),
            "score": "score", "difference": "difference", "over cases too": "over-cases",
            "P(better)": "improvement", "P(claim false)": "false-claim",
            "corrected p": "corrected-p", "verdict": "",
        },
        tuple(rows),
        which,
    )  # fmt: skip


def forest_charts(results: Results) -> Iterator[Chart]:
    """The paired differences of every seed, one chart per score."""
    names = list(results.study.maps)
    for metric, higher in results.directions().items():
        of_metric = [each for each in results.whole.differences if each.metric == metric]
        points = [point for each in of_metric for point in _points(each, names)]
        if not points:
            continue
        title = results.titled(metric)
        yield Chart(
            f"forest-{metric}",
            heading=f"{results.title(metric)}: difference from {results.reference}",
            label=f"Difference in {title} from {results.reference} for each seed, by map, with the "
            "mean and its interval.",
            points=points,
            spans=[
                Span(names.index(each.comparison.map), found.low, found.high)
                for each in of_metric
                if (found := each.comparison.difference) is not None and found.n > 1
            ],
            xaxis={
                "title": f"difference in {title}; {'right' if higher else 'left'} is better",
                "zeroline": True,
            },
            in_rows=True,
            has_means=True,
            of_others=True,
        )


def score_cell(results: Results, metric: str) -> Cell:
    """The name of a score, with its unit below it."""
    return Cell(results.title(metric), results.title(metric), results.unit_of(metric))


def _points(each: Difference, names: list[str]) -> Iterator[Point]:
    seeds = [*each.by_seed]
    middle = (len(seeds) - 1) / 2
    for index, (seed, difference) in enumerate(each.by_seed.items()):
        yield Point(
            names.index(each.comparison.map),
            None,
            seed if isinstance(seed, int) else None,
            x=float(f"{difference:.6g}"),
            y=round(0.25 * (index - middle) / max(1, middle * 2), 4),
            text=plain(
                f"{each.comparison.map}, seed {seed}: {decimal(difference, signed=True)}", 120
            ),
            symbol="circle",
            size=8,
        )


def _bounds(each: Difference) -> Cell:
    found = each.over_cases
    return Cell(NOTHING) if found is None else Cell(bounds(found, signed=True), found.low)
