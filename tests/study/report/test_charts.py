"""Charts and tables against their results; what Plotly must not read."""

import json
import math
from dataclasses import replace

import pytest
from strange_studies import HOSTILE, STEPS, dice_of, indicator, write_run

from rwloss.study.outcomes import Residual
from rwloss.study.plan import make, runs
from rwloss.study.report import logs
from rwloss.study.report.charts import Charts, pairs, plain
from rwloss.study.report.palette import COLOURS, REFERENCE, Look, looks
from rwloss.study.report.tables import classes_table, comparisons_table, maps_table, runs_table
from rwloss.study.report.wording import NOTHING
from rwloss.study.results import collect
from rwloss.study.statistics import rank_correlation


@pytest.fixture(scope="module")
def charts(strange):
    results, folder = strange
    return Charts(results, logs.read(results, folder))


def texts(value):
    """All texts of a chart that Plotly shows."""
    if isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def all_charts(charts):
    return [
        *charts.learning(), *charts.scores(), *charts.births(), *charts.residuals(),
        *charts.wrong_way(), *charts.ties(),
    ]  # fmt: skip


def test_ids_are_unique_and_values_are_json(charts):
    found = all_charts(charts)
    assert len({chart.id for chart in found}) == len(found) == 2 + 3 + 2 + 2 + 1 + 8
    for chart in found:
        json.dumps([series.plot for series in chart.series], allow_nan=False)
        for series in chart.series:
            assert len(series.keys) == (len(series.plot["x"]) if series.role == "points" else 1)


def test_no_text_for_plotly_holds_a_tag(charts):
    shown = [
        text.replace("<br>", "")
        for chart in all_charts(charts)
        for part in (*(series.plot for series in chart.series), chart.xaxis, chart.yaxis)
        for text in texts(part)
    ]
    assert any("&lt;img" in text for text in shown)
    assert not [text for text in shown if "<" in text]


def test_a_line_for_each_run_with_its_dice(charts):
    first = charts.learning()[0]
    lines = {series.keys[0]: series for series in first.series if series.role == "line"}
    assert set(lines) == {(m, 0, s) for m in range(3) for s in range(3)} - {(1, 0, 2)}
    assert lines[0, 0, 2].plot["x"] == list(STEPS)
    assert lines[0, 0, 2].plot["y"] == [values[0] for values in dice_of("boundary", 2)]


def test_a_point_for_each_run_in_its_symbol(charts):
    first = charts.scores()[0]
    points = {
        key: (x, symbol)
        for series in first.series
        if series.role == "points"
        for key, x, symbol in zip(
            series.keys, series.plot["x"], series.plot["marker"]["symbol"], strict=True
        )
    }
    assert points[1, None, 2] == (-0.06, "triangle-left-open")
    assert points[1, None, 0] == (pytest.approx(0.75), "circle")
    assert points[1, None, 1] == (pytest.approx(0.755), "circle-open")
    assert points[0, None, 0] == (pytest.approx(0.3), "x")
    assert points[2, None, 1] == (pytest.approx(0.305), "x-open")
    of_b = charts.scores()[2]
    assert of_b.series[0].plot["marker"]["symbol"] == ["x", "x-open", "x"]


def test_births_stand_at_their_step_or_at_never(charts):
    _, of_b = charts.births()
    boundary = of_b.series[0]
    assert boundary.plot["x"] == [10, 10, 10]
    assert boundary.plot["marker"]["symbol"] == ["x", "x", "x"]


def test_residuals_are_of_the_maps_whose_class_was_empty(charts):
    for chart in charts.residuals():
        [series] = chart.series
        assert {key[0] for key in series.keys} == {0}
        # Mean of 1, 1/10 and 1/20, over the first.
        assert series.plot["x"] == pytest.approx([(1 + 0.1 + 0.05) / 3] * 3)
        low, high = chart.xaxis["range"]
        assert low < math.log10(series.plot["x"][0]) < high


@pytest.mark.parametrize("least", [0.02, 3e-20])
def test_a_gradient_of_0_stands_at_the_left_edge_and_is_told(strange, least):
    results, _ = strange
    norms = iter([0.0, least, 0.5])
    rows = tuple(
        replace(
            row,
            outcome=replace(
                row.outcome,
                classes=tuple(
                    replace(each, residual=Residual(1, 0.1, next(norms)))
                    if (row.map, each.name) == ("boundary", "b")
                    else each
                    for each in row.outcome.classes
                ),
            ),
        )
        for row in results.runs
    )
    of_a, of_b = Charts(replace(results, runs=rows), []).residuals()
    assert (of_a.note, of_b.note) == ("", "0 is drawn at the left edge.")
    [series] = of_b.series
    edge, *others = series.plot["x"]
    assert others == [least, 0.5]
    assert edge < least
    low, high = of_b.xaxis["range"]
    assert low < math.log10(edge) < low + 0.2
    assert 2 <= (high - low) / of_b.xaxis["dtick"] < 6
    assert "gradient 0 of the first" in series.plot["text"][0]


