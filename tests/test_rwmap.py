"""Compact and dense maps."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RWLossError, RWMap, maps, moves
from rwloss.arrays import to_numpy


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
    for given in [(), (true, other, values)]:
        with pytest.raises(RWLossError, match="a map has one form"):
            RWMap(labels, 4, given)


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
    with pytest.raises(RWLossError, match="`other` and its labels are of different array kinds"):
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


def test_a_map_refuses_another_purpose(kind):
    labels = kind(parts((1, 6, 7))[0])
    rows = [(3.0, 0.5, 0.5), (3.0, 0.5, 1.0), (2.0, 0.5, 0.5)]
    made = maps.Rectified()(Regions(labels, 4, rows))
    turned = moves.rot90(made, axes=(1, 2))
    # The first axis is one voxel long: its spacing does not matter.
    near = [(99.0, 0.50004, 0.5), (3.0, 0.5, 1.0), (1.0, 0.5, 0.5)]
    by_hand = RWMap.from_dense(made.labels, made.dense())
    for rwmap in (made, made.with_arrays(np.asarray), 1 * made, by_hand):
        rwmap.check_made_for("rectified", near)
        rwmap.check_made_for(None)
    turned.check_made_for("rectified", [(3, 0.5, 0.5), (3, 1, 0.5), (2, 0.5, 0.5)])
    with pytest.raises(RWLossError, match=r"of rectified, but a map of 0\.5 \* rectified is need"):
        made.check_made_for("0.5 * rectified")
    for rwmap, given in ((made, "3 x 0.5 x 1"), (turned, "3 x 1 x 0.5")):
        message = f"made at a spacing of {given} mm, but the image has 3 x 0.5 x 0.5 mm: make the"
        with pytest.raises(RWLossError, match=message):
            rwmap.check_made_for("rectified", ((3.0, 0.5, 0.5),) * 3)
