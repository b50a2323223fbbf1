"""Charts and tables of a report on tables of scores."""

from __future__ import annotations

from dataclasses import replace

from rwloss.study.figures import NOTHING, decimal, significant
from rwloss.study.report import case_charts, forest, run_charts
from rwloss.study.report.charts import Chart, fitted, headed
from rwloss.study.report.tables import (
    Cell,
    Table,
    TableRow,
    axis_cells,
    axis_titles,
    interval_cell,
)
from rwloss.study.score_tables.results import TableResults


def charts_of_table(results: TableResults, *, with_settings: bool = True) -> dict[str, list[Chart]]:
    """Charts of scores of runs, differences and cases, per metric and combination of settings.

    The keys are "scores", "forest" and "cases", each with the number of the combination.
    with_settings: whether headings name the settings.
    """
    found: dict[str, list[Chart]] = {}
    primary = next(iter(results.directions()))
    for number, part in enumerate(results.conditions):
        scores = [
            _fitted(replace(chart, heading=f"{metric} of every run"), metric)
            for metric in part.directions()
            for chart in [run_charts.other_scores(part, metric)]
        ]
        cases = [
            _fitted(replace(chart, heading=f"{primary} of every case, mean over runs"), primary)
            for chart in case_charts.case_charts(part, primary)
        ]
        differences = [*forest.forest_charts(part)] if results.has_seeds else []
        groups = {"scores": scores, "forest": differences, "cases": cases}
        for name, charts in groups.items():
            made = [headed(chart, part, number) for chart in charts]
            if not with_settings:
                made = [replace(o, heading=c.heading) for o, c in zip(made, charts, strict=True)]
            found[f"{name}-{number}"] = made
    return found


def _fitted(chart: Chart, metric: str) -> Chart:
    """The chart with an axis that covers its points, not 0."""
    values = [point.x for point in chart.points]
    in_shares = bool(values) and min(values) >= 0 and max(values) <= 1
    return replace(chart, xaxis={"title": metric, **(fitted(values) if in_shares else {})})


def tables_of_table(results: TableResults) -> list[Table]:
    """All tables, each covering all settings."""
    return [
        scores_table(results),
        *([differences_table(results)] if results.has_seeds else []),
        *([cases_table(results)] if results.of_cases else []),
        runs_table(results),
    ]


def scores_table(results: TableResults) -> Table:
    """Mean of each metric over the runs of each method."""
    names = list(results.study.maps)
    return Table(
        "scores",
        "Means over runs. Small: 95 % bootstrap intervals over runs."
        if results.has_seeds
        else "Scores of the one run of each method.",
        {
            "method": "", **axis_titles(results.study.axes), "runs": "seed",
            **dict.fromkeys(results.directions(), "score"),
        },
        tuple(
            TableRow(
                (
                    Cell(each.map, each.map),
                    *axis_cells(results.study, each.values),
                    Cell(str(each.done), each.done),
                    *(interval_cell(each.test.get(metric)) for metric in results.directions()),
                ),
                names.index(each.map),
            )
            for each in results.whole.maps
        ),
    )  # fmt: skip


def differences_table(results: TableResults, number: int | None = None) -> Table:
    """Every method against the reference over runs. number: of a combination of settings."""
    made = forest.differences_table(results, results.whole, "")
    columns = {("method" if name == "map" else name): of for name, of in made.columns.items()}
    return replace(
        made,
        id="differences" if number is None else f"differences-{number}",
        columns=columns,
    )


def cases_table(results: TableResults, number: int | None = None) -> Table:
    """Every method against the reference over cases, for these trained networks."""
    names = list(results.study.maps)
    rows = []
    for each in results.of_cases:
        found = each.comparison
        verdict = "significant" if found.significant else "not significant"
        if not found.can_claim:
            verdict = "too few cases to claim anything"
        rows.append(
            TableRow(
                (
                    Cell(found.map, found.map),
                    *axis_cells(results.study, found.values),
                    Cell(each.metric, each.metric),
                    interval_cell(found.difference, signed=True),
                    Cell(str(len(found.seeds)), len(found.seeds)),
                    *(Cell(significant(p), p) for p in (found.p, found.corrected_p)),
                    Cell(verdict, verdict),
                ),
                names.index(found.map),
            )
        )
    return Table(
        "of-cases" if number is None else f"of-cases-{number}",
        f"Difference from {results.reference} for these trained networks, paired by case: the mean "
        "over runs for each case. It says nothing about new runs.",
        {
            "method": "", **axis_titles(results.study.axes), "score": "score",
            "difference": "difference", "cases": "", "p": "p", "corrected p": "corrected-p",
            "verdict": "",
        },
        tuple(rows),
    )  # fmt: skip


def runs_table(results: TableResults) -> Table:
    """Every run with its scores."""
    names = list(results.study.maps)
    rows = []
    for row in results.runs:
        seed = results.seed_names[row.seed] if results.has_seeds else NOTHING
        scores = [row.outcome.tested(metric) for metric in results.directions()]
        cases = {len(row.outcome.tested_cases(metric)) for metric in results.directions()} - {0}
        cells = (
            Cell(row.map, row.map),
            *axis_cells(results.study, row.values),
            Cell(seed, row.seed),
            Cell(" to ".join(map(str, sorted({min(cases), max(cases)}))) if cases else NOTHING),
            *(Cell(decimal(score), score) for score in scores),
        )
        rows.append(TableRow(cells, names.index(row.map), seed=row.seed))
    return Table(
        "runs",
        "Every run: means over its cases.",
        {
            "method": "", **axis_titles(results.study.axes), "seed": "seed", "cases": "",
            **dict.fromkeys(results.directions(), "score"),
        },
        tuple(rows),
    )  # fmt: skip
