"""Maps add, subtract, scale and are stabilized: against dense arithmetic and plain projections."""

import operator

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from strategies import KINDS, dtypes, few, kinds, random_map, some_labels

from rwloss import RWLossError, RWMap, stability
from rwloss.arrays import to_numpy

forms = st.sampled_from(["compact", "dense"])


def dense(rwmap):
    return to_numpy(rwmap.dense())


def contents(*rwmaps):
    return [to_numpy(part).copy() for rwmap in rwmaps for part in (rwmap.labels, *rwmap.parts)]


# --- Sums


@few
@given(some_labels(), forms, forms, dtypes, dtypes, kinds, st.floats(-4, 4))
def test_sums_are_those_of_dense_values(case, form, other_form, dtype, other_dtype, kind, factor):
    labels, num_classes, rng = case
    a = random_map(labels, num_classes, form, rng, dtype, kind)
    b = random_map(labels, num_classes, other_form, rng, other_dtype, kind)
    before = contents(a, b)
    wanted = np.result_type(dtype, other_dtype)
    for found, expected in [
        (a + b, dense(a) + dense(b)),
        (a - b, dense(a) - dense(b)),
        (-a, -dense(a)),
        (a * factor, dense(a) * dtype(factor)),
        (factor * b, dense(b) * other_dtype(factor)),
    ]:
        assert found.labels is a.labels or found.labels is b.labels
        np.testing.assert_array_equal(dense(found), expected)
        assert dense(found).dtype == expected.dtype
    assert (a + b).is_compact == (a.is_compact and b.is_compact)
    assert (a * factor).is_compact == a.is_compact
    assert dense(a + b).dtype == wanted
    assert not dense(a + b)[np.broadcast_to((labels == -1)[:, None], dense(a).shape)].any()
    for was, now in zip(before, contents(a, b), strict=True):
        np.testing.assert_array_equal(was, now)


@few
@given(some_labels(), st.lists(forms, min_size=3, max_size=3), dtypes)
def test_laws_of_addition(case, form, dtype):
    labels, num_classes, rng = case
    a, b, c = (random_map(labels, num_classes, f, rng, dtype) for f in form)
    slack = 50 * np.finfo(dtype).eps
    np.testing.assert_array_equal(dense(a + b), dense(b + a))
    np.testing.assert_allclose(dense(a + b + c), dense(a + (b + c)), atol=slack)
    np.testing.assert_allclose(dense(2.5 * (a + b)), dense(2.5 * a + 2.5 * b), atol=slack)
    np.testing.assert_array_equal(dense(a - a), 0)
    np.testing.assert_array_equal(dense(2 * a), dense(a + a))


def test_large_values_of_a_compact_map_do_not_cancel():
    """Adding true - other to what already has `other` would lose the small values."""
    labels = np.array([[[0, 1]]])
    small = RWMap.from_dense(labels, np.full((1, 2, 1, 2), 1e-3, dtype=np.float32))
    large = np.full((1, 1, 2), 1e8, dtype=np.float32)
    total = small + RWMap.compact(labels, 2, true=np.zeros_like(large), other=large)
    np.testing.assert_array_equal(total.dense()[0, [0, 1], 0, [0, 1]], np.float32(1e-3))


def test_parts_of_two_types_expand_to_the_wider(kind):
    labels = kind(np.array([[[0, 1, 2]]]))
    true = kind(np.full((1, 1, 3), 1.5, dtype=np.float32))
    other = kind(np.full((1, 1, 3), 1 / 3, dtype=np.float64))
    found = dense(RWMap.compact(labels, 3, true=true, other=other))
    assert found[0, 1, 0, 0] == 1 / 3


def test_ones_over_all_axes_are_never_written_to():
    labels = batch(3, (4, 5))
    one = np.broadcast_to(np.float32(1), labels.shape)  # read-only
    flat = RWMap.compact(labels, 4, true=one, other=one)
    values = np.random.default_rng(0).normal(size=(3, 4, 4, 5))
    values.flags.writeable = False
    np.testing.assert_array_equal(dense(RWMap.from_dense(labels, values) + flat), values + 1)


@pytest.mark.parametrize("form", ["compact", "dense"])
def test_labels_that_differ(kind, form):
    labels = batch(3, (4, 5))
    changed = labels.copy()
    changed[1, 2, 3] = (changed[1, 2, 3] + 1) % 4
    rng = np.random.default_rng(0)
    a = random_map(labels, 4, form, rng, np.float32, kind)
    with pytest.raises(RWLossError, match="maps of different labels can't be added"):
        a + random_map(changed, 4, form, rng, np.float32, kind)
    with pytest.raises(RWLossError, match=r"labels \(3, 4, 5\) and \(2, 4, 5\) can't be added"):
        a - random_map(labels[:2], 4, form, rng, np.float32, kind)
    with pytest.raises(RWLossError, match="maps of 4 and of 5 classes can't be added"):
        a + random_map(labels, 5, form, rng, np.float32, kind)


def test_equal_labels_of_another_type_may_be_added(kind):
    labels, rng = batch(3, (4, 5)), np.random.default_rng(0)
    a = random_map(labels.astype(np.uint8), 4, "compact", rng, np.float32, kind)
    b = random_map(labels.astype(np.int64), 4, "dense", rng, np.float32, kind)
    np.testing.assert_array_equal(dense(a + b), dense(a) + dense(b))


def test_numpy_and_torch_do_not_mix():
    labels, rng = batch(3, (4, 5)), np.random.default_rng(0)
    a, b = (random_map(labels, 4, "dense", rng, np.float32, kind) for kind in KINDS.values())
    with pytest.raises(RWLossError, match="a NumPy map and a torch map can't be added"):
        a + b


