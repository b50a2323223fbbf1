"""RWMapd and LoadRWMapd in MONAI's pipelines: which transforms a map follows, and which not."""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from anatomy import batch
from loss_batches import assert_same, value_and_gradient

import rwloss
from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.data import find, sample_dir
from rwloss.precompute import precompute

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import MetaTensor, PersistentDataset, list_data_collate
from monai.losses import DeepSupervisionLoss, MaskedLoss

from rwloss.integrations.monai import LoadRWMapd, RWLoss, RWMapd
from rwloss.integrations.monai.map_tensor import unpack

KEYS = ["image", "label", "map", "reference"]
FLAGS, SIGMOID = {"softmax": True, "to_onehot_y": True}, {"sigmoid": True}
SPACING_MM = {2: (0.8, 2.5), 3: (1.0, 0.7, 2.5)}


@pytest.fixture(autouse=True)
def seeded_torch():
    torch.manual_seed(0)


def sample(axes=3, text="rectified", num_classes=4):
    """Image, label and map, and the dense map as a tensor that moves beside them."""
    shape = (14, 12, 10)[:axes]
    labels = torch.as_tensor(batch(51, shape, num_classes, 1)).float()
    spacing_mm = SPACING_MM[axes]
    label = MetaTensor(labels, affine=torch.diag(torch.tensor([*spacing_mm, 1.0])))
    made = RWMapd("label", text, num_classes)({"label": label, "image": label + 0.5})
    dense = maps.parse(text)(Regions(labels, num_classes, spacing_mm)).dense()[0]
    return {**made, "reference": MetaTensor(dense, affine=label.affine)}


def dense_of(packed):
    """Values (k *s) of a map that was moved."""
    rwmap = unpack(packed[None])
    return replace(rwmap, labels=rwmap.labels.long()).dense()[0]


def seeded(transform, seed):
    """A pipeline of it; one that is lazy as it is: within another it would not be."""
    pipeline = transform if isinstance(transform, mt.Compose) else mt.Compose([transform])
    return pipeline.set_random_state(seed)


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
        (KEYS[:2], "other labels|is of labels"),  # the map is left behind
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


def test_a_map_of_another_spacing_is_refused():
    """By a second transform, and by the loss; the message tells what to change."""
    one = sample(2, "boundary")
    other = RWMapd("label", "boundary", 4, spacing_mm=(9.0, 4.0), map_keys="other")(one)
    turned = mt.Rotate90d(["label", "map", "other"])(other)
    logits, label = torch.randn(1, 4, 12, 14), turned["label"][None]
    loss, other_loss = (RWLoss("boundary", **FLAGS, spacing_mm=mm) for mm in (None, (4.0, 9.0)))
    for wrong, args in (
        (loss, (label, turned["other"][None])),
        (other_loss, (label, turned["map"][None])),
        (other_loss, (turned["map"][None],)),
    ):
        with pytest.raises(RWLossError, match=r"made at a spacing of .* correct the spacing"):
            wrong(logits, *args)
    with pytest.raises(RWLossError, match=r"made at a spacing of 2\.5 x 0\.8 mm"):
        RWMapd("label", "boundary", 4, spacing_mm=(4.0, 9.0))(turned)
    torch.testing.assert_close(other_loss(logits, turned["other"][None]), other_loss(logits, label))
    torch.testing.assert_close(loss(logits, turned["map"][None]), loss(logits, label))
    # Alone it is of its own spacing.
    torch.testing.assert_close(loss(logits, turned["other"][None]), other_loss(logits, label))


