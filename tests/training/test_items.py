"""Items: slices and volumes with their spacing, and stored maps at the very same voxels."""

import numpy as np
import pytest
import torch

from rwloss import RWLossError, RWMap
from rwloss.training import Volume, items_of
from rwloss.training.items import num_bytes, slice_axis_of, stored_maps


def marked(shape, first=1, spacing_mm=None):
    """A volume whose every voxel has a number of its own, in the image and in the labels."""
    number = np.arange(first, first + np.prod(shape)).reshape(shape)
    return Volume(f"case{first}", number[None].astype(np.float32), number % 3, spacing_mm)


def map_of(volume, *, dense=False):
    """A map that holds the same numbers: at the true class, or in each channel k 10000 k more."""
    labels, number = volume.labels[None].astype(np.uint8), volume.image
    if dense:
        channels = [number + 10000 * k for k in range(3)]
        return RWMap.from_dense(labels, np.stack(channels, axis=1))
    return RWMap.compact(labels, 3, true=number, other=number + 0.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dense", [False, True], ids=["compact", "dense"])
@pytest.mark.parametrize("shape", [(5, 9, 3), (8, 4)], ids=str)
def test_slices_of_image_labels_and_map_are_of_the_same_voxels(shape, dense, axis):
    spacing_mm = (1.0, 2.0, 3.0)[: len(shape)]
    volume = marked(shape, spacing_mm=spacing_mm)
    items = list(items_of(volume, map_of(volume, dense=dense), dims=2, slice_axis=axis))
    if len(shape) == 2:
        assert len(items) == 1
        wanted, plane = [volume.labels], spacing_mm
    else:
        wanted = list(np.moveaxis(volume.labels, axis, 0))
        plane = tuple(np.delete(spacing_mm, axis))
    assert len(items) == len(wanted)
    for item, labels in zip(items, wanted, strict=True):
        number = item.image[0]
        assert item.spacing_mm == plane
        assert np.array_equal(item.labels.numpy(), labels)
        assert torch.equal(number.long() % 3, item.labels.long())
        if dense:
            for k in range(3):
                assert torch.equal(item.map_parts["values"][k], number + 10000 * k)
        else:
            assert torch.equal(item.map_parts["true"], number)
            assert torch.equal(item.map_parts["other"], number + 0.5)


def test_a_volume_is_one_item_in_3d():
    volume = marked((5, 9, 3), spacing_mm=(1.0, 1.0, 3.0))
    [item] = items_of(volume, map_of(volume), dims=3)
    assert np.array_equal(item.image.numpy(), volume.image)
    assert item.spacing_mm == (1.0, 1.0, 3.0)
    assert set(item.map_parts) == {"true", "other"}
    [bare] = items_of(marked((8, 4)), dims=2)
    assert bare.map_parts == {}
    assert bare.spacing_mm == (1.0, 1.0)


def test_missing_and_foreign_maps_are_named():
    volumes = [marked((5, 9, 3)), marked((5, 9, 3), 1002)]
    with pytest.raises(RWLossError, match="no map of case 'case1002'"):
        list(stored_maps(volumes, {"case1": map_of(volumes[0])}))
    assert list(stored_maps(volumes, None)) == [None, None]
    for foreign in (marked((3, 3, 3)), marked((5, 9, 3), 2)):
        with pytest.raises(RWLossError, match="map of case 'case1' was made from other labels"):
            list(items_of(volumes[0], map_of(foreign), dims=2, slice_axis=0))


@pytest.mark.parametrize(
    ("spacings", "axis"),
    [
        ([None], 2),
        ([(1.0, 1.0, 1.0)], 2),
        ([(1.0, 3.0, 1.0)], 1),
        ([(3.0, 1.0, 2.999)], 2),
        ([(5.0, 1.0, 1.0), (1.0, 4.0, 1.0), (1.0, 4.0, 1.0)], 1),
    ],
)
def test_slices_lie_across_the_largest_spacing(spacings, axis):
    assert slice_axis_of([marked((2, 2, 2), spacing_mm=each) for each in spacings]) == axis


def test_memory_is_what_the_items_take():
    volume = marked((5, 9, 3))
    for rwmap, values in ((None, 0), (map_of(volume), 2), (map_of(volume, dense=True), 3)):
        [item] = items_of(volume, rwmap, dims=3)
        tensors = [item.image, item.labels, *item.map_parts.values()]
        assert num_bytes([volume], map_values=values) == sum(t.nbytes for t in tensors)