def test_only_maps_add_to_maps_and_only_numbers_scale_them():
    a = random_map(batch(3, (4, 5)), 4, "compact", np.random.default_rng(0), np.float32)
    for thing in (1, 1.5, None, "1", np.ones(3)):
        for operation in (operator.add, operator.sub):
            with pytest.raises(TypeError):
                operation(a, thing)
    for thing in (True, None, "2", 1j, a):
        with pytest.raises(TypeError):
            a * thing


def test_weight_is_of_compact_maps(kind):
    rng = np.random.default_rng(0)
    a = random_map(batch(3, (4, 5)), 4, "compact", rng, np.float32, kind)
    np.testing.assert_array_equal(to_numpy(a.weight()), to_numpy(a.other) - to_numpy(a.true))
    b = random_map(batch(3, (4, 5)), 4, "dense", rng, np.float32, kind)
    with pytest.raises(RWLossError, match=r"no `other`, .*use .*\.stabilized\(\)"):
        b.weight()


# --- The projection: stable maps are the cone of a·(1, ..., 1) + b·(1 at the wrong classes), b >= 0


def by_voxel(rwmap):
    """Values (n k) and labels (n) of the voxels that belong to a class."""
    values, labels = np.moveaxis(dense(rwmap), 1, -1), to_numpy(rwmap.labels)
    return values[labels >= 0], labels[labels >= 0]


@few
@given(some_labels(), forms, dtypes, kinds)
def test_stabilized_is_the_euclidean_projection(case, form, dtype, kind):
    """x in a convex cone is nearest to z where z - x is orthogonal to x and leads out of the cone.

    The cone of stable maps at a voxel is spanned by 1, -1 (all classes) and w (the wrong classes).
    """
    labels, num_classes, rng = case
    rwmap = random_map(labels, num_classes, form, rng, dtype, kind)
    found = rwmap.stabilized()
    assert found.is_compact
    assert dense(found).dtype == dtype
    z, true = by_voxel(rwmap)
    x, _ = by_voxel(found)
    wrong = np.arange(num_classes) != true[:, None]
    left = (z.astype(float) - x) / max(1, np.abs(z).max(initial=0))
    slack = 30 * np.finfo(dtype).eps
    np.testing.assert_allclose((left * x).sum(axis=1), 0, atol=30 * slack)
    np.testing.assert_allclose(left.sum(axis=1), 0, atol=slack)
    assert ((left * wrong).sum(axis=1) <= slack).all()
    assert stability.check(found).violating == 0
    ignored = np.broadcast_to((labels == -1)[:, None], dense(found).shape)
    np.testing.assert_array_equal(dense(found)[ignored], 0)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_stabilized_is_what_non_negative_least_squares_finds(num_classes):
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(0, num_classes, (1, 3, 8))
    rwmap = random_map(labels, num_classes, "dense", rng, np.float64)
    z, true = by_voxel(rwmap)
    x, _ = by_voxel(rwmap.stabilized())
    assert len(np.unique(true)) > 1
    for target, t, found in zip(z, true, x, strict=True):
        wrong = (np.arange(num_classes) != t).astype(float)
        spanned = np.stack([np.ones(num_classes), -np.ones(num_classes), wrong], axis=1)
        share, _ = nnls(spanned, target)
        np.testing.assert_allclose(found, spanned @ share, atol=1e-12)


def test_stabilized_by_hand():
    """Class 2 of (1, 3, v): the mean wrong value is 2, v stays up to 2, then all are level."""
    for true, wanted in [(-1, (2, 2, -1)), (2, (2, 2, 2)), (5, (3, 3, 3))]:
        values = np.array([1.0, 3.0, true]).reshape(1, 3, 1, 1)
        found = RWMap.from_dense(np.array([[[2]]]), values).stabilized()
        np.testing.assert_array_equal(found.dense().ravel(), wanted)


@few
@given(some_labels(), forms, dtypes, kinds)
def test_stabilized_twice_is_once(case, form, dtype, kind):
    labels, num_classes, rng = case
    once = random_map(labels, num_classes, form, rng, dtype, kind).stabilized()
    np.testing.assert_array_equal(dense(once.stabilized()), dense(once))
    again = RWMap.from_dense(once.labels, once.dense()).stabilized()
    np.testing.assert_array_equal(dense(again), dense(once))


@few
@given(some_labels(), dtypes, kinds, st.sampled_from([1e-30, 1.0, 1e30]))
def test_a_stable_map_keeps_every_bit(case, dtype, kind, scale):
    """Compact or dense, with flat voxels among the others."""
    labels, num_classes, rng = case
    true, other = (scale * rng.normal(size=(2, *labels.shape))).astype(dtype)
    true = np.where(rng.random(labels.shape) < 0.3, other, np.minimum(true, other))
    true[labels == -1] = other[labels == -1] = 0
    compact = RWMap.compact(kind(labels), num_classes, true=kind(true), other=kind(other))
    for rwmap in (compact, RWMap.from_dense(compact.labels, compact.dense())):
        assert dense(rwmap.stabilized()).tobytes() == dense(compact).tobytes()


def test_stabilized_leaves_its_input_alone(kind):
    rwmap = random_map(batch(3, (4, 5)), 4, "dense", np.random.default_rng(0), np.float32, kind)
    before = dense(rwmap).copy()
    rwmap.stabilized()
    np.testing.assert_array_equal(dense(rwmap), before)


def test_torch_and_numpy_agree_to_the_last_bit():
    labels = batch(3, (5, 6))
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    found = RWMap.from_dense(labels, values).stabilized()
    other = RWMap.from_dense(torch.as_tensor(labels), torch.as_tensor(values)).stabilized()
    np.testing.assert_array_equal(found.dense(), other.dense())
