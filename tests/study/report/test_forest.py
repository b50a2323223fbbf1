"""Differences in every score: table and forest plots against the results that they show."""

import pytest

from rwloss.study.report.forest import differences_table, forest_charts


def test_a_row_for_each_map_and_score(strange):
    results, _ = strange
    table = differences_table(results, results.whole, "whole")
    shown = [(row.cells[0].text, row.cells[1].text, row.cells[1].detail) for row in table.rows]
    scores = [("Dice", ""), ("HD95", "voxels"), ("ASSD", "voxels"), ("NSD", "")]
    assert shown == [(name, *score) for score in scores for name in ("boundary", "rw")]
    assert table.is_number(2)
    assert not table.is_number(1)
    first, found = table.rows[0], results.whole.differences[0]
    # Boundary against Dice + CE over seeds 0, 1, 2: mean Dice .30 .305 .31 against .75 .305 .76.
    assert first.cells[2].sort == pytest.approx((0.30 - 0.75 + 0 + 0.31 - 0.76) / 3)
    assert first.cells[2].detail == "\N{MINUS SIGN}0.450 to +0.000"
    assert found.over_cases.low <= found.over_cases.mean <= found.over_cases.high
    # Of nine pairs of runs, boundary is better in one (.31 against .305) and even in one.
    assert first.cells[4].sort == pytest.approx(1.5 / 9)
    assert first.cells[-1].text == "too few seeds to claim anything"


def test_a_point_for_each_seed_and_an_interval_for_each_map(strange):
    results, _ = strange
    charts = list(forest_charts(results))
    assert [chart.id for chart in charts] == [
        f"forest-{metric}" for metric in ("dice", "hd95_mm", "assd_mm", "nsd")
    ]
    dice, hd95, *_ = charts
    points = {(point.map, point.seed): point.x for point in dice.points}
    assert points == pytest.approx(
        {(0, 0): -0.45, (0, 1): 0, (0, 2): -0.45, (1, 0): 0, (1, 1): 0.45}
    )
    [boundary, rw] = dice.spans
    assert (boundary.map, boundary.low, boundary.high) == pytest.approx((0, -0.45, 0))
    assert (rw.map, rw.low, rw.high) == pytest.approx((1, 0, 0.45))
    assert "voxels; left is better" in hd95.xaxis["title"]
    # A missed class counts with the diagonal, 40: (4 - 1.8 + 40) / 2 against (1.6 + 1.9) / 2.
    assert hd95.points[0].x == pytest.approx((2.2 + 40) / 2 - (1.6 + 1.9) / 2)
