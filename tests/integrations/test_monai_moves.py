"""Which transforms of MONAI a map follows, and which not."""

import numpy as np
import pytest
import torch

from rwloss import Regions, RegionWiseLoss, RWLossError, maps

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import list_data_collate
from monai.losses import DeepSupervisionLoss
from monai_samples import FLAGS, KEYS, SPACING_MM, dense_of, sample, seeded

from rwloss.integrations.monai import RWLoss, RWMapd
from rwloss.integrations.monai.map_tensor import unpack

EXACT = [
    mt.Flipd(KEYS, 0),
    mt.RandFlipd(KEYS, 1.0, spatial_axis=1),
    mt.RandAxisFlipd(KEYS, 1.0),
    mt.Rotate90d(KEYS, 3),
    mt.RandRotate90d(KEYS, 1.0),
    mt.SpatialCropd(KEYS, roi_start=(2, 3, 1), roi_end=(9, 9, 8)),
    mt.CenterSpatialCropd(KEYS, 6),
    mt.CenterScaleCropd(KEYS, 0.6),
    mt.RandSpatialCropd(KEYS, 6, random_size=False),
    mt.RandScaleCropd(KEYS, 0.5),
    mt.RandSpatialCropSamplesd(KEYS, 6, 2),
    mt.RandCropByPosNegLabeld(KEYS, "label", 6, num_samples=2),
    mt.RandCropByLabelClassesd(KEYS, "label", 6, num_classes=4, num_samples=2),
    mt.CropForegroundd(KEYS, "label", allow_smaller=True),
    mt.EnsureTyped(KEYS),
    # These do nothing.
    mt.SpatialPadd(KEYS, 4),
    mt.RandZoomd(KEYS, prob=0.0),
    mt.RandAffined(KEYS, prob=0.0),
    # Several, and lazily.
    mt.Compose(
        [mt.RandFlipd(KEYS, 1.0, 0), mt.RandRotate90d(KEYS, 1.0), mt.CenterSpatialCropd(KEYS, 6)]
    ),
    mt.Compose(
        [mt.RandFlipd(KEYS, 1.0, 0), mt.RandRotate90d(KEYS, 1.0), mt.CenterSpatialCropd(KEYS, 6)],
        lazy=True,
    ),
]


INEXACT = {
    "Zoomd": lambda keys, axes: mt.Zoomd(keys, 1.3, mode="nearest"),
    "Zoomd out": lambda keys, axes: mt.Zoomd(keys, 0.7, mode="nearest", keep_size=False),
    "RandZoomd": lambda keys, axes: mt.RandZoomd(
        keys, 1.0, min_zoom=1.2, max_zoom=1.4, mode=("bilinear", "nearest", "bilinear")[: len(keys)]
    ),
    "Rotated": lambda keys, axes: mt.Rotated(keys, 0.3, mode="nearest"),
    "RandAffined": lambda keys, axes: mt.RandAffined(
        keys, prob=1.0, shear_range=[(0.4, 0.5)] * 2, mode="nearest", padding_mode="border"
    ),
    "RandGridDistortiond": lambda keys, axes: mt.RandGridDistortiond(
        keys, prob=1.0, distort_limit=(0.3, 0.4), mode="nearest"
    ),
    "Rand2DElasticd, Rand3DElasticd": lambda keys, axes: (
        mt.Rand2DElasticd(keys, (5, 5), (2, 3), prob=1.0, mode="nearest")
        if axes == 2
        else mt.Rand3DElasticd(keys, (1, 2), (30, 50), prob=1.0, mode="nearest")
    ),
    "Resized": lambda keys, axes: mt.Resized(keys, 9, "longest", mode="nearest"),
    # These leave whole voxels, in a grid of every second or third.
    "Resized to a third": lambda keys, axes: mt.Resized(keys, 5, "longest", mode="nearest"),
    "Zoomd to a half": lambda keys, axes: mt.Zoomd(keys, 0.5, mode="nearest", keep_size=False),
    "Spacingd to a third": lambda keys, axes: mt.Spacingd(
        keys, [3 * mm for mm in SPACING_MM[axes]], mode="nearest"
    ),
    "Spacingd": lambda keys, axes: mt.Spacingd(keys, 1.3, mode="nearest"),
    "SpatialPadd": lambda keys, axes: mt.SpatialPadd(keys, 16),
    "DivisiblePadd": lambda keys, axes: mt.DivisiblePadd(keys, 8, mode="edge"),
    "ResizeWithPadOrCropd": lambda keys, axes: mt.ResizeWithPadOrCropd(keys, 13),
    "SpatialPadd, around": lambda keys, axes: mt.SpatialPadd(keys, 16, mode="wrap"),
    "CropForegroundd with a margin": lambda keys, axes: mt.CropForegroundd(keys, "label", margin=9),
    "Rotated by a quarter, cut off": lambda keys, axes: mt.Rotated(
        keys, np.pi / 2 if axes == 2 else [np.pi / 2, 0, 0], keep_size=True, mode="nearest"
    ),
    "RandAffined, lazy": lambda keys, axes: mt.Compose(
        [
            mt.RandFlipd(keys, 1.0, spatial_axis=0),
            mt.RandAffined(keys, prob=1.0, scale_range=[(0.3, 0.4)] * axes),
        ],
        lazy=True,
        overrides={key: {"mode": "nearest"} for key in keys},
    ),
    "RandCoarseShuffled": lambda keys, axes: mt.RandCoarseShuffled(keys, 9, 5, prob=1.0),
    "BorderPadd": lambda keys, axes: mt.BorderPadd(keys, 1),
}


