"""Every map over all values of the axes: the table, and the chart of performance profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rwloss.study.over_cells import OverCells
from rwloss.study.report.charts import BandedLine, Chart, plain
from rwloss.study.report.tables import Cell, Table, TableRow, interval_cell, share_cell
from rwloss.study.results import Results
from rwloss.words import percent


def over_cells_table(results: Results) -> Table:
    """Interquartile mean of each map, and how likely the map is better than the reference."""
    names, planned = list(results.study.maps), Counter(row.map for row in results.runs)
    rows = [
        TableRow(
            (
                Cell(each.map, each.map),
                Cell(f"{each.runs} of {planned[each.map]}", each.runs),
                interval_cell(each.interquartile_mean),
                share_cell(each.improvement),
            ),
            names.index(each.map),
        )
        for each in results.over_cells
    ]
    return Table(
        "over-cells",
        "Test Dice over all values of the axes. Runs: those that count, of all planned runs.",
        {
            "map": "", "runs": "over-cells", "interquartile mean": "interquartile-mean",
            "P(better)": "improvement",
        },
        tuple(rows),
    )  # fmt: skip


def profile_chart(results: Results) -> Iterator[Chart]:
    """Share of runs above each test Dice, one line per map."""
    if not results.over_cells:
        return
    maps = list(results.study.maps)
    yield Chart(
        "performance",
        heading="Runs above a test Dice",
        label="Share of runs with a test Dice above a threshold, over all values of the axes, a "
        "line for each map.",
        banded=[_line(each, maps.index(each.map)) for each in results.over_cells],
        xaxis={"title": "test Dice", "range": [-0.02, 1.02], "dtick": 0.2, "tick0": 0},
        yaxis={"title": "share of runs above", "range": [-0.03, 1.03], "dtick": 0.25, "tick0": 0},
    )


def _line(each: OverCells, number: int) -> BandedLine:
    return BandedLine(
        number,
        x=[point.threshold for point in each.profile],
        y=[point.share.mean for point in each.profile],
        low=[point.share.low for point in each.profile],
        high=[point.share.high for point in each.profile],
        texts=[
            plain(f"{each.map}: {percent(point.share.mean)} of runs above {point.threshold:g}", 120)
            for point in each.profile
        ],
        in_steps=True,
    )
