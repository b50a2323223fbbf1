"""What a report says: sentences and the table."""

import re

import numpy as np
from anatomy import batch
from strategies import one_row

from rwloss import Regions, RWMap, maps, stability
from rwloss.stability.wording import table
from rwloss.words import percent

NAMES = ("background", "kidney", "tumour")


def report_of(values, labels, **options):
    """The report of a dense map of one row of voxels; values: K numbers for each."""
    return stability.check(one_row(np.asarray, values, labels), **options)


def test_stable_and_no_class_vanishes():
    report = report_of([(0, 1, 1), (1, 0, 1), (1, 1, 0)], [0, 1, 2])
    assert stability.verdict(report, NAMES) == (
        "Stable: no push goes the wrong way, whatever the prediction; "
        "no class looks likely to vanish (least pull ratio 0.5, kidney)."
    )


def test_flat_voxels_are_named():
    report = report_of([(0, 1, 1), (2, 2, 2), (1, 0, 1), (1, 1, 0)], [0, 0, 1, 2])
    assert "(25.0 % of the voxels have no push at all)" in stability.verdict(report, NAMES)
    report = report_of([(0, 0, 0), (2, 2, 2)], [0, 1])
    assert stability.verdict(report, NAMES) == (
        "Flat: all classes cost the same at every voxel, so there is no gradient; "
        "not in these labels: tumour."
    )


def test_violating_says_where_and_how_much_and_who_can_vanish():
    """g of the last voxel is (-1, 0, 1) / 3: half of its push raises the background."""
    values = [(0, 500, 500)] * 3 + [(500, 0, 500), (0, 1, 2)]
    labels = [0, 0, 0, 1, 1]
    report = report_of(values, labels)
    said = stability.verdict(report, NAMES)
    assert said.startswith(
        "<0.1 % of the push goes the wrong way at uniform probabilities, most at voxels of kidney "
        "(0.1 %); "
    )
    assert said.endswith("not in these labels: tumour.")


def test_a_class_that_can_vanish_is_named_with_its_ratio():
    """Q = 1 / 300 and 2 / 301: one voxel each against a hundred of weight 3 and each other."""
    values = [(0, 3, 3)] * 100 + [(1, 0, 1), (2, 2, 0)]
    report = report_of(values, [0] * 100 + [1, 2])
    assert "kidney and tumour can vanish (pull ratio 0.0033 and 0.0066, below 0.01)" in (
        stability.verdict(report, NAMES)
    )
    assert "class 1 and class 2 can vanish" in stability.verdict(report)


def test_distance_is_named():
    regions = Regions(np.array([[[0] * 8 + [1, 1] + [2] * 4]]), 3)
    values = np.asarray(maps.Rectified()(regions).dense()).copy()
    values[0, 2, 0, 0] = -9
    report = stability.check(RWMap.from_dense(regions.labels, values), regions=regions)
    said = stability.verdict(report, NAMES)
    assert re.search(r"most at voxels of background \(.*\) and more than 5 voxels from the", said)


def test_violating_without_a_push_at_these_probabilities():
    """z = (0, 3, 4): the expected cost 7/3 is below both wrong values."""
    report = report_of([(0, 3, 4), (1, 0, 1)], [0, 1])
    assert stability.verdict(report, NAMES).startswith(
        "No push goes the wrong way at uniform probabilities, but one can at others (at 50.0 % of "
        "the voxels); "
    )


def test_a_dynamic_map_is_judged_at_its_prediction_only():
    """Its expression tells whether a class can vanish and come back, its map alone does not."""
    regions = Regions(batch(3, (12, 12), 3), 3)
    for text, back in (
        ("cross_entropy", "pulled back with full strength (pull exponent 0)"),
        ("dice", "hardly pulled back (pull exponent 1)"),
    ):
        report = stability.check_expression(maps.parse(text), regions, "random")
        said = stability.verdict(report, NAMES, probs="random", is_static=False)
        assert "whatever the prediction" not in said
        assert "at random probabilities" in said
        assert "no class looks likely to vanish" in said
        assert f"a class that has died is {back}" in said
        rwmap = maps.parse(text)(regions, np.full((3, 3, 12, 12), 1 / 3))
        assert "vanish" not in stability.verdict(stability.check(rwmap), is_static=False)


def test_a_good_sum_is_not_condemned():
    """Every voxel violates the principle, but little goes the wrong way."""
    regions = Regions(batch(3, (12, 12), 3), 3)
    report = stability.check_expression(maps.parse("rectified + dice"), regions)
    assert report.violating > 0.9
    said = stability.verdict(report, NAMES, is_static=False)
    assert not re.search("violat", said, re.I)
    assert said.startswith(("No push goes the wrong way", "0.", "<0.1 %"))
    assert re.search(r"has \d+\.\d % of the gradient norm and \w+ \d+\.\d %\.$", said)


def test_values_that_are_not_finite_are_named():
    report = report_of([(0, 1, 1), (np.nan, 1, 1)], [0, 1])
    assert "1 voxel holds NaN or infinity" in stability.verdict(report, NAMES)
    report = report_of([(0, 1)], [-1])
    assert stability.verdict(report) == "Nothing to check: no voxel belongs to a class."
    assert table({"rectified": report})


def test_repr_shows_the_main_figures():
    report = report_of([(0, 1, 1), (1, 0, 1), (1, 1, 0)], [0, 1, 2])
    assert repr(report) == (
        "StabilityReport(stable=1, flat=0, violating=0, pushed_up=0, wrong_way_mass=0, "
        "pull=[nan, 0.5, 0.5])"
    )


# --- The table


def rows(text):
    """Cells of each row by its label; of labels that come twice the last."""
    found = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip())
    return {label: cells for label, *cells in found}


def test_maps_side_by_side():
    regions = Regions(batch(4, (16, 16), 3), 3)
    reports = {
        text: stability.check_expression(maps.parse(text), regions)
        for text in ("boundary", "rectified")
    }
    text = table(reports, NAMES)
    found = rows(text)
    assert text.splitlines()[0].split() == ["boundary", "rectified"]
    assert [*found][:2] == ["boundary", "wrong-way mass"]  # what decides comes first
    assert found["pull exponent"] == ["1", "1"]
    assert found["stable voxels"][1] == "100 %"
    assert found["violating voxels"] == [percent(reports["boundary"].violating), "0 %"]
    assert found["value range"][1] == "-1 .. 1"
    assert float(found["tumour"][0].split()[0]) > 0
    for heading in ("violating voxels", "wrong classes pushed up", "wrong-way mass"):
        assert f"{heading}, by true class" in found
        assert f"{heading}, by distance to the edge" in found
    assert "true classes pushed down, by true class" not in found  # nowhere in either map
    assert len({len(line) for line in text.splitlines() if "%" in line}) == 1  # one width


def test_absent_classes_and_long_names():
    labels = batch(4, (10, 10), 3)
    labels[0][labels[0] == 2] = 0
    long = "rectified(scope='component', clip_mm=3.0)"
    reports = {
        text: stability.check_expression(maps.parse(text), Regions(labels, 4))
        for text in ("boundary", long)
    }
    text = table(reports, NAMES)
    assert text.startswith(f"map 2: {long}\n")
    found = rows(text)
    assert text.splitlines()[2].split() == ["boundary", "map", "2"]
    assert "tumour (absent from 1 of 3)" in found
    assert found["class 3 (absent from 3 of 3)"] == ["- (-)", "- (-)"]