def test_ties_are_made_from_the_pairs_that_are_drawn(charts, strange):
    results, _ = strange
    for tie in results.ties:
        found = list(pairs(results, tie))
        again = rank_correlation([x for *_, x, _ in found], [y for *_, y in found])
        assert (again.n, again.rho) == (tie.correlation.n, tie.correlation.rho)


def test_close_points_lie_inside_each_other_at_their_places(strange):
    results, _ = strange
    means = [0.5, 0.832, 0.838]
    maps = tuple(
        replace(each, test_dice=replace(each.test_dice, mean=mean))
        for each, mean in zip(results.whole.maps, means, strict=True)
    )
    alike = {name: indicator(True, 0.0, 0.1) for name in results.indicators}
    near = replace(results, whole=replace(results.whole, maps=maps), indicators=alike)
    chart = Charts(near, []).ties()[1]  # violating voxels and test Dice
    found = {one.keys[0][0]: one.plot for one in chart.series}
    assert [found[i]["y"] for i in range(3)] == [[mean] for mean in means]
    assert [found[i]["x"] for i in range(3)] == [[0.0]] * 3
    alone, outer, inner = (found[i]["marker"]["size"] for i in range(3))
    assert inner < alone < outer
    sizes = [one.plot["marker"]["size"] for one in chart.series]
    assert sizes == sorted(sizes, reverse=True)  # the small ones on top
    assert found[1]["text"] == found[2]["text"]
    assert found[1]["text"][0].count("<br>") == found[0]["text"][0].count("<br>") + 1
    assert chart.note.endswith("Close points are drawn inside each other, each at its place.")


def test_points_at_one_place_all_show_a_ring(strange):
    results, _ = strange
    alike = {name: indicator(True, 0.0, 0.1) for name in results.indicators}
    for chart in Charts(replace(results, indicators=alike), []).ties():
        places = {}
        for one in chart.series:
            places.setdefault((*one.plot["x"], *one.plot["y"]), []).append(one)
        for here in places.values():
            assert len({one.plot["marker"]["size"] for one in here}) == len(here)


def test_a_class_that_some_run_never_bore_is_not_called_never(tmp_path):
    study = make(data="D", maps={"m": "rectified", "n": "dice"}, seeds=[0, 1], steps=20)
    for run in runs(study, tmp_path):
        lost = (run.name, run.seed) == ("m", 1)
        write_run(run, ((0.0, 0.3), (0.0 if lost else 0.5, 0.5)), 0)
    found = {name: indicator(True, 0.0, 0.1) for name in study.maps}
    results = collect(study, tmp_path, found)
    chart = Charts(results, []).ties()[7]
    assert chart.yaxis["ticktext"] == ["0", "10", "20", "not in<br>every run"]
    texts = "".join(one.plot["text"][0] for one in chart.series)
    assert "not born in every run" in texts
    assert "step 20" in texts


def test_tables_hold_what_the_results_hold(strange):
    results, folder = strange
    whole = maps_table(results, results.whole, "whole")
    boundary, rw, _ = whole.rows
    assert boundary.cells[2].text == "3 of 3"
    assert boundary.cells[2].is_bad
    assert rw.cells[1].detail == "1 failed"
    assert rw.cells[5].detail.startswith("ALARM")
    without = comparisons_table(results, results.without_failures, "without")
    assert [row.cells[2].text for row in without.rows] == ["2", "1"]
    assert "0 and 2" in without.caption
    assert {row.cells[-1].text for row in without.rows} == {"too few seeds to claim anything"}
    classes = classes_table(results)
    assert [row.class_number for row in classes.rows] == [0, 1] * 3
    assert classes.rows[1].cells[4].text == "3 of 3"  # died
    runs = runs_table(results, logs.read(results, folder))
    [failed] = [row for row in runs.rows if row.cells[2].text == "failed"]
    assert failed.cells[2].detail.startswith("cannot read 'x y.nii'")
    assert (failed.map_number, failed.seed) == (1, 2)


