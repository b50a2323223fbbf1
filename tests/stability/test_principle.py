"""The stability principle: fractions on maps made by hand, and alarms on broken ones."""

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from strategies import dtypes, few, kinds, one_row, random_map, some_labels

from rwloss import Regions, RWMap, maps, stability


def fractions(report):
    return report.stable, report.flat, report.violating


# --- By hand


@pytest.mark.parametrize(
    ("values", "label", "wanted"),
    [
        ((0, 1, 1), 0, "stable"),
        ((1, -1, 1), 1, "stable"),
        ((-5, -5, -7), 2, "stable"),
        ((2, 2, 2), 1, "flat"),
        ((0, 0, 0), 0, "flat"),
        ((2, 1, 1), 0, "violating"),  # the true class is higher
        ((-1, 1, 2), 0, "violating"),  # wrong classes differ
        ((1, 1, 2), 0, "violating"),
        ((0, 1), 0, "stable"),
        ((1, 0), 0, "violating"),
        ((3, 3), 0, "flat"),
    ],
    ids=str,
)
def test_one_voxel(kind, values, label, wanted):
    report = stability.check(one_row(kind, [values], [label]))
    assert fractions(report) == tuple(
        float(wanted == name) for name in ("stable", "flat", "violating")
    )


def test_fractions_of_a_row(kind):
    values = [(0, 1, 1), (1, 0, 1), (2, 2, 2), (2, 1, 1), (0, 1, 2)]
    report = stability.check(one_row(kind, values, [0, 1, 2, 0, 0]))
    assert fractions(report) == (0.4, 0.2, 0.4)


def test_ignored_voxels_do_not_count(kind):
    values = [(0, 1, 1), (2, 1, 1), (0, 0, 0), (0, 0, 0)]
    report = stability.check(one_row(kind, values, [0, 0, -1, -1]))
    assert fractions(report) == (0.5, 0.0, 0.5)


def test_nothing_counts(kind):
    report = stability.check(one_row(kind, [(0, 0)], [-1]))
    assert fractions(report) == (0, 0, 0)


# --- The tolerance is a share of a voxel's own size, or of the usual size in the map


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_tolerance_is_relative(kind, scale):
    rounded = scale * np.array([(-1, 1, 1 + 3e-6), (1, 1, 1 + 3e-6), (1 + 3e-6, 1, 1)])
    assert fractions(stability.check(one_row(kind, rounded, [0, 0, 0]))) == (1 / 3, 2 / 3, 0)
    wrong = scale * np.array([(-1, 1, 1 + 1e-4), (1 + 1e-4, 1, 1)])
    assert stability.check(one_row(kind, wrong, [0, 0])).violating == 1


def test_one_huge_value_makes_no_other_voxel_flat(kind):
    """Class weights of a rare lesion, and 1 / p of cross-entropy, span many powers of ten."""
    values = [(0, 3e-4, 3e-4)] * 5 + [(3e-4, 0, 1e-4)] + [(-5e3, 0, 0)]
    report = stability.check(one_row(kind, values, [0] * 7))
    assert fractions(report) == (6 / 7, 0, 1 / 7)


def test_a_voxel_of_nothing_but_rounding_is_flat(kind):
    values = [(0, 1, 1)] * 4 + [(1e-8, -1e-8, 2e-8)]
    assert fractions(stability.check(one_row(kind, values, [0] * 5))) == (0.8, 0.2, 0)


@few
@given(some_labels(), dtypes, kinds)
def test_scale_and_constants_change_nothing(case, dtype, kind):
    labels, num_classes, rng = case
    rwmap = random_map(labels, num_classes, "dense", rng, dtype, kind).stabilized()
    report = fractions(stability.check(rwmap))
    assert fractions(stability.check(1024 * rwmap)) == report
    dense = RWMap.from_dense(rwmap.labels, rwmap.dense())
    assert fractions(stability.check(dense)) == report


@few
@given(some_labels(), dtypes)
def test_against_a_plain_loop(case, dtype):
    """Whole numbers leave no doubt about what is equal."""
    labels, num_classes, rng = case
    values = rng.integers(0, 3, (len(labels), num_classes, *labels.shape[1:])).astype(dtype)
    found = {"stable": 0, "flat": 0, "violating": 0}
    for b, *place in np.argwhere(labels >= 0):
        at = values[b, :, *place]
        true = at[labels[b, *place]]
        wrong = np.delete(at, labels[b, *place])
        same = len(set(wrong)) == 1
        kind = "stable" if same and true < wrong[0] else "violating"
        found["flat" if same and true == wrong[0] else kind] += 1
    total = max(1, sum(found.values()))
    report = stability.check(RWMap.from_dense(labels, values))
    assert fractions(report) == tuple(count / total for count in found.values())


# --- Broken maps


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_values_that_are_not_finite_violate_where_they_are(kind, bad, channel):
    values = np.array([(-1, 1, 1), (0, 1, 1), (0, 0, 0), (0, 1, 2)], dtype=float)
    values[0, channel] = bad
    report = stability.check(one_row(kind, values, [0, 0, 0, 0]))
    assert fractions(report) == (0.25, 0.25, 0.5)


def test_compact_values_that_are_not_finite(kind):
    labels = kind(np.array([[[0, 1]]]))
    true, other = np.array([[[np.inf, 0.0]]]), np.array([[[np.inf, 1.0]]])
    report = stability.check(RWMap.compact(labels, 2, true=kind(true), other=kind(other)))
    assert fractions(report) == (0.5, 0.0, 0.5)


def test_a_map_upside_down():
    regions = Regions(batch(5, (9, 8)), 4)
    assert stability.check(-maps.Rectified()(regions)).violating == 1


def test_boundary_violates_almost_everywhere_but_not_for_two_classes():
    labels = batch(5, (20, 20))
    assert stability.check(maps.Boundary()(Regions(labels, 4))).violating > 0.9
    two = stability.check(maps.Boundary("valverde")(Regions((labels > 0).astype(int), 2)))
    assert fractions(two) == (1, 0, 0)


def test_a_torch_map_on_each_device(device):
    labels = torch.as_tensor(batch(5, (6, 7)), device=device)
    report = stability.check(maps.Rectified()(Regions(labels, 4)))
    assert fractions(report) == (1, 0, 0)
