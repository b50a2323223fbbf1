"""Labels and map in one tensor: what comes back out, and how it is known to have moved."""

import itertools

import pytest
import torch
from loss_batches import given
from torch.nn import functional

from rwloss import Regions, RWLossError, maps
from rwloss.integrations.monai.packed import kept_its_grid, pack, refuse_if_warped, unpack
from rwloss.integrations.monai.stamp import Stamp, is_stamped, stamps_of

STAMP = Stamp.of(4, "rectified")


def packed_of(shape, text="rectified", num_classes=4, **settings):
    """Labels (1 *s), their map, and both in one (m *s)."""
    _, labels = given(shape, num_classes, size=1)
    rwmap = maps.parse(text)(Regions(labels, num_classes, **settings))
    return labels, rwmap, pack(labels, rwmap, Stamp.of(num_classes, text))


@pytest.mark.parametrize("shape", [(16, 12), (9, 8, 7)], ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize(("text", "compact"), [("rectified", True), ("boundary", False)])
def test_what_goes_in_comes_out(shape, num_classes, text, compact):
    labels, rwmap, packed = packed_of(shape, text, num_classes)
    assert packed.dtype == torch.float32
    assert len(packed) == (5 if compact or num_classes == 2 else 3 + num_classes)
    found = unpack(packed[None], num_classes)
    again = found.rwmap(found.labels.long(), num_classes)
    assert torch.equal(again.dense(), rwmap.dense())
    assert torch.equal(again.labels, labels.long())


def test_ignored_voxels_keep_their_label_and_cost_nothing():
    labels, _, _ = packed_of((16, 12))
    labels = labels.long()
    labels[:, 3:9, 4:] = 255
    for text, num_classes in [("rectified", 4), ("boundary", 4), ("boundary", 2)]:
        some = labels.where(labels < num_classes, 255)
        rwmap = maps.parse(text)(Regions(some, num_classes, ignore_label=255))
        found = unpack(pack(some, rwmap, STAMP)[None], num_classes)
        assert torch.equal(found.labels[0], some.float())
        assert torch.equal(found.rwmap(rwmap.labels[None], num_classes).dense(), rwmap.dense())


def test_masks():
    masks = (torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(0)) < 0.3).byte()
    rwmap = maps.get("boundary")(Regions(masks, 2))
    found = unpack(pack(masks, rwmap, STAMP)[None], 2, masks=3)
    assert torch.equal(found.rwmap(masks[None], 2).dense(), rwmap.dense())
    rest = found.without_first_mask()
    assert torch.equal(rest.labels[0], masks[1:].float())
    assert torch.equal(rest.rwmap(masks[None, 1:], 2).dense(), rwmap.dense()[1:])


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8])
def test_other_channels_are_no_packed_map(channels):
    assert unpack(torch.zeros(1, channels, 4, 4), 4) is None


def kept(packed):
    return kept_its_grid(packed[None]).item()


@pytest.mark.parametrize("shape", [(7, 5), (300, 3), (6, 5, 4), (3, 2, 270), (1, 5), (1, 1, 1)])
def test_every_flip_turn_and_crop_is_recognised(shape):
    """All symmetries of the grid, and crops of any place: brute force."""
    empty = torch.zeros(1, *shape)
    packed = pack(empty, maps.get("rectified")(Regions(empty, 2)), STAMP)
    axes = range(1, 1 + len(shape))
    for order in itertools.permutations(axes):
        for mirrored in itertools.product([False, True], repeat=len(shape)):
            turned = packed.permute(0, *order).flip([a for a in axes if mirrored[a - 1]])
            assert kept(turned)
            assert stamps_of(turned[None]) == [STAMP]
            for axis in axes:
                length = turned.shape[axis]
                assert kept(turned.narrow(axis, length // 3, length - length // 3))


@pytest.mark.parametrize("shape", [(24, 20), (10, 9, 8)], ids=str)
def test_what_is_no_move_by_whole_voxels_is_recognised(shape):
    _, _, packed = packed_of(shape)
    assert kept(packed)
    wrong = {}
    for mode in ("nearest", "linear"):
        kind = "nearest" if mode == "nearest" else ("bilinear", "trilinear")[len(shape) - 2]
        for scale in (0.7, 1.2, 2.0):
            wrong[mode, scale] = functional.interpolate(packed[None], scale_factor=scale, mode=kind)
    edges = (1, 0) * len(shape)
    wrong["zeros around"] = functional.pad(packed[None], edges)
    wrong["edge"] = functional.pad(packed[None], edges, mode="replicate")
    wrong["mirror"] = functional.pad(packed[None], edges, mode="reflect")
    wrong["rolled"] = packed.roll(3, dims=1)[None]
    wrong["scaled"] = packed[None] * 0.5
    wrong["shifted"] = packed[None] + 0.25
    wrong["noise"] = packed[None] + 1e-3 * torch.randn(packed.shape)
    wrong["half precision"] = packed.half()[None] if len(shape) == 3 else -packed[None]
    wrong["nan"] = packed[None].clone()
    wrong["nan"][0, 0, 2, 2] = torch.nan
    wrong["hole"] = packed[None].clone()
    wrong["hole"][0, :, 3:5, 3:5] = 0
    wrong["swapped"] = packed[None].clone()
    wrong["swapped"][:, :, 2, 2], wrong["swapped"][:, :, 2, 3] = (
        packed[:, 2, 3].clone(),
        packed[:, 2, 2].clone(),
    )
    for thinned in (False, True):
        missed = [
            name for name, other in wrong.items() if kept_its_grid(other, thinned=thinned).any()
        ]
        assert missed == []


@pytest.mark.parametrize("length", [128, 255, 256, 257, 300, 512])
def test_an_image_that_goes_on_at_its_other_side_is_no_grid(length):
    """Neither padded that way nor rolled, whatever byte its last voxel has."""
    empty = torch.zeros(1, length, 5)
    packed = pack(empty, maps.get("rectified")(Regions(empty, 2)), STAMP)
    assert kept(packed)
    for thinned in (False, True):
        for wrong in (functional.pad(packed, (0, 0, 3, 2), mode="circular"), packed.roll(7, 1)):
            assert not kept_its_grid(wrong[None], thinned=thinned).any()


def test_the_wrong_image_of_a_batch_is_named():
    _, _, packed = packed_of((16, 12))
    both = torch.stack([packed, packed.roll(1, dims=2)])
    assert kept_its_grid(both).tolist() == [True, False]
    refuse_if_warped(both[:1])
    assert is_stamped(both)
    with pytest.raises(RWLossError, match=r"image 1 of the batch.*RWMapd once more"):
        refuse_if_warped(both)


def test_deep_supervision_takes_a_part_of_the_voxels():
    _, _, packed = packed_of((64, 48))
    for size in [(32, 24), (16, 12), (31, 17), (5, 48)]:
        part = functional.interpolate(packed[None], size, mode="nearest-exact")
        assert kept_its_grid(part, thinned=True).all()
        assert not kept_its_grid(part).any()
        refuse_if_warped(part, may_be_thinned=True)
        with pytest.raises(RWLossError, match="resampled"):
            refuse_if_warped(part)
