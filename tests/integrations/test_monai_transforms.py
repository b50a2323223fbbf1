"""RWMapd and LoadRWMapd in MONAI's pipelines: what the map is, stores, and MONAI's cache."""

import itertools
import pickle
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
from monai_samples import FLAGS, SIGMOID, SPACING_MM, dense_of, sample

from rwloss.integrations.monai import LoadRWMapd, RWLoss, RWMapd
from rwloss.integrations.monai.map_tensor import unpack


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
    with pytest.raises(RWLossError, match="belongs to boundary, but a map of rectified"):
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
    with pytest.raises(RWLossError, match=r"belongs to .*plug_in\.py:Mine"):
        RWLoss("rectified", **FLAGS)(torch.randn(1, 3, *one["label"].shape[1:]), one["map"][None])


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
    with pytest.raises(RWLossError, match="belongs to boundary, but a map of rectified"):
        RWLoss("rectified", **FLAGS)(torch.randn(1, 4, 14, 12, 10), stale["map"][None])