def test_axes_that_are_not_at_right_angles_are_refused():
    """Of a tilted gantry, or after a rotation of voxels that are not squares."""
    rotate = mt.Rotated(["label", "map"], 0.3, mode="nearest")
    one = rotate(sample(2, "boundary"))
    logits, label = torch.randn(1, 4, *one["label"].shape[1:]), one["label"][None]
    for used in (
        lambda: RWLoss("boundary", **FLAGS)(logits, label),
        lambda: RWMapd("label", "boundary", 4)(one),
    ):
        with pytest.raises(RWLossError, match=r"right angles: resample first, .*pass spacing_mm"):
            used()
    # What needs no spacing doesn't look at it.
    for text in ("dice + cross_entropy", "class_weighted + focal"):
        loss = RWLoss(text, **FLAGS)
        wanted = RegionWiseLoss(text)(logits, label.as_tensor())
        torch.testing.assert_close(loss(logits, label), wanted)
    weighted = RWMapd("label", "class_weighted", 4, map_keys="weighted")(one)["weighted"][None]
    torch.testing.assert_close(loss(logits, label, weighted), wanted)
    # As the message advises: a file is resampled, and a rotated image keeps its spacing.
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))
    affine[1, 2] = 0.7
    tilted = {"label": MetaTensor(sample(3)["label"].as_tensor(), affine=affine)}
    make = RWMapd("label", "boundary", 4)
    with pytest.raises(RWLossError, match="resample first"):
        make(tilted)
    assert "map" in make(mt.Spacingd("label", (1, 1, 2), mode="nearest")(tilted))
    again = RWMapd("label", "boundary", 4, spacing_mm=SPACING_MM[2])(one)["map"][None]
    loss = RWLoss("boundary", **FLAGS, spacing_mm=SPACING_MM[2])
    torch.testing.assert_close(loss(logits, again), loss(logits, label))


def test_axes_that_change_places_without_their_affine_are_refused(tmp_path):
    """Where the file tells. MONAI's Transposed and functions leave the affine as it was."""
    label = nib.Nifti1Image(batch(51, (14, 12, 10), 4, 1)[0], np.diag([*SPACING_MM[3], 1.0]))
    nib.save(label, tmp_path / "label.nii.gz")
    load = mt.Compose([mt.LoadImaged("label"), mt.EnsureChannelFirstd("label")])
    one = load({"label": str(tmp_path / "label.nii.gz")})
    make, loss = RWMapd("label", "boundary", 4), RWLoss("boundary", **FLAGS)
    logits = torch.randn(1, 4, 10, 14, 12)
    for turn, message in (
        (mt.Transposed("label", indices=(0, 3, 1, 2)), r"Transposed took .* order \(2, 0, 1\)"),
        (mt.Lambdad("label", lambda x: x.permute(0, 3, 1, 2)), r"\(14, 12, 10\) .* \(10, 14, 12\)"),
    ):
        turned = turn(one)
        batched = list_data_collate([turned])["label"]
        for used in (lambda x=turned: make(x), lambda x=batched: loss(logits, x)):
            with pytest.raises(RWLossError, match=message):
                used()
        # As the message advises.
        spacing_mm = (2.5, 1.0, 0.7)
        wanted = RegionWiseLoss("boundary", spacing_mm=spacing_mm)(logits, batched.as_tensor())
        made = RWMapd("label", "boundary", 4, spacing_mm=spacing_mm)(turned)["map"][None]
        for found in (loss(logits, made), loss(logits, batched, spacing_mm=spacing_mm)):
            torch.testing.assert_close(found, wanted)


