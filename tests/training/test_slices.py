"""Slices: image, labels and map must stay voxel on voxel, and padding must teach nothing."""

import numpy as np
import pytest
import torch
from anatomy import anatomy

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.training import Volume, cut
from rwloss.training.slices import common_size, stacked, unstacked

SHAPES = [(5, 9, 3), (7, 6, 2), (8, 4)]  # odd, even, and a 2-D image
SIZE = (6, 7)  # crops and pads each of them


def marked(shape, first):
    """A volume whose every voxel has a number of its own, in the image and in the labels."""
    number = np.arange(first, first + np.prod(shape)).reshape(shape)
    return Volume(f"case{first}", number[None].astype(np.float32), number % 3)


def marked_map(volume, *, dense):
    """A map that holds the same numbers: at the true class, or in each channel k 10000 k more."""
    labels, number = volume.labels[None].astype(np.uint8), volume.image
    if dense:
        channels = [number + 10000 * k for k in range(3)]
        return RWMap.from_dense(labels, np.stack(channels, axis=1))
    return RWMap.compact(labels, 3, true=number, other=number + 0.5)


@pytest.fixture(params=SHAPES, ids=str)
def volumes(request):
    return [marked(request.param, 1), marked(request.param, 1001)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dense", [False, True], ids=["compact", "dense"])
def test_map_and_image_are_cut_at_the_voxels_of_the_labels(volumes, dense, axis):
    stored = {v.name: marked_map(v, dense=dense) for v in volumes}
    examples = cut(volumes, stored, SIZE, axis=axis)
    shape = volumes[0].labels.shape
    assert examples.images.shape == (
        2 * (shape[axis] if len(shape) == 3 else 1),
        1,
        *SIZE,
    )
    inside, number = examples.labels >= 0, examples.images[:, 0]
    assert torch.equal(examples.labels[inside], number[inside].long() % 3)
    assert torch.equal(examples.rwmap.labels, examples.labels)
    if dense:
        for k in range(3):
            assert torch.equal(examples.rwmap.values[:, k][inside], number[inside] + 10000 * k)
        assert not examples.rwmap.values.permute(0, 2, 3, 1)[~inside].any()
    else:
        assert torch.equal(examples.rwmap.true[inside], number[inside])
        assert torch.equal(examples.rwmap.other[inside], number[inside] + 0.5)
        assert not examples.rwmap.true[~inside].any()
        assert not examples.rwmap.other[~inside].any()
    assert not number[~inside].any()
    plane = shape if len(shape) == 2 else shape[:axis] + shape[axis + 1 :]
    shown = np.prod(np.minimum(plane, SIZE))
    assert inside.sum(dim=(1, 2)).tolist() == [shown] * len(examples)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacked_slices_make_the_volume_again(shape, axis):
    values = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    assert np.array_equal(
        unstacked(stacked(values, len(shape), axis), len(shape), axis),
        values,
    )


def test_common_size_holds_every_slice():
    volumes = [marked((5, 9, 3), 1), marked((10, 4, 3), 1)]
    assert common_size(volumes) == (10, 9)
    assert common_size(volumes, multiple_of=8) == (16, 16)
    assert common_size(volumes, axis=0, multiple_of=2) == (10, 4)


@pytest.mark.parametrize("text", ["boundary", "rectified", None])
def test_padding_has_no_part_in_the_loss(text):
    """With stored maps, and with maps made on the fly (text None)."""
    labels = anatomy(3, (9, 11, 4), num_classes=3).astype(np.int64)
    volume = Volume("case", np.zeros((1, *labels.shape), np.float32), labels)
    stored = text and {"case": maps.get(text)(Regions.single(labels, 3, (1.0, 1.0, 2.0)))}
    examples = cut([volume], stored, (16, 16))
    assert (examples.rwmap is None) == (text is None)
    logits = torch.randn(4, 3, 16, 16, requires_grad=True)
    loss = RegionWiseLoss(text or "rectified", ignore_index=-1, reduction="sum")
    value = loss(logits, examples.labels, examples.rwmap)
    value.backward()
    padding = (examples.labels == -1)[:, None].expand_as(logits)
    assert not logits.grad[padding].any()
    assert logits.grad[~padding].any()
    changed = torch.where(padding, logits.detach() + 5.0, logits.detach())
    assert loss(changed, examples.labels, examples.rwmap) == value


def test_missing_map_is_named(volumes):
    with pytest.raises(RWLossError, match="no map of case 'case1001'"):
        cut(volumes, {"case1": marked_map(volumes[0], dense=False)}, SIZE)


def test_map_of_another_shape_is_named(volumes):
    other = marked((3, 3, 3), 1)
    stored = {v.name: marked_map(other, dense=False) for v in volumes}
    with pytest.raises(RWLossError, match=r"map of case 'case1' is of labels \(3, 3, 3\)"):
        cut(volumes, stored, SIZE)