@pytest.mark.parametrize("transform", EXACT, ids=lambda transform: type(transform).__name__)
def test_map_follows_exactly(transform):
    for seed, (axes, text) in enumerate(((2, "boundary"), (3, "rectified"))):
        moved = seeded(transform, seed)(sample(axes, text))
        for one in moved if isinstance(moved, list) else [moved]:
            assert torch.equal(one["map"].as_tensor()[:1], one["label"].as_tensor())
            assert torch.equal(dense_of(one["map"]), one["reference"].as_tensor())
            # The same transform again keeps it, and the loss takes it.
            again = RWMapd("label", text, 4)(one)
            assert again["map"] is one["map"]
            logits = torch.randn(1, 4, *one["label"].shape[1:])
            loss = RWLoss(text, **FLAGS)
            torch.testing.assert_close(
                loss(logits, one["map"][None]),
                RegionWiseLoss(text)(
                    logits, one["label"].as_tensor()[None], one["reference"].as_tensor()[None]
                ),
            )


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", INEXACT)
def test_other_moves_are_refused_and_repaired(name, axes):
    # Rotation shears the affine of voxels that are not cubes: it gives no spacing.
    spacing_mm = SPACING_MM[axes]
    loss = RWLoss("rectified", **FLAGS, spacing_mm=spacing_mm)
    make, make_fresh = (
        RWMapd("label", "rectified", 4, spacing_mm=spacing_mm, map_keys=key)
        for key in ("map", "fresh")
    )
    for keys, message in (
        (KEYS[:3], "was resampled|went through"),
        (KEYS[:2], "other labels|map has labels"),  # the map is left behind
    ):
        warped = seeded(INEXACT[name](keys, axes), 3)(sample(axes))
        logits = torch.randn(1, 4, *warped["label"].shape[1:])
        with pytest.raises(RWLossError, match=message):
            loss(logits, warped["label"][None], warped["map"][None])
        if "map" in keys:
            with pytest.raises(RWLossError, match="RWMapd once more"):
                loss(logits, warped["map"][None])
        repaired, fresh = make(warped)["map"], make_fresh(warped)["fresh"]
        assert torch.equal(repaired.as_tensor(), fresh.as_tensor())
        torch.testing.assert_close(loss(logits, repaired[None]), loss(logits, fresh[None]))


def test_transforms_that_leave_no_note_are_refused():
    one = sample(3)
    for change in (
        mt.Rand3DElasticd("map", (1, 2), (30, 50), prob=1.0, mode="nearest"),
        mt.ScaleIntensityd("map"),
        mt.RandGaussianNoised("map", prob=1.0),
        mt.GaussianSmoothd("map", 1.0),
    ):
        changed = change(one)["map"]
        assert not changed.applied_operations
        with pytest.raises(RWLossError, match="changed in value"):
            unpack(changed[None])


def test_casts_of_the_map_are_refused():
    """Also where the image is so small that half precision keeps its places."""
    whole = mt.SpatialCropd(KEYS, roi_start=(0, 0), roi_end=(4, 4))(sample(2))
    loss = RWLoss("rectified", **FLAGS)
    for dtype in (torch.int32, torch.float16, torch.bfloat16):
        cast = mt.CastToTyped("map", dtype)(whole)["map"]
        with pytest.raises(RWLossError, match=f"got {dtype}: keep the map in float32"):
            loss(torch.randn(1, 4, 4, 4), cast[None])