def test_axes_that_change_places_after_other_transforms():
    """MONAI notes sizes: those of crops, pads and flips tell what came after; a zoom's do not."""
    make = RWMapd("label", "boundary", 4)
    before = {key: value for key, value in sample(3).items() if key == "label"}
    transposed = mt.Transposed("label", (0, 3, 1, 2))
    functions = (
        mt.Lambdad("label", lambda x: x.permute(0, 3, 1, 2)),
        lambda sample: {"label": sample["label"].permute(0, 3, 1, 2)},
    )
    for known in (
        mt.SpatialCropd("label", roi_start=(0, 1, 2), roi_end=(9, 7, 8)),
        mt.RandSpatialCropd("label", (9, 7, 6), random_size=False),
        mt.CropForegroundd("label", "label", k_divisible=(4, 3, 1), allow_smaller=True),
        mt.ResizeWithPadOrCropd("label", (19, 7, 6)),
        mt.BorderPadd("label", (3, 2, 1)),
        mt.RandFlipd("label", 1.0, 0),
    ):
        for turn in (transposed, *functions):
            for last in (mt.Identityd("label"), mt.Flipd("label", 1)):
                moved = last(turn(known(before)))
                with pytest.raises(RWLossError, match="affine did not follow: use Orientationd"):
                    make(moved)
                RWMapd("label", "boundary", 4, spacing_mm=(2.5, 1.0, 0.7))(moved)
    # Equal lengths, and transforms that change the affine: Transposed leaves a note of itself.
    for unknown in (
        mt.CenterSpatialCropd("label", (6, 6, 6)),
        mt.RandRotate90d("label", 1.0, spatial_axes=(0, 2)),
        mt.Zoomd("label", 1.3, mode="nearest"),
        mt.Orientationd("label", "SAR", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
    ):
        make(unknown(before))
        make(functions[0](unknown(before)))  # nobody can know, which docs/monai.md says
        with pytest.raises(RWLossError, match="Transposed took the axes in the order"):
            make(transposed(unknown(before)))
        make(mt.Transposed("label", (0, 2, 3, 1))(transposed(unknown(before))))  # and back
    make(transposed(mt.Spacingd("label", (1, 1, 1), mode="nearest")(before)))  # makes no difference


def test_every_orientation():
    """48 in space, 8 in the plane: axes in another order, mirrored or not."""
    for axes in (2, 3):
        ends = (("L", "R"), ("P", "A"), ("I", "S"))[:axes]
        before = sample(axes, "boundary")
        for order in itertools.permutations(ends):
            for codes in itertools.product(*order):
                after = mt.Orientationd(KEYS, "".join(codes), labels=ends)(dict(before))
                assert torch.equal(dense_of(after["map"]), after["reference"].as_tensor())
            assert RWMapd("label", "boundary", 4)(after)["map"] is after["map"]
            anew = RWMapd("label", "boundary", 4, map_keys="anew")(after)["anew"]
            torch.testing.assert_close(dense_of(anew), dense_of(after["map"]))


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


# --- What the map is


def test_the_map_is_that_of_the_label_with_its_spacing():
    for text in ("rectified", "boundary", "rectified + 0.1 * boundary + dice"):
        for axes in (2, 3):
            one = sample(axes, "active_contour")
            made = RWMapd("label", text, 4, map_keys="made")(one)["made"]
            regions = Regions(one["label"].as_tensor(), 4, SPACING_MM[axes])
            wanted = maps.parse(text).static_part(regions)
            torch.testing.assert_close(dense_of(made), wanted.dense()[0])
    label = batch(51, (14, 12), 4, 1)  # without an affine
    for kind, spacing_mm in itertools.product((torch.as_tensor, np.asarray), (None, (3.0, 0.5))):
        make = RWMapd("label", "boundary", 4, spacing_mm=spacing_mm)
        wanted = maps.get("boundary")(Regions(label, 4, spacing_mm)).dense()[0]
        np.testing.assert_array_equal(dense_of(make({"label": kind(label)})["map"]), wanted)


def test_ignored_voxels():
    label = torch.as_tensor(batch(51, (14, 12), 4, 1)).long()
    label[:, 3:8, 2:9] = 255
    made = RWMapd("label", "boundary", 4, ignore_index=255)({"label": label})
    loss = RWLoss("boundary + dice", **FLAGS, ignore_index=255)
    logits = torch.randn(1, 4, 14, 12)
    torch.testing.assert_close(loss(logits, made["map"][None]), loss(logits, label[None]))
    with pytest.raises(RWLossError, match="label 255 found"):
        RWMapd("label", "boundary", 4)({"label": label})


@pytest.mark.parametrize("include_background", [True, False])
def test_overlapping_masks(include_background):
    masks = MetaTensor(
        torch.as_tensor(np.concatenate([batch(s, (14, 12), 2, 1) for s in (1, 2, 3)])),
        affine=torch.diag(torch.tensor([2.0, 0.5, 1.0])),
    )
    one = RWMapd("label", "boundary", masks=True)({"label": masks})
    one = mt.Rotate90d(["label", "map"])(one)
    logits = torch.randn(1, 3, 12, 14)
    loss = RWLoss("boundary + dice", sigmoid=True, include_background=include_background)
    label = list_data_collate([{"label": one["label"]}])["label"]
    torch.testing.assert_close(loss(logits, one["map"][None]), loss(logits, label))
    torch.testing.assert_close(loss(logits, label, one["map"][None]), loss(logits, label))


def test_the_target_beside_a_map_is_read_as_without_one():
    label = torch.as_tensor(batch(51, (14, 12), 3, 1)).long()
    one_hot = torch.nn.functional.one_hot(label[0], 3).movedim(-1, 0)
    of_classes = RWMapd("label", "boundary", 3)({"label": label})["map"][None]
    of_masks = RWMapd("label", "boundary", masks=True)({"label": one_hot})["map"][None]
    logits = torch.randn(1, 3, 14, 12)
    for flags, made in (({"sigmoid": True}, of_masks), ({"softmax": True}, of_classes)):
        for to_onehot_y, target, wrong in ((True, label, one_hot), (False, one_hot, label)):
            loss = RWLoss("boundary + dice", to_onehot_y=to_onehot_y, **flags)
            torch.testing.assert_close(loss(logits, target[None], made), loss(logits, target[None]))
            with pytest.raises(RWLossError, match="does not fit"):
                loss(logits, wrong[None], made)


@pytest.mark.parametrize("include_background", [True, False])
def test_ignored_voxels_of_masks(include_background):
    """By a third value of the masks, or by a mask that says which voxels to ignore.

    The number of a mask is that of all masks, also where the first is dropped.
    """
    for ignored in (0, 1, 2, 7):
        masks = torch.as_tensor(np.concatenate([batch(s, (14, 12), 2, 1) for s in (1, 2, 3)]))
        masks = masks.long()
        if ignored > 2:
            masks[:, 3:7, 2:6] = ignored
        more = {"ignore_index": ignored} if ignored > 2 else {}
        made = RWMapd("label", "boundary", masks=True, **more)({"label": masks})["map"][None]
        loss = RWLoss(
            "boundary",
            sigmoid=True,
            ignore_index=ignored,
            include_background=include_background,
        )
        logits = torch.randn(1, 3, 14, 12, requires_grad=True)
        found = value_and_gradient(loss, logits, made)
        assert_same(value_and_gradient(loss, logits, masks[None], made), found)
        hidden = (masks == 7).any(dim=0) if ignored > 2 else masks[ignored] == 1
        counts = ~hidden.expand(1, 3, -1, -1).clone()
        counts[:, 0] &= include_background
        assert not (found[1] != 0)[~counts].any()
        assert (found[1] != 0)[:, 1:].any()
        z = unpack(made).values[None, :, 1]  # at the masks themselves
        wanted = (z * logits.sigmoid())[counts].sum() / counts.sum()
        torch.testing.assert_close(found[0], wanted.detach())
        if ignored > 2 and include_background:
            torch.testing.assert_close(found[0], loss(logits.detach(), masks[None]))


def test_whole_images_cost_the_same_with_maps_made_before_and_on_the_fly():
    """The loss takes the spacing of each image from the affines of its batch."""
    for axes, text in ((2, "boundary + dice"), (3, "rectified + hausdorff_dt")):
        one = sample(axes, text.split()[0])
        coarse = MetaTensor(one["label"].as_tensor(), affine=one["label"].affine.diag().diag() * 3)
        other = RWMapd("label", text, 4)({"label": coarse})
        batched = list_data_collate([{k: d[k] for k in ("label", "map")} for d in (one, other)])
        logits = torch.randn(2, 4, *batched["label"].shape[2:])
        loss = RWLoss(text, **FLAGS)
        on_the_fly = loss(logits, batched["label"])
        torch.testing.assert_close(loss(logits, batched["map"]), on_the_fly)
        torch.testing.assert_close(loss(logits, batched["label"], batched["map"]), on_the_fly)
        rows = [SPACING_MM[axes], tuple(3 * mm for mm in SPACING_MM[axes])]
        plain = RegionWiseLoss(text, spacing_mm=rows)
        torch.testing.assert_close(on_the_fly, plain(logits, batched["label"].as_tensor()))


@pytest.mark.parametrize("axes", [2, 3])
def test_deep_supervision_with_a_map(axes):
    one = sample(axes, "boundary")
    packed = mt.CenterSpatialCropd(["map"], 8)(one)["map"][None]
    heads = [torch.randn(1, 4, *[n] * axes) for n in (8, 4, 2)]
    loss = RWLoss("boundary", **FLAGS)
    values = dense_of(packed[0])[None]
    parts = [values]
    for first, step in ((1, 2), (2, 4)):
        parts.append(values[(..., *[slice(first, None, step)] * axes)])
    wanted = sum(
        weight * (head.softmax(dim=1) * part).mean()
        for weight, head, part in zip((1.0, 0.5, 0.25), heads, parts, strict=True)
    )
    torch.testing.assert_close(DeepSupervisionLoss(loss)(heads, packed), wanted)


def test_masked_loss_hides_the_map_too_and_is_refused():
    label = torch.as_tensor(batch(51, (14, 12), 2, 1)).float()
    mask = (torch.rand(1, 1, 14, 12) < 0.5).float()
    for k, settings, flags in ((2, {"num_classes": 2}, FLAGS), (1, {"masks": True}, SIGMOID)):
        packed = RWMapd("label", "boundary", **settings)({"label": label})["map"][None]
        loss, logits = RWLoss("boundary", **flags), torch.randn(1, k, 14, 12)
        with pytest.raises(RWLossError, match="changed in value"):
            MaskedLoss(loss)(logits, packed, mask)
        torch.testing.assert_close(
            loss(logits, packed, mask=mask), loss(logits, label[None], mask=mask)
        )


# --- From a store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    cases = tmp_path_factory.mktemp("labels")
    for case in find(sample_dir("hippocampus")).cases[:2]:
        (cases / case.labels.name).symlink_to(case.labels.resolve())
    for case in find(sample_dir("lung_patches") / "labelsTr").cases[:1]:
        (cases / case.labels.name).symlink_to(case.labels.resolve())
    precompute(cases, out, "boundary", num_classes=3, jobs=0)
    return rwloss.store.open(out)


def hippocampus(*more, **settings):
    return mt.Compose(
        [
            mt.LoadImaged("label", **settings),
            mt.EnsureChannelFirstd("label", strict_check=False),
            *more,
        ]
    )({"label": str(sample_dir("hippocampus") / "labelsTr" / "hippocampus_003.nii.gz")})


def test_stored_maps_are_those_of_the_label(store):
    one = hippocampus(LoadRWMapd("label", store), RWMapd("label", "boundary", 3, map_keys="made"))
    # The store rounds to float16.
    torch.testing.assert_close(one["map"], one["made"], rtol=1e-3, atol=1e-3)
    assert torch.equal(one["map"][:1], one["made"][:1])
    assert torch.equal(one["map"].affine, one["label"].affine)
    kept = RWMapd("label", "boundary", 3)(one)
    assert kept["map"] is one["map"]


def test_stored_map_by_the_name_of_the_case(store):
    one = hippocampus()
    plain = {"label": one["label"].as_tensor(), "case": "hippocampus_003"}
    found = LoadRWMapd("label", str(store.place), case_key="case")(plain)["map"]
    assert torch.equal(found, hippocampus(LoadRWMapd("label", store))["map"].as_tensor())
    with pytest.raises(RWLossError, match="no 'file name' to tell"):
        LoadRWMapd("label", store)(plain)
    with pytest.raises(RWLossError, match="no 'name' to tell its case"):
        LoadRWMapd("label", store, case_key="name")(plain)


def test_a_store_and_labels_that_do_not_fit(store):
    flipped = hippocampus(mt.Flipd("label", 0))
    with pytest.raises(RWLossError, match=r"of other labels.*right after LoadImaged"):
        LoadRWMapd("label", store)(flipped)
    with pytest.raises(RWLossError, match="is of boundary, but a map of rectified"):
        RWMapd("label", "rectified", 3)(hippocampus(LoadRWMapd("label", store)))
    case = next(name for name in store if name.startswith("lung"))
    label = {"label": str(sample_dir("lung_patches") / "labelsTr" / f"{case}.png")}
    channel_first, add = mt.EnsureChannelFirstd("label"), LoadRWMapd("label", store)
    with pytest.raises(RWLossError, match="reader='PILReader', reverse_indexing=False"):
        add(channel_first(mt.LoadImaged("label")(label)))
    advised = mt.LoadImaged("label", reader="PILReader", reverse_indexing=False)
    one = add(channel_first(advised(label)))
    assert torch.equal(dense_of(one["map"]), torch.as_tensor(store[case].dense())[0])


def test_transforms_can_be_sent_to_workers(store):
    for transform in (RWMapd("label", "rectified + dice", 3), LoadRWMapd("label", store)):
        again = pickle.loads(pickle.dumps(transform))
        found, wanted = (hippocampus(t)["map"] for t in (again, transform))
        assert torch.equal(found, wanted)


def test_a_store_runs_no_code(tmp_path):
    """Its expression names a plug-in file, which stays text: in the map's record too."""
    plug_in, folder = tmp_path / "plug_in.py", tmp_path / "labels"
    plug_in.write_text(
        "from rwloss import maps\n\n\nclass Mine(maps.Rectified):\n    name = 'mine'\n"
    )
    folder.mkdir()
    source = sample_dir("hippocampus") / "labelsTr" / "hippocampus_003.nii.gz"
    (folder / source.name).symlink_to(source.resolve())
    precompute(folder, tmp_path / "maps", f"{plug_in}:Mine", num_classes=3, jobs=0)
    plug_in.write_text("raise AssertionError('this ran')")
    one = hippocampus(LoadRWMapd("label", tmp_path / "maps"))
    assert "plug_in.py:Mine" in one["map"].meta["rwmap"]
    with pytest.raises(RWLossError, match=r"is of .*plug_in\.py:Mine"):
        RWLoss("rectified", **FLAGS)(torch.randn(1, 3, *one["label"].shape[1:]), one["map"][None])


def test_units_of_the_file(tmp_path):
    """Micrometres are 0.001 mm on every path from one file."""
    label = np.zeros((20, 16, 12), np.uint8)
    label[5:15, 4:12, 3:9] = 1
    image = nib.Nifti1Image(label, np.diag([3.6, 3.6, 10, 1]))
    image.header.set_xyzt_units("micron")
    (tmp_path / "um").mkdir()
    nib.save(image, tmp_path / "um" / "a.nii.gz")
    precompute(tmp_path / "um", tmp_path / "maps", "boundary", jobs=0)
    one = mt.Compose(
        [
            mt.LoadImaged("label"),
            mt.EnsureChannelFirstd("label"),
            LoadRWMapd("label", tmp_path / "maps"),
            RWMapd("label", "boundary", 2, map_keys="made"),
        ]
    )({"label": str(tmp_path / "um" / "a.nii.gz")})
    both = list_data_collate([one] * 2)
    logits = torch.randn(2, 2, 20, 16, 12)
    loss = RWLoss("boundary", **FLAGS)
    wanted = RegionWiseLoss("boundary", spacing_mm=(0.0036, 0.0036, 0.01))(
        logits, both["label"].as_tensor()
    )
    for args in ((both["label"],), (both["label"], both["made"]), (both["made"],)):
        torch.testing.assert_close(loss(logits, *args), wanted)
    torch.testing.assert_close(loss(logits, both["map"]), wanted, rtol=1e-3, atol=0)
    space_units = MetaTensor(
        torch.as_tensor(label)[None], affine=image.affine, meta={"space units": ["um"] * 3}
    )  # as pynrrd names them
    made = RWMapd("label", "boundary", 2)({"label": space_units})["map"]
    torch.testing.assert_close(dense_of(made), dense_of(one["made"]))


# --- Wrong use


def test_wrong_use():
    for message, make in (
        ("no static part", lambda: RWMapd("label", "dice", 3)),
        ("num_classes, or masks=True", lambda: RWMapd("label", "rectified")),
        ("num_classes, or masks=True", lambda: RWMapd("label", "rectified", 3, masks=True)),
        ("a third one", lambda: RWMapd("label", "rectified", masks=True, ignore_index=1)),
        ("1 map_keys for 2 keys", lambda: RWMapd(["label", "other"], "rectified", 3)),
    ):
        with pytest.raises(RWLossError, match=message):
            make()
    make = RWMapd("label", "rectified", 3)
    for message, label in (
        (r"got \(6, 6\): .*EnsureChannelFirstd before, and one-hot after", torch.zeros(6, 6)),
        (r"got \(3, 6, 6\): .*EnsureChannelFirstd before, and one-hot after", torch.zeros(3, 6, 6)),
        ("got str: put LoadImaged", "label.nii.gz"),
        ("got PosixPath: put LoadImaged", Path("label.nii.gz")),
        ("got dict: put LoadImaged", {}),
    ):
        with pytest.raises(RWLossError, match=message):
            make({"label": label})
    with pytest.raises(RWLossError, match="each channel is a mask of 0 and 1"):
        RWMapd("label", "rectified", masks=True)({"label": 2 * torch.ones(1, 6, 6)})
    with pytest.raises(KeyError):
        make({"image": torch.zeros(1, 6, 6)})
    nothing = RWMapd("label", "rectified", 3, allow_missing_keys=True)({"image": 1})
    assert nothing == {"image": 1}


def test_two_labels():
    labels = torch.as_tensor(batch(51, (14, 12), 3, 2))
    both = RWMapd(["a", "b"], "rectified", 3, map_keys=["map_a", "map_b"])(
        {"a": labels[:1], "b": labels[1:]}
    )
    for name, label in (("a", labels[:1]), ("b", labels[1:])):
        wanted = RWMapd("label", "rectified", 3)({"label": label})["map"]
        assert torch.equal(both[f"map_{name}"], wanted)


# --- MONAI's cache on disk


KEPT = {"track_meta": True, "weights_only": False}


def from_cache(place, settings, text="boundary"):
    """A label and its map, for the first time and from the cache."""
    label = nib.Nifti1Image(batch(51, (14, 12, 10), 4, 1)[0], np.diag([*SPACING_MM[3], 1.0]))
    nib.save(label, place / "label.nii.gz")
    pipeline = mt.Compose(
        [mt.LoadImaged("label"), mt.EnsureChannelFirstd("label"), RWMapd("label", text, 4)]
    )
    files = [{"label": str(place / "label.nii.gz")}]
    cached = PersistentDataset(files, pipeline, cache_dir=place, **settings)
    return cached[0], cached[0]


def test_a_cache_on_disk_that_keeps_metadata(tmp_path):
    loss = RWLoss("boundary", **FLAGS)
    logits = torch.randn(1, 4, 14, 12, 10)
    for one in from_cache(tmp_path, KEPT):
        assert RWMapd("label", "boundary", 4)(one)["map"] is one["map"]
        stored, on_the_fly = (loss(logits, one[key][None]) for key in ("map", "label"))
        torch.testing.assert_close(stored, on_the_fly)


def test_a_cache_on_disk_that_loses_metadata_is_refused(tmp_path):
    """By its defaults: the spacing is lost too, so that no map can be made again."""
    _, second = from_cache(tmp_path, {})
    assert type(second["map"]) is torch.Tensor
    label, packed, logits = (
        second["label"][None],
        second["map"][None],
        torch.randn(1, 4, 14, 12, 10),
    )
    loss, make = RWLoss("boundary", **FLAGS), RWMapd("label", "boundary", 4)
    for used in (
        lambda: make(second),
        lambda: loss(logits, packed),
        lambda: loss(logits, label, packed),
    ):
        with pytest.raises(RWLossError, match=r"track_meta=True, weights_only=False"):
            used()


def test_a_cache_on_disk_that_holds_old_maps(tmp_path):
    """It is keyed by the item: another expression in the transform gives the old map."""
    from_cache(tmp_path, KEPT)
    stale, _ = from_cache(tmp_path, KEPT, "rectified")
    with pytest.raises(RWLossError, match="is of boundary, but a map of rectified"):
        RWLoss("rectified", **FLAGS)(torch.randn(1, 4, 14, 12, 10), stale["map"][None])
