"""The content of a report: its charts by section, and its tables, for page and export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rwloss.study.report import (
    case_charts,
    charts,
    forest,
    over_cells,
    run_charts,
    stability,
    table_contents,
    tables,
    tie_charts,
)
from rwloss.study.report.charts import Chart
from rwloss.study.report.tables import Table, without_paths
from rwloss.study.results import Results
from rwloss.study.score_tables.results import TableResults


def told(results: Results, folder: Path) -> Results:
    """The results with failure reasons that name no folder of this machine."""
    rows = tuple(
        replace(row, reason=without_paths(row.reason, folder, results.study.data))
        for row in results.runs
    )
    return replace(results, runs=rows)


def all_charts(results: Results) -> dict[str, list[Chart]]:
    """The charts of each section."""
    if isinstance(results, TableResults):
        return table_contents.charts_of_table(results)

    def of_parts(make: Callable[[Results], Iterator[Chart] | list[Chart]]) -> list[Chart]:
        return [
            charts.headed(chart, part, number)
            for number, part in enumerate(results.conditions)
            for chart in make(part)
        ]

    return {
        **run_charts.charts_of_runs(results),
        "cases": of_parts(case_charts.case_charts),
        "ties": of_parts(tie_charts.ties) if results.indicators else [],
        "forest": of_parts(forest.forest_charts),
        "performance": [*over_cells.profile_chart(results)],
        "profiles": [*stability.profile_charts(results)],
        "not_born": of_parts(stability.birth_charts),
    }


def comparison_tables(results: Results) -> list[Table]:
    """Every map compared with the reference; empty if nothing is compared."""
    if results.reference is None or len(results.study.maps) < 2:
        return []
    return [
        *tables.of_parts(results, tables.comparisons_table),
        *tables.of_parts(results, forest.differences_table),
    ]


def all_tables(results: Results) -> list[Table]:
    """All tables, in the order of the page."""
    if isinstance(results, TableResults):
        return table_contents.tables_of_table(results)
    found = [
        tables.scores_table(results),
        *tables.of_parts(results, tables.maps_table),
        *comparison_tables(results),
    ]
    found += [over_cells.over_cells_table(results)] if results.over_cells else []
    found += [stability.profiles_table(results)] if results.profiles else []
    return [*found, tables.classes_table(results), tables.runs_table(results)]
