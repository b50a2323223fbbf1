"""Compact and dense maps: their parts, sums, multiples and projections, against dense arrays."""

import dataclasses
import operator
import re

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, dtypes, few, kinds, random_map, some_labels

from rwloss import Regions, RWLossError, RWMap, maps, moves, stability
from rwloss.arrays import to_numpy

forms = st.sampled_from(["compact", "dense"])


def dense(rwmap):
    return to_numpy(rwmap.dense())


def contents(*rwmaps):
    return [to_numpy(part).copy() for rwmap in rwmaps for part in (rwmap.labels, *rwmap.parts)]


def parts(shape=(6, 7), num_classes=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    labels = batch(0, shape, num_classes)
    true, other = rng.standard_normal((2, *labels.shape)).astype(dtype)
    return labels, true, other


def test_compact_map_expands(kind):
    for shape, dtype in [((6, 7), np.float32), ((3, 4, 5), np.float64)]:
        labels, true, other = parts(shape, dtype=dtype)
        rwmap = RWMap.compact(kind(labels), 4, true=kind(true), other=kind(other))
        assert rwmap.is_compact
        assert isinstance(rwmap.dense(), type(rwmap.labels))
        dense = to_numpy(rwmap.dense())
        assert dense.dtype == dtype
        assert dense.shape == (3, 4, *shape)
        for k in range(4):
            np.testing.assert_array_equal(dense[:, k], np.where(labels == k, true, other))


def test_dense_map_gives_its_own_values(kind):
    labels, *_ = parts()
    values = kind(np.random.default_rng(1).standard_normal((3, 4, 6, 7)))
    rwmap = RWMap.from_dense(kind(labels), values)
    assert not rwmap.is_compact
    assert rwmap.num_classes == 4
    assert rwmap.dense() is values


def test_constant_parts_need_no_memory():
    labels, *_ = parts()
    zeros = np.broadcast_to(np.float32(0), labels.shape)
    rwmap = RWMap.compact(labels, 4, true=zeros, other=np.broadcast_to(np.float32(1), labels.shape))
    np.testing.assert_array_equal(rwmap.dense().sum(axis=1), 3)


def test_a_map_is_frozen_and_has_one_form():
    labels, true, other = parts()
    rwmap = RWMap.compact(labels, 4, true=true, other=other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rwmap.true = other
    values = np.zeros((3, 4, 6, 7), dtype=np.float32)
    for pieces in [(), (true, other, values)]:
        with pytest.raises(RWLossError, match="a map has one form"):
            RWMap(labels, 4, pieces)


def test_a_map_says_what_it_does_not_have(kind):
    labels, true, other = map(kind, parts())
    compact = RWMap.compact(labels, 4, true=true, other=other)
    dense = RWMap.from_dense(labels, compact.dense())
    with pytest.raises(RWLossError, match=r"no `values`: use \.dense\(\)"):
        compact.values  # noqa: B018
    for name in ("true", "other"):
        with pytest.raises(RWLossError, match=f"no `{name}`.*stabilized"):
            getattr(dense, name)


def test_a_map_knows_what_it_is_of(kind):
    """Generators and expressions name their maps; arithmetic by hand forgets the name."""
    labels, *_ = parts()
    regions = Regions(kind(labels), 4, (1.0, 2.5))
    for text in (
        "rectified",
        "boundary(convention='valverde')",
        "rectified + 0.1 * boundary",
        "boundary.stabilized()",
    ):
        rwmap = maps.parse(text)(regions)
        assert (rwmap.expression, rwmap.spacing_mm) == (text, ((1.0, 2.5),) * 3)
    probs = kind(np.full((3, 4, 6, 7), 0.25, dtype=np.float32))
    for text in ("dice", "rectified.with_link(0.5)", "blend(dice, rectified, schedule='steal')"):
        assert maps.parse(text)(regions, probs).expression == text
    made = maps.get("rectified")(regions)
    assert (
        repr(made) == "RWMap(rectified, compact, labels (3, 6, 7), 4 classes, spacing 1 x 2.5 mm)"
    )
    assert moves.flip(made, 0).expression == "rectified"
    turned = moves.rot90(made)
    assert (turned.expression, turned.spacing_mm) == ("rectified", ((2.5, 1.0),) * 3)
    for by_hand in (2 * made, made + made, -made, made.stabilized()):
        assert (by_hand.expression, by_hand.spacing_mm) == (None, None)
    assert repr(2 * made) == "RWMap(compact, labels (3, 6, 7), 4 classes)"
    assert repr(regions) == "Regions(labels (3, 6, 7), 4 classes, spacing 1 x 2.5 mm)"
    unknown = Regions(kind(labels), 4)  # a spacing of 1, which may not be mm
    assert repr(unknown) == "Regions(labels (3, 6, 7), 4 classes, spacing 1 x 1)"


def test_parts_of_another_shape(kind):
    labels, true, other = map(kind, parts())
    for name in ("true", "other"):
        given = {"true": true, "other": other, name: kind(np.zeros((3, 6, 8)))}
        message = f"map `{name}` has shape (3, 6, 8), but labels (3, 6, 7) with 4 classes need"
        with pytest.raises(RWLossError, match=re.escape(f"{message} (3, 6, 7)")):
            RWMap.compact(labels, 4, **given)
    for shape in [(3, 4, 6, 8), (2, 4, 6, 7), (3, 4, 6, 7, 1), (3, 4)]:
        message = f"map `values` has shape {shape}, but labels (3, 6, 7) with {shape[1]} classes"
        with pytest.raises(RWLossError, match=re.escape(message)):
            RWMap.from_dense(labels, kind(np.zeros(shape)))


def test_parts_of_another_kind():
    labels, true, other = parts()
    with pytest.raises(RWLossError, match="`other` and its labels have different array types"):
        RWMap.compact(labels, 4, true=true, other=torch.as_tensor(other))
    with pytest.raises(RWLossError, match="expected a floating `true`, got dtype"):
        RWMap.compact(labels, 4, true=true.astype(int), other=other)


# --- On a device


def test_to_a_device(kind):
    labels, true, other = map(kind, parts())
    compact = RWMap.compact(labels, 4, true=true, other=other)
    for rwmap in (compact, RWMap.from_dense(labels, compact.dense())):
        moved = rwmap.to("cpu", non_blocking=True)
        assert moved.num_classes == 4
        assert moved.is_compact == rwmap.is_compact
        pairs = zip((rwmap.labels, *rwmap.parts), (moved.labels, *moved.parts), strict=True)
        for before, after in pairs:
            assert torch.equal(after, torch.as_tensor(before).cpu())
            assert after.dtype == torch.as_tensor(before).dtype
            on_cpu = isinstance(before, torch.Tensor) and before.device.type == "cpu"
            assert after is before or not on_cpu
        elsewhere = rwmap.to(torch.device("meta"))
        assert {t.device.type for t in (elsewhere.labels, *elsewhere.parts)} == {"meta"}


def test_to_a_device_of_arrays_that_torch_refuses():
    """Negative strides, foreign byte order, read-only memory: no error, no warning."""
    labels, true, _ = parts()
    constant = np.broadcast_to(np.float32(1), labels.shape)
    rwmap = RWMap.compact(labels[:, ::-1], 4, true=true[:, ::-1].astype(">f4"), other=constant)
    moved = rwmap.to("cpu")
    assert torch.equal(moved.dense(), torch.as_tensor(rwmap.dense().astype(np.float32)))


def test_lightning_moves_it_with_a_batch():
    fabric = pytest.importorskip("lightning.fabric.utilities", reason="Lightning is not installed")
    labels, true, other = parts()
    rwmap = RWMap.compact(labels, 4, true=true, other=other)
    batch_of_one = {"image": torch.zeros(1), "map": [rwmap]}
    moved = fabric.move_data_to_device(batch_of_one, torch.device("meta"))
    assert moved["map"][0].true.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_to_a_gpu_and_back():
    labels, true, other = parts()
    moved = RWMap.compact(labels, 4, true=true, other=other).to("cuda")
    assert moved.true.is_cuda
    np.testing.assert_array_equal(moved.to("cpu").true, true)


def test_a_map_refuses_another_spacing(kind):
    labels = kind(parts((1, 6, 7))[0])
    rows = [(3.0, 0.5, 0.5), (3.0, 0.5, 1.0), (2.0, 0.5, 0.5)]
    made = maps.Rectified()(Regions(labels, 4, rows))
    turned = moves.rot90(made, axes=(1, 2))
    # The first axis is one voxel long: its spacing does not matter.
    near = [(99.0, 0.50004, 0.5), (3.0, 0.5, 1.0), (1.0, 0.5, 0.5)]
    by_hand = RWMap.from_dense(made.labels, made.dense())
    for rwmap in (made, made.with_arrays(np.asarray), 1 * made, by_hand):
        rwmap.check_spacing(near)
        rwmap.check_spacing(None)
    turned.check_spacing([(3, 0.5, 0.5), (3, 1, 0.5), (2, 0.5, 0.5)])
    for rwmap, known in ((made, "3 x 0.5 x 1"), (turned, "3 x 1 x 0.5")):
        message = f"made at a spacing of {known} mm, but the image has 3 x 0.5 x 0.5 mm: make the"
        with pytest.raises(RWLossError, match=message):
            rwmap.check_spacing(((3.0, 0.5, 0.5),) * 3)


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
    before, found = contents(rwmap), rwmap.stabilized()
    for was, now in zip(before, contents(rwmap), strict=True):
        np.testing.assert_array_equal(was, now)
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


def test_stabilized_by_hand():
    """Class 2 of (1, 3, v): the mean wrong value is 2, v stays up to 2, then all are level."""
    for true, wanted in [(-1, (2, 2, -1)), (2, (2, 2, 2)), (5, (3, 3, 3))]:
        values = np.array([1.0, 3.0, true]).reshape(1, 3, 1, 1)
        found = RWMap.from_dense(np.array([[[2]]]), values).stabilized()
        np.testing.assert_array_equal(found.dense().ravel(), wanted)


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


def test_torch_and_numpy_agree_to_the_last_bit():
    labels = batch(3, (5, 6))
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    found = RWMap.from_dense(labels, values).stabilized()
    other = RWMap.from_dense(torch.as_tensor(labels), torch.as_tensor(values)).stabilized()
    np.testing.assert_array_equal(found.dense(), other.dense())