def test_long_logs_are_thinned_alike_and_keep_their_end(monkeypatch, strange):
    results, folder = strange
    monkeypatch.setattr(logs, "MOST_POINTS", 2)
    found = logs.read(results, folder)
    assert [step for step, _ in found[0].wrong_way_mass] == [1, 20]
    assert [step for step, _ in found[0].dice[HOSTILE]] == list(STEPS)


def test_every_map_has_its_look_and_none_that_of_a_run_that_is_not_done():
    names = [f"m{i}" for i in range(25)]
    found = looks(names, "m0")
    assert found["m0"] == Look(REFERENCE)
    assert [found[name].colour for name in names[1:7]] == list(COLOURS)
    assert found["m7"] == Look(COLOURS[0], 1)
    for part in ("dash", "sign"):
        assert len({(look.colour, getattr(look, part)) for look in found.values()}) == 25
    assert "dot" not in {look.dash for look in found.values()}


def test_more_maps_than_colours_differ_in_lines_bands_and_points(tmp_path):
    maps = {f"m{i}": f"{i + 1} * rectified" for i in range(7)}
    study = make(data="D", maps=maps, seeds=[0], steps=20)
    for run in runs(study, tmp_path):
        write_run(run, ((0.3, 0.3), (0.5, 0.5)), 0)
    found = {name: indicator(True, i / 9, 0.1) for i, name in enumerate(maps)}
    results = collect(study, tmp_path, found)
    charts = Charts(results, logs.read(results, tmp_path))
    series = charts.learning()[0].series
    for role in ("band", "mean"):
        first, *_, last = (one.plot["line"] for one in series if one.role == role)
        assert (first != last, last["dash"]) == (True, "dash")
    first, *_, last = (one.plot["marker"] for one in charts.ties()[0].series)
    assert first["color"] == last["color"] == COLOURS[0]
    assert (first["symbol"], last["symbol"]) == ("circle", "circle-open")


def test_what_no_validation_case_tells_is_no_kept_class(tmp_path):
    study = make(data="D", maps={"rw": "rectified", "dice": "dice"}, seeds=[0], steps=20)
    for run in runs(study, tmp_path):
        write_run(run, ((0.3, None), (0.5, None)), 0, end=(0.5, 0.4))
    results = collect(study, tmp_path)
    charts = Charts(results, logs.read(results, tmp_path))
    symbols = [chart.series[0].plot["marker"]["symbol"] for chart in charts.scores()]
    assert symbols == [["circle"], ["circle"], ["diamond"]]
    assert charts.births()[1].series[0].plot["x"] == []
    whole = maps_table(results, results.whole, "whole")
    assert (whole.rows[0].cells[2].text, whole.rows[0].cells[2].detail) == (
        "0 of 1", "not known of b",
    )  # fmt: skip
    assert [row.cells[5].text for row in classes_table(results).rows] == ["0 of 1", NOTHING] * 2
    [first, _] = runs_table(results, []).rows
    assert (first.cells[5].text, first.cells[5].detail) == ("none", "not known of b")


@pytest.mark.parametrize(
    ("known", "steps", "text", "sort"),
    [
        (3, (100, 300, 200), "200", 200),
        (3, (100, 300), "300", 300),  # later than those born, not their middle
        (3, (100,), "never", "Infinity"),
        (2, (100,), "never", "Infinity"),
        (2, (), "never", "Infinity"),
        (0, (), NOTHING, None),
    ],
)
def test_a_run_in_which_a_class_is_never_born_counts_as_the_latest(
    strange, known, steps, text, sort
):
    results, _ = strange
    first, *others = results.whole.maps
    tally = replace(first.classes[0], known=known, born=len(steps), birth_steps=steps)
    changed = replace(first, classes=(tally,))
    whole = replace(results.whole, maps=(changed, *others))
    cell = classes_table(replace(results, whole=whole)).rows[0].cells[3]
    assert (cell.text, cell.sort) == (text, sort)


def test_an_infinite_pull_sorts_as_the_largest(tmp_path, strange):
    before, _ = strange
    found = {**before.indicators, "rw": indicator(True, 0.0, math.inf)}
    table = maps_table(replace(before, indicators=found), before.whole, "whole")
    assert table.rows[1].cells[-1].sort == "Infinity"


def test_plain_is_short_and_on_one_line():
    assert plain("a\n b") == "a b"
    assert len(plain("x" * 99)) == 48
    assert plain("a&lt;b") == "a&amp;lt;b"
