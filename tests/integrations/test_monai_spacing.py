"""The spacing of a label in MONAI's pipelines: by its affine, its unit and what moved it."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from anatomy import batch

from rwloss import RegionWiseLoss, RWLossError
from rwloss.precompute import precompute

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import MetaTensor, list_data_collate
from monai_samples import FLAGS, KEYS, SPACING_MM, dense_of, sample

from rwloss.integrations.monai import LoadRWMapd, RWLoss, RWMapd


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
