"""The stability principle: fractions on maps made by hand, and alarms on broken ones."""

from itertools import product

import numpy as np
import torch
from anatomy import batch
from hypothesis import given
from strategies import dtypes, few, kinds, one_row, random_map, some_labels

from rwloss import Regions, RWMap, maps, stability


def fractions(report):
    return report.stable, report.flat, report.violating


# --- By hand


def test_one_voxel(kind):
    for values, label, wanted in [
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
    ]:
        report = stability.check(one_row(kind, [values], [label]))
        kinds = ("stable", "flat", "violating")
        assert fractions(report) == tuple(float(wanted == name) for name in kinds), values


# --- The tolerance is a share of a voxel's own size, or of the usual size in the map


def test_tolerance_is_relative(kind):
    for scale in (1e-6, 1.0, 1e6):
        rounded = scale * np.array([(-1, 1, 1 + 3e-6), (1, 1, 1 + 3e-6), (1 + 3e-6, 1, 1)])
        assert fractions(stability.check(one_row(kind, rounded, [0, 0, 0]))) == (1 / 3, 2 / 3, 0)
        wrong = scale * np.array([(-1, 1, 1 + 1e-4), (1 + 1e-4, 1, 1)])
        assert stability.check(one_row(kind, wrong, [0, 0])).violating == 1


def test_one_huge_value_makes_no_other_voxel_flat(kind):
    """Class weights of a rare lesion, and 1 / p of cross-entropy, span many powers of ten."""
    values = [(0, 3e-4, 3e-4)] * 5 + [(3e-4, 0, 1e-4)] + [(-5e3, 0, 0)]
    report = stability.check(one_row(kind, values, [0] * 7))
    assert fractions(report) == (6 / 7, 0, 1 / 7)
    # But one that is nothing but rounding is flat.
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


# --- Broken maps


def test_values_that_are_not_finite_violate_where_they_are(kind):
    for bad, channel in product([np.nan, np.inf, -np.inf], range(3)):
        values = np.array([(-1, 1, 1), (0, 1, 1), (0, 0, 0), (0, 1, 2)], dtype=float)
        values[0, channel] = bad
        report = stability.check(one_row(kind, values, [0, 0, 0, 0]))
        assert fractions(report) == (0.25, 0.25, 0.5)
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