def test_within_a_lazy_pipeline():
    """A map made in the midst of it is of the label as it is then."""

    def moved(lazy):
        pipeline = mt.Compose(
            [
                mt.Flipd(["image", "label"], 0),
                mt.CenterSpatialCropd(["image", "label"], 9),
                RWMapd("label", "boundary", 4, map_keys="again"),
                mt.RandRotate90d([*KEYS[:2], "again"], 1.0),
                mt.RandSpatialCropd([*KEYS[:2], "again"], 6, random_size=False),
                RWMapd("label", "boundary", 4, map_keys="again"),
            ],
            lazy=lazy,
        )
        return pipeline.set_random_state(0)(sample(3))

    lazily, eagerly = moved(True), moved(False)
    assert torch.equal(lazily["again"].as_tensor(), eagerly["again"].as_tensor())
    assert torch.equal(lazily["again"][:1].as_tensor(), lazily["label"].as_tensor())
    assert lazily["again"].applied_operations  # not made again at the end


def test_labels_between_classes_are_refused_with_the_way_out():
    """MONAI takes every key linearly by default, and in a lazy pipeline even with mode=."""
    zoomed = mt.Zoomd(["label"], 1.3)(sample(2))
    with pytest.raises(RWLossError, match=r"whole labels, got .* mode='nearest'"):
        RWMapd("label", "rectified", 4)(zoomed)
    with pytest.raises(RWLossError, match="label 3 found"):
        RWMapd("label", "rectified", 3, map_keys="other")(sample(2))


def test_thinned_by_a_transform_or_by_deep_supervision():
    """Both leave every second voxel. Only the second is meant."""
    loss = RWLoss("rectified", **FLAGS)
    logits = torch.randn(2, 4, 7, 6)
    with_affine = sample(2)["label"]
    for label in (with_affine, with_affine.as_tensor()):
        one = RWMapd("label", "rectified", 4)({"label": label})
        for thinning in (
            mt.Resized("map", (7, 6), mode="nearest"),
            mt.Zoomd("map", 0.5, keep_size=False, mode="nearest"),
        ):
            thinned = thinning(one)["map"]
            assert thinned.shape == (3, 7, 6)
            for batched in (thinned[None], list_data_collate([{"map": thinned}] * 2)["map"]):
                with pytest.raises(RWLossError, match="went through"):
                    loss(logits[: len(batched)], batched)
        whole = list_data_collate([one] * 2)["map"]
        lower = torch.nn.functional.interpolate(whole, (7, 6), mode="nearest-exact")
        with pytest.raises(RWLossError, match="resampled"):
            loss(logits, lower)  # nobody has seen the map at full resolution
        assert torch.isfinite(DeepSupervisionLoss(loss)([torch.randn(2, 4, 14, 12), logits], whole))
        with pytest.raises(RWLossError, match="resampled"):
            loss(logits, whole[..., :6].repeat_interleave(2, dim=-1))  # as large as the whole


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_volume(axis):
    size = [1 if other == axis else -1 for other in range(3)]
    cut = mt.Compose(
        [mt.RandSpatialCropd(KEYS, size, random_size=False), mt.SqueezeDimd(KEYS, axis + 1)]
    )
    two_d = cut.set_random_state(1)(sample(3))
    shape = tuple(n for other, n in enumerate((14, 12, 10)) if other != axis)
    assert two_d["map"].shape == (3, *shape)
    assert torch.equal(dense_of(two_d["map"]), two_d["reference"].as_tensor())
    assert RWMapd("label", "rectified", 4)(two_d)["map"] is two_d["map"]
    # Its spacing is two of the three, which is no sign of resampling.
    loss = DeepSupervisionLoss(RWLoss("rectified", **FLAGS))
    heads = [torch.randn(1, 4, *(n // scale for n in shape)) for scale in (1, 2)]
    assert torch.isfinite(loss(heads, two_d["map"][None]))
    spacing_mm = [mm for other, mm in enumerate(SPACING_MM[3]) if other != axis]
    made = RWMapd("label", "boundary", 4, map_keys="of slice")(two_d)["of slice"]
    wanted = maps.get("boundary")(Regions(two_d["label"].as_tensor(), 4, spacing_mm)).dense()[0]
    torch.testing.assert_close(dense_of(made), wanted)
