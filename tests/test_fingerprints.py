"""Fingerprints of a map: kept by flips, turns and crops, and by nothing else."""

import itertools

import pytest
import torch
from anatomy import batch
from torch.nn import functional

from rwloss import Regions, maps, moves


def labels_and_map(shape, text="rectified"):
    """Labels (1 *s) and the parts of their map, as channels (c *s)."""
    labels = torch.as_tensor(batch(91, shape, 4, 1))
    parts = maps.get(text)(Regions(labels, 4)).parts
    return torch.cat([labels.float(), *(part.reshape(-1, *shape).float() for part in parts)])


@pytest.mark.parametrize("shape", [(7, 5), (300, 3), (6, 5, 4), (3, 2, 70), (1, 5), (1, 1, 1)])
def test_every_flip_turn_and_crop_has_the_fingerprints(shape):
    """All symmetries of the grid, and crops of any place."""
    values = labels_and_map(shape)
    known, axes = moves.fingerprints(values), range(1, 1 + len(shape))
    for order in itertools.permutations(axes):
        for mirrored in itertools.product([False, True], repeat=len(shape)):
            turned = values.permute(0, *order).flip([a for a in axes if mirrored[a - 1]])
            assert moves.is_moved(turned, known)
            for axis in axes:
                length = turned.shape[axis]
                cut = turned.narrow(axis, length // 3, length - length // 3)
                assert moves.is_moved(cut, known)
                assert moves.is_moved(cut.numpy(), known)


@pytest.mark.parametrize("shape", [(24, 20), (10, 9, 8), (300, 200)], ids=str)
@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_what_is_no_move_by_whole_voxels_has_other_fingerprints(shape, text):
    values = labels_and_map(shape, text)
    known = moves.fingerprints(values)
    assert moves.is_moved(values, known)
    assert moves.fingerprints(values.numpy()) == known
    resized = {
        (mode, scale): functional.interpolate(values[None], scale_factor=scale, mode=mode)[0]
        for mode in ("nearest", ("bilinear", "trilinear")[len(shape) - 2])
        for scale in (0.5, 0.7, 1.2, 2.0)
    }
    edges = (1, 0) * len(shape)
    padded = {
        mode: functional.pad(values[None], edges, mode=mode)[0]
        for mode in ("constant", "replicate", "reflect")
    }
    hole, nan, swapped = values.clone(), values.clone(), values.clone()
    hole[:, 3:5, 3:5], nan[0, 2, 2], swapped[:, [2, 9], 2] = 0, torch.nan, values[:, [9, 2], 2]
    changed = {
        "around": functional.pad(values[None], (3, 2) * len(shape), mode="circular")[0],
        "rolled": values.roll(3, dims=1),
        "scaled": values * 0.5,
        "negated": -values,
        "shifted": values + 0.25,
        "noise": values + 1e-3 * torch.randn(values.shape),
        "half precision": values.half().float(),
        "hole": hole,
    }
    if shape != (300, 200):  # of a large array, not every voxel is looked at
        changed |= {"nan": nan, "swapped": swapped}
    wrong = resized | padded | changed
    assert [name for name, other in wrong.items() if moves.is_moved(other, known)] == []


def test_every_second_voxel_of_an_even_slope_has_other_fingerprints():
    """The differences of its voxels are the same everywhere. And of large arrays."""
    slope, large = torch.zeros(64, 64), torch.zeros(700, 600)
    slope[40:], large[100:400, 50:500] = 1, 1
    for labels in (slope, large):
        regions = Regions(labels[None], 2)
        values = maps.get("boundary")(regions).dense()[0]
        known = moves.fingerprints(values)
        assert len(known) <= 4 << 14
        assert moves.is_moved(values[:, 7:, 3:].flip(1), known)
        for wrong in (
            values[:, ::2],
            values.repeat_interleave(2, dim=1),
            values + 0.25,
            functional.pad(values, (1, 1)),
        ):
            assert not moves.is_moved(wrong, known)
