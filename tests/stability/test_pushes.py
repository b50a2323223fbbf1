"""The stability principle, and pushes by hand."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from pretend_cuda import PretendCuda
from strategies import dtypes, few, kinds, one_row, random_map, some_labels

from rwloss import Regions, RWMap, maps, stability
from rwloss.stability.pushes import pushes, voxels


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


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_scale_of_several_maps_is_that_of_each(groups):
    """By NumPy, by torch, and in the way of a GPU; odd and even numbers of voxels, and none."""
    random = np.random.default_rng(0)
    labels = random.integers(-1, 3, (4, 5, 6))
    labels[0], labels[3, 0, 0] = -1, 0
    values = random.normal(size=(4, 3, 5, 6)).astype(np.float32)
    values[1, 0, 2, 2] = np.inf
    rows = np.split(np.arange(4), groups)
    each = [voxels(RWMap.from_dense(labels[row], values[row])).slack for row in rows]
    wanted = np.concatenate(each)
    assert len({float(slack.min()) for slack in each}) == groups
    tensors = [torch.from_numpy(array) for array in (labels, values)]
    with PretendCuda() as cuda:
        held = voxels(RWMap.from_dense(*map(cuda.tensor, tensors)), groups).slack.held
    assert not cuda.waits
    found = voxels(RWMap.from_dense(*tensors), groups).slack
    assert np.array_equal(voxels(RWMap.from_dense(labels, values), groups).slack, wanted)
    assert np.array_equal(found.numpy(), wanted)
    assert np.array_equal(held.numpy(), wanted)


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


# --- Pushes by hand: one voxel of class 0 with z = (0, 1, 3) and p = 1/3 has an expected cost of
# 4/3, so g = (-4/9, -1/9, 5/9): the true class up, class 1 up (the wrong way), class 2 down.


def test_pushes_of_one_voxel(kind):
    report = stability.check(one_row(kind, [(0, 1, 3)], [0]))
    assert (report.violating, report.pushed_up, report.pushed_down) == (1, 0.5, 0)
    assert report.wrong_way_mass == pytest.approx(1 / 10)
    assert report.value_range == (0, 3)
    assert report.gradient_norms[0] == pytest.approx(math.sqrt((16 + 1 + 25) / 81 / 3))
    assert report.gradient_spread == 0


def test_one_voxel_at_other_probabilities_and_of_other_values(kind):
    """p = (0.5, 0.1, 0.4) has an expected cost of 1.3: g = (-0.65, -0.03, 0.68).

    z = (2, 1, 0): g = (1/3, 0, -1/3) at class 0; class 1 is not pushed, class 2 is raised.
    """
    probs = kind(np.array([0.5, 0.1, 0.4]).reshape(1, 3, 1, 1))
    report = stability.check(one_row(kind, [(0, 1, 3)], [0]), probs)
    assert (report.pushed_up, report.pushed_down) == (0.5, 0)
    assert report.wrong_way_mass == pytest.approx(0.03 / 1.36)

    report = stability.check(one_row(kind, [(2, 1, 0)], [0]))
    assert (report.pushed_up, report.pushed_down, report.wrong_way_mass) == (0.5, 1, 1)


def test_pull_ratio(kind):
    for values, labels, wanted in [
        # ((4 - 1) + (2 - 0)) / (max(0, 5 - 1) + max(0, 2 - 3)): its own voxels over the others
        ([(1, 5), (3, 2), (4, 1), (2, 0)], [0, 0, 1, 1], [5 / 4]),
        # nothing pushes class 1 down, or class 2 anywhere; class 3 is absent
        ([(0, 0, 0, 1), (2, 1, 0, 2), (0, 0, 0, 0)], [0, 1, 2], [math.inf, math.nan, math.nan]),
        # class 1 is pushed down at its own voxel
        ([(0, 1), (0, 3)], [0, 1], [-3]),
    ]:
        report = stability.check(one_row(kind, values, labels))
        assert report.pull.tolist() == pytest.approx([math.nan, *wanted], nan_ok=True)
        assert report.absent == tuple(k for k in range(len(values[0])) if k not in labels)


def test_positive_to_negative_mass_is_of_channels(kind):
    report = stability.check(one_row(kind, [(2, -1, 0, 3), (1, 3, 0, 4)], [0, 1]))
    assert report.positive_to_negative.tolist() == pytest.approx(
        [math.inf, 3, math.nan, math.inf], nan_ok=True
    )
    assert report.figures()["by_class"]["class 1"]["value_range"] == [-1, 3]


def test_spread_of_gradient_norms_over_images(kind):
    """Image 1 is image 0 times three: norms of 1 and 3 times something, so 1/2 of the mean."""
    labels = kind(np.zeros((2, 1, 2), dtype=int))
    true = kind(np.array([[[0.0, 0.0]], [[0.0, 0.0]]]))
    other = kind(np.array([[[1.0, 2.0]], [[3.0, 6.0]]]))
    report = stability.check(RWMap.compact(labels, 3, true=true, other=other))
    assert report.gradient_spread == pytest.approx(1 / 2)


def test_distance_to_the_edge(kind):
    """A row 0 0 0 0 0 0 0 1: background 7 ... 1 steps from the edge, at a spacing of 3 mm."""
    regions = Regions(kind(np.array([[[0] * 7 + [1]]])), 2, spacing_mm=(5.0, 3.0))
    report = stability.check(maps.Rectified()(regions), regions=regions)
    voxels = {name: part.voxels for name, part in report.by_distance.items()}
    assert voxels == {"edge": 2, "to 2": 1, "to 5": 3, "deeper": 2}


def test_an_image_of_one_class_has_no_edge(kind):
    regions = Regions(kind(np.zeros((1, 4, 4), dtype=int)), 2)
    report = stability.check_expression(maps.Rectified(), regions)
    assert report.by_distance["deeper"].voxels == 16


def test_values_that_are_not_finite_are_counted_and_push_nothing(kind):
    values = [(0, 1, 3), (np.nan, 1, 3), (0, np.inf, -np.inf)]
    report = stability.check(one_row(kind, values, [0, 0, 0]))
    assert report.not_finite == 2
    assert report.violating == 1
    assert report.pushed_up == pytest.approx(1 / 6)
    assert report.wrong_way_mass == pytest.approx(1 / 10)
    assert report.value_range == (0, 3)


def test_no_voxel_counts(kind):
    report = stability.check(one_row(kind, [(0, 1)], [-1]))
    assert (report.total.voxels, report.pushed_up, report.wrong_way_mass) == (0, 0, 0)
    assert math.isnan(report.value_range[0])
    assert report.absent == (0, 1)


def test_no_image_and_no_voxel(kind):
    for size in [(0, 3, 3), (2, 0, 3)]:
        labels, values = np.zeros(size, dtype=int), np.zeros((size[0], 3, *size[1:]))
        report = stability.check(RWMap.from_dense(kind(labels), kind(values)), "random")
        assert (report.num_images, report.total.voxels, report.pushed_up) == (size[0], 0, 0)
        figures = json.loads(json.dumps(report.figures(), allow_nan=False))
        assert figures["value_range"] == [None, None]


# --- The formula


@few
@given(some_labels(), st.integers(0, 3))
def test_gradient_is_that_of_softmax_times_map(case, seed):
    labels, k, rng = case
    rwmap = random_map(labels, k, "dense", rng, np.float64, torch.as_tensor)
    size = (len(labels), k, *labels.shape[1:])
    logits = torch.as_tensor(np.random.default_rng(seed).normal(0, 2, size)).requires_grad_()
    probs = logits.softmax(dim=1)
    torch.mean(probs * rwmap.values).backward()
    found = torch.stack([one.gradient for one in pushes(rwmap, probs.detach())], 1)
    torch.testing.assert_close(found / logits.numel(), logits.grad, rtol=1e-9, atol=1e-14)
