"""All values of the axes together: table and chart against the rows of a recorded runs.csv."""

from dataclasses import replace

import numpy as np
import pytest
from recorded_studies import recorded_rows
from scipy.stats import mannwhitneyu

from rwloss.study.report import over_cells
from rwloss.study.report.contents import all_charts, all_tables


@pytest.fixture(scope="module")
def dice():
    """map -> learning rate -> test Dice of six seeds."""
    found = {}
    for (name, _, rate), [row, *_] in recorded_rows("learning_rates").items():
        found.setdefault(name, {}).setdefault(rate, []).append(float(row["test_dice_mean"]))
    return found


def test_interquartile_means_and_who_is_better(learning_rates, dice):
    table = over_cells.over_cells_table(learning_rates)
    assert table in all_tables(learning_rates)
    assert [row.cells[0].text for row in table.rows] == [*dice]
    for row in table.rows:
        own = dice[row.cells[0].text]
        assert row.cells[1].text == "24 of 24"
        middle = np.sort(np.concatenate([*own.values()]))[6:-6].mean()
        assert row.cells[2].sort == pytest.approx(middle, abs=1e-9)
        if own is dice["dice_ce"]:
            assert row.cells[3].sort is None
            continue
        base = dice["dice_ce"]
        better = [mannwhitneyu(own[rate], base[rate]).statistic / 36 for rate in own]
        assert row.cells[3].sort == pytest.approx(np.mean(better))


def test_a_line_is_the_share_of_runs_above_each_score(learning_rates, dice):
    [chart] = all_charts(learning_rates)["performance"]
    assert len(chart.banded) == 4
    for line, own in zip(chart.banded, dice.values(), strict=True):
        scores = np.concatenate([*own.values()])
        assert line.y == pytest.approx([(scores > limit).mean() for limit in line.x])
        assert all(np.less_equal(line.low, line.y) & np.less_equal(line.y, line.high))


def test_values_at_which_a_map_has_no_run_count_for_no_map(learning_rates):
    missing = tuple(
        row for row in learning_rates.runs if (row.map, row.learning_rate) != ("boundary", 0.016)
    )
    table = over_cells.over_cells_table(replace(learning_rates, runs=missing))
    assert [row.cells[1].text for row in table.rows] == ["18 of 24", "18 of 18", *["18 of 24"] * 2]


def test_one_cell_alone_has_none(strange):
    results, _ = strange
    assert results.over_cells == ()
    assert list(over_cells.profile_chart(results)) == []
