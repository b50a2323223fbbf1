"""Charts and tables against their results; what Plotly must not read."""

import json
import math
from dataclasses import asdict, replace

import pytest
from strange_studies import MAPS, STEPS, dice_of, indicator, write_run

from rwloss.study.figures import NOTHING
from rwloss.study.outcomes import Residual
from rwloss.study.plan import make, runs
from rwloss.study.rates import birth_curve
from rwloss.study.report import charts, curves, stability
from rwloss.study.report.case_charts import case_charts
from rwloss.study.report.charts import COLOURS, REFERENCE, Look, looks
from rwloss.study.report.forest import differences_table
from rwloss.study.report.page import page
from rwloss.study.report.run_charts import charts_of_runs
from rwloss.study.report.tables import classes_table, comparisons_table, maps_table, runs_table
from rwloss.study.report.tie_charts import ties
from rwloss.study.results import collect


def texts(value):
    """All texts in nested dictionaries and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


def test_ids_are_unique_and_charts_are_json_without_tags(strange):
    results, _ = strange
    found = [*(chart for group in charts_of_runs(results).values() for chart in group)]
    found += ties(results)
    assert len({chart.id for chart in found}) == len(found) == 2 + 6 + 2 + 2 + 1 + 1 + 8
    shown = []
    for chart in found:
        json.dumps(asdict(chart), allow_nan=False)
        points = [point.text for point in chart.points]
        shown += [text.replace("<br>", "") for text in points + texts([chart.xaxis, chart.yaxis])]
    assert any("&lt;img" in text for text in shown)
    assert not [text for text in shown if "<" in text]


def test_a_line_for_each_run_with_its_dice(strange):
    first = charts_of_runs(strange[0])["learning"][0]
    lines = {(line.map, line.seed): line for line in first.lines}
    assert set(lines) == {(m, s) for m in range(3) for s in range(3)} - {(1, 2)}
    assert lines[0, 2].x == list(STEPS)
    assert lines[0, 2].y == [values[0] for values in dice_of("boundary", 2)]


def test_long_lines_are_thinned_alike_and_keep_their_end(monkeypatch, strange):
    monkeypatch.setattr(curves, "MOST_POINTS", 2)
    [chart] = charts_of_runs(strange[0])["wrong_way"]
    assert [line.x for line in chart.lines] == [[1, 20]] * 8
    assert charts_of_runs(strange[0])["learning"][0].lines[0].x == list(STEPS)


def test_a_point_for_each_run_in_its_symbol(strange):
    mean, _, of_b, hd95, *_ = charts_of_runs(strange[0])["scores"]
    points = {(point.map, point.seed): (point.x, point.symbol) for point in mean.points}
    assert points == {
        (0, 0): (pytest.approx(0.3), "x"), (0, 1): (pytest.approx(0.305), "x-open"),
        (0, 2): (pytest.approx(0.31), "x"),
        (1, 0): (pytest.approx(0.75), "circle"), (1, 1): (pytest.approx(0.755), "circle-open"),
        (1, 2): (-0.06, "triangle-left-open"),
        (2, 0): (pytest.approx(0.75), "circle"), (2, 1): (pytest.approx(0.305), "x-open"),
        (2, 2): (pytest.approx(0.76), "circle"),
    }  # fmt: skip
    assert [point.symbol for point in of_b.points if point.map == 0] == ["x", "x-open", "x"]
    assert [point.seed for point in mean.points if not point.counts] == [2]
    # HD95 of the classes of rw, seed 0: 4 - 3 Dice; a missed class has the diagonal, 40.
    found = {(point.map, point.seed): point.x for point in hd95.points}
    assert found[1, 0] == pytest.approx((1.6 + 1.9) / 2)
    assert found[0, 0] == pytest.approx((2.2 + 40) / 2)
    assert hd95.xaxis["title"] == "HD95, voxels"


def test_births_stand_at_their_step_or_at_never(strange):
    _, of_b = charts_of_runs(strange[0])["births"]
    found = [(point.x, point.symbol) for point in of_b.points if point.map == 0]
    assert found == [(10, "x")] * 3


def test_residuals_are_of_the_maps_whose_class_was_empty(strange):
    for chart in charts_of_runs(strange[0])["residuals"]:
        assert {point.map for point in chart.points} == {0}
        # Mean of 1, 1/10 and 1/20, over the first.
        left = (1 + 0.1 + 0.05) / 3
        assert [point.x for point in chart.points] == pytest.approx([left] * 3)
        low, high = chart.xaxis["range"]
        assert low < math.log10(left) < high


@pytest.mark.parametrize("least", [0.02, 3e-20])
def test_a_gradient_of_0_stands_at_the_left_edge_and_is_told(strange, least):
    results, _ = strange
    norms = iter([0.0, least, 0.5])

    def changed(row, each):
        if (row.map, each.name) != ("boundary", "b"):
            return each
        return replace(each, residual=Residual(1, 0.1, next(norms)))

    outcomes = [
        replace(row.outcome, classes=tuple(changed(row, each) for each in row.outcome.classes))
        for row in results.runs
    ]
    rows = tuple(replace(row, outcome=of) for row, of in zip(results.runs, outcomes, strict=True))
    of_a, of_b = charts_of_runs(replace(results, runs=rows))["residuals"]
    assert (of_a.note, of_b.note) == ("", "0 is drawn at the left edge.")
    edge, *others = [point.x for point in of_b.points]
    assert others == [least, 0.5]
    assert edge < least
    low, high = of_b.xaxis["range"]
    assert low < math.log10(edge) < low + 0.2
    assert 2 <= (high - low) / of_b.xaxis["dtick"] < 6
    assert "gradient 0 of the first" in of_b.points[0].text


def moved(results, change):
    """The same results with other pairs in every correlation."""
    moved_ties = [
        replace(tie, pairs=tuple(change(i, pair) for i, pair in enumerate(tie.pairs)))
        for tie in results.ties
    ]
    return replace(results, ties=tuple(moved_ties))


def test_close_points_lie_inside_each_other_at_their_places(strange):
    means = [0.5, 0.832, 0.838, *[0] * 3]
    near = moved(strange[0], lambda i, pair: replace(pair, indicator=0.0, outcome=means[i]))
    chart = ties(near)[1]  # violating voxels and test Dice
    found = {point.map: point for point in chart.points}
    assert [found[i].y for i in range(3)] == means[:3]
    assert [found[i].x for i in range(3)] == [0.0] * 3
    assert found[2].size < found[0].size < found[1].size
    sizes = [point.size for point in chart.points]
    assert sizes == sorted(sizes, reverse=True)  # the small ones on top
    assert found[1].text == found[2].text
    assert found[1].text.count("<br>") == found[0].text.count("<br>") + 1
    assert chart.note.endswith("Overlapping points are drawn inside each other.")


def test_points_at_one_place_all_show_a_ring(strange):
    alike = moved(strange[0], lambda _, pair: replace(pair, indicator=0.1))
    for chart in ties(alike):
        places = {}
        for point in chart.points:
            places.setdefault((point.x, point.y), []).append(point.size)
        assert all(len({*sizes}) == len(sizes) for sizes in places.values())


def test_a_class_that_some_run_never_bore_is_not_called_never(tmp_path):
    study = make(data="D", maps={"m": "rectified", "n": "dice"}, seeds=[0, 1], steps=20)
    for run in runs(study, tmp_path):
        lost = (run.name, run.seed) == ("m", 1)
        write_run(run, ((0.0, 0.3), (0.0 if lost else 0.5, 0.5)), 0)
    found = {name: indicator(True, 0.0, 0.1) for name in study.maps}
    results = collect(study, tmp_path, found)
    chart = ties(results)[7]
    assert chart.yaxis["ticktext"] == ["0", "10", "20", "not in<br>every run"]
    told = "".join(point.text for point in chart.points)
    assert "not born in every run" in told
    assert "born at step 20" in told


def test_tables_hold_what_the_results_hold(strange):
    results, _ = strange
    whole = maps_table(results, results.whole, "whole")
    boundary, rw, _ = whole.rows
    assert boundary.cells[2].text == "3 of 3"
    assert boundary.cells[2].is_bad
    assert rw.cells[1].detail == "1 failed"
    assert rw.cells[8].detail.startswith("ALARM")
    without = comparisons_table(results, results.without_failures, "without")
    assert [row.cells[2].text for row in without.rows] == ["2", "1"]
    assert "0 and 2" in without.caption
    assert {row.cells[-1].text for row in without.rows} == {"too few seeds to claim anything"}
    classes = classes_table(results)
    assert [row.class_number for row in classes.rows] == [0, 1] * 3
    assert classes.rows[1].cells[4].text == "3 of 3"  # died
    runs = runs_table(results)
    [failed] = [row for row in runs.rows if row.cells[2].text == "failed"]
    assert failed.cells[2].detail.startswith("cannot read 'x y.nii'")
    assert (failed.map_number, failed.seed) == (1, 2)


def test_a_mean_between_two_groups_of_runs_is_not_drawn(strange, tmp_path):
    results, _ = strange
    # The second class of the reference ends at 0 with seed 1, and at 0.7 with the others.
    of_a, of_b = charts_of_runs(results)["learning"]
    assert (of_a.without_mean, of_b.without_mean) == ([], [2])
    for ends, wanted in (
        ([0.0, 0.19], False),  # no gap that matters
        ([0.0, 0.21], True),
        ([0.0, 0.3, 0.6], False),  # spread evenly
        ([0.0, 0.35, 0.6], True),
        ([0.5], False),
        ([], False),
    ):
        assert curves.has_two_modes(ends) == wanted


def test_gradient_norms_are_those_of_the_records(strange):
    [chart] = charts_of_runs(strange[0])["gradient_norm"]
    assert [line.x for line in chart.lines] == [[1, 10, 20]] * 8
    assert [line.y for line in chart.lines] == [[1, 0.1, 0.05]] * 8
    assert chart.yaxis["type"] == "log"


def test_a_point_for_each_test_case_is_the_mean_over_runs(strange, monkeypatch):
    results, _ = strange
    [chart] = case_charts(results)
    found = sorted(point.x for point in chart.points if point.map == 1)
    # Seeds 0 and 1 of rw: Dice 0.8 + seed / 100 and 0.7, and 10 % less with each further case.
    wanted = [(1 - i / 10) * (0.805 + 0.7) / 2 for i in (2, 1, 0)]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert (chart.spans[1].low, chart.spans[1].high) == pytest.approx((wanted[0], wanted[2]))
    assert chart.note == ""
    monkeypatch.setattr("rwloss.study.report.case_charts.MOST_CASES", 2)
    [chart] = case_charts(results)
    thinned = sorted(point.x for point in chart.points if point.map == 1)
    assert thinned == pytest.approx([wanted[0], wanted[2]], abs=1e-6)
    assert chart.note == "Of 3 cases, 2 are drawn, evenly by rank."


def test_every_map_has_its_look_and_none_that_of_a_run_that_is_not_done():
    names = [f"m{i}" for i in range(25)]
    found = looks(names, "m0")
    assert found["m0"] == Look(REFERENCE)
    assert [found[name].colour for name in names[1:7]] == list(COLOURS)
    assert found["m7"] == Look(COLOURS[0], 1)
    assert len({*found.values()}) == 25
    assert len({*charts.DASHES}) == len({*charts.SIGNS}) == len(charts.SIGNS)
    assert "dot" not in charts.DASHES


def test_more_maps_than_colours_differ_in_lines_bands_and_points(tmp_path):
    maps = {f"m{i}": f"{i + 1} * rectified" for i in range(7)}
    study = make(data="D", maps=maps, seeds=[0], steps=20)
    for run in runs(study, tmp_path):
        write_run(run, ((0.3, 0.3), (0.5, 0.5)), 0)
    found = {name: indicator(True, i / 9, 0.1) for i, name in enumerate(maps)}
    results = collect(study, tmp_path, found)
    first, *_, last = looks(maps, None).values()
    assert (first.round, last.round) == (0, 1)
    first, *_, last = ties(results)[0].points
    assert (first.symbol, last.symbol) == ("circle", "circle-open")


def test_what_no_validation_case_tells_is_no_kept_class(tmp_path):
    study = make(data="D", maps={"rw": "rectified", "dice": "dice"}, seeds=[0], steps=20)
    for run in runs(study, tmp_path):
        write_run(run, ((0.3, None), (0.5, None)), 0, end=(0.5, 0.4))
    results = collect(study, tmp_path)
    symbols = [
        [point.symbol for point in chart.points] for chart in charts_of_runs(results)["scores"][:3]
    ]
    assert symbols == [["circle"] * 2, ["circle"] * 2, ["diamond"] * 2]
    assert charts_of_runs(results)["births"][1].points == []
    whole = maps_table(results, results.whole, "whole")
    assert (whole.rows[0].cells[2].text, whole.rows[0].cells[2].detail) == (
        "0 of 1", "up to 95 %; not known for b",
    )  # fmt: skip
    assert [row.cells[5].text for row in classes_table(results).rows] == ["0 of 1", NOTHING] * 2
    [first, _] = runs_table(results).rows
    assert (first.cells[5].text, first.cells[5].detail) == ("none", "not known for b")


def test_axes_have_charts_for_each_value_and_columns(tmp_path):
    rates = {"learning_rate": [1e-3, 1e-2], "train_cases": [4, "all"]}
    study = make(data="D", maps=MAPS, seeds=[0, 1], steps=20, axes=rates)
    for run in runs(study, tmp_path):
        lost = run.map == "boundary" and run.values["learning_rate"] == 1e-2
        write_run(run, ((0.4, 0.0 if lost else 0.3), (0.8, 0.0 if lost else 0.7)), 0, names="ab")
    results = collect(study, tmp_path)
    found = charts_of_runs(results)
    headings = [chart.heading for chart in found["learning"]]
    assert len(headings) == len({chart.id for chart in found["learning"]}) == 2 * 4
    assert headings[1] == "b, learning_rate 0.001, train_cases 4"
    assert [line.map for line in found["learning"][1].lines] == [0, 1, 2] * 2
    charts = [*stability.profile_charts(results)]
    assert [chart.heading for chart in charts] == [
        "Runs that keep every class, train_cases 4", "Runs that keep every class, train_cases all",
    ]  # fmt: skip
    first, *_ = charts[0].banded
    assert (first.x, first.y) == ((0.001, 0.01), [1, 0])
    assert first.low == pytest.approx([0.05**0.5, 0])
    assert first.high == pytest.approx([1, 1 - 0.05**0.5])
    assert first.texts[1] == "boundary, 0.01: 0 of 2 runs (up to 78 %)"
    births = [*stability.birth_charts(results.conditions[2])]
    assert [(line.x, line.y) for line in births[1].banded] == [
        ([0, 20], [1, 1]), ([0, 10, 20], [1, 0, 0]), ([0, 10, 20], [1, 0, 0]),
    ]  # fmt: skip
    table = stability.profiles_table(results)
    assert list(table.columns) == ["map", "train cases", "decades", "0.001", "0.01"]
    assert [cell.text for cell in table.rows[0].cells] == [
        "boundary", "4", "0.05", "2 of 2", "0 of 2",
    ]  # fmt: skip
    for make_table in (maps_table, comparisons_table, differences_table):
        rows = make_table(results, results.whole, "whole").rows
        assert [cell.text for cell in rows[-1].cells[1:3]] == ["0.01", "all"]
        assert [cell.sort for cell in rows[-1].cells[1:3]] == [1, 1]
    text = page(results, ())
    assert "2 values of learning_rate and 2 values of train_cases" in text
    assert 'id="not-born-1-at-3"' in text


def test_a_run_in_which_a_class_is_never_born_counts_as_the_latest(strange):
    results, _ = strange
    first, *others = results.whole.maps
    for known, steps, text, sort in (
        (3, (100, 300, 200), "200", 200),
        (3, (100, 300), "300", 300),  # later than those born, not their middle
        (3, (100,), "never", "Infinity"),
        (2, (100,), "never", "Infinity"),
        (2, (), "never", "Infinity"),
        (0, (), NOTHING, None),
    ):
        births = birth_curve(steps, [400] * (known - len(steps)))
        tally = replace(first.classes[0], known=known, born=len(steps), births=births)
        changed = replace(first, classes=(tally,))
        whole = replace(results.whole, maps=(changed, *others))
        cell = classes_table(replace(results, whole=whole)).rows[0].cells[3]
        assert (cell.text, cell.sort) == (text, sort)


def test_an_infinite_pull_sorts_as_the_largest(tmp_path, strange):
    before, _ = strange
    found = {**before.indicators, "rw": indicator(True, 0.0, math.inf)}
    table = maps_table(replace(before, indicators=found), before.whole, "whole")
    assert table.rows[1].cells[-2].sort == "Infinity"


def test_plain_is_short_and_on_one_line():
    assert charts.plain("a\n b") == "a b"
    assert len(charts.plain("x" * 99)) == 48
    assert charts.plain("a&lt;b") == "a&amp;lt;b"
