"""A map as one MetaTensor: what comes back out, what it is of, and how faults are noticed."""

import pickle
from dataclasses import replace

import pytest
import torch
from anatomy import batch
from loss_batches import given

from rwloss import Regions, RWLossError, maps

pytest.importorskip("monai", reason="MONAI is not installed")

from monai import transforms as mt
from monai.data import (
    CacheDataset,
    MetaTensor,
    SmartCacheDataset,
    decollate_batch,
    list_data_collate,
    set_track_meta,
)
from monai.transforms.croppad.batch import PadListDataCollate
from monai.utils import convert_to_tensor

from rwloss.integrations.monai import RWLoss, RWMapd
from rwloss.integrations.monai.map_tensor import pack, unpack

FLAGS = {"softmax": True, "to_onehot_y": True}
KEYS = ["label", "map"]


def labels_of(classes=2, seed=51, size=12):
    return torch.as_tensor(batch(seed, (size, size), classes, 1)).float()


def made(text, num_classes=2, *, label=None, **settings):
    label = labels_of() if label is None else label
    return RWMapd("label", text, num_classes, **settings)({"label": label})["map"]


def is_kept(packed):
    """Whether its values are taken, without a note of MONAI's."""
    try:
        unpack(packed[None])
    except RWLossError:
        return False
    return True


# --- What goes in comes out


@pytest.mark.parametrize("shape", [(16, 12), (9, 8, 7)], ids=str)
@pytest.mark.parametrize(("text", "compact"), [("rectified", True), ("boundary", False)])
def test_what_goes_in_comes_out(shape, text, compact):
    """Classes, with ignored voxels too, and overlapping masks."""
    masks = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) < 0.3
    cases = {k: given(shape, k, size=1)[1] for k in (2, 3, 4)} | {"masks": masks.byte()}
    ignored = cases[4].clone()
    ignored[:, 3:9, 4:] = 255
    for name, labels in (cases | {"ignored": ignored}).items():
        k = {"masks": 2, "ignored": 4}.get(name, name)
        rwmap = maps.parse(text)(Regions(labels, k, ignore_label=255))
        packed, meta = pack(labels, rwmap)
        assert packed.dtype == torch.float32
        assert len(packed) == len(labels) * (3 if compact or k == 2 else 1 + k)
        found = unpack(MetaTensor(packed, meta=meta)[None])
        assert torch.equal(found.labels, labels.float()), name
        assert (found.num_classes, found.expression, found.is_compact) == (k, text, compact)
        assert torch.equal(replace(found, labels=rwmap.labels).dense(), rwmap.dense()), name


def test_the_metadata_of_the_label_go_along():
    label = MetaTensor(labels_of(), affine=2.0 * torch.eye(4), meta={"patient": "007"})
    packed = made("rectified", label=label)
    assert packed.meta["patient"] == "007"
    assert torch.equal(packed.affine, label.affine)
    assert packed.applied_operations == []
    assert "rwmap" not in label.meta
    assert "rectified" in packed.meta["rwmap"]


# --- What MONAI's transforms, batches and caches do with it


@pytest.mark.parametrize(
    ("transforms", "match", "text"),
    [
        (
            [
                mt.SpatialCropd(KEYS, roi_start=(2, 2), roi_end=(10, 10)),
                mt.SpatialPadd(KEYS, 12),
            ],
            "went through SpatialPad",
            "rectified",
        ),
        # What is noted is refused even if it did nothing: the values can't prove it for any map.
        ([mt.RandAffined(KEYS, prob=1.0, mode="nearest")], "went through RandAffine", "rectified"),
        ([mt.Resized(KEYS, (12, 12), mode="nearest")], "went through Resize", "rectified"),
        # A map with one value per class, whose rows of three stay the same.
        ([mt.Zoomd(KEYS, 2.0, mode="nearest")], "went through Zoom", "class_weighted"),
        ([mt.Lambdad(KEYS, lambda m: m * 2)], "changed in value", "rectified"),
        ([mt.Lambdad(KEYS, lambda m: m.roll(2, 1))], "changed in value", "rectified"),
        ([mt.Lambdad(KEYS, lambda m: m[:, ::2])], "changed in value", "rectified"),
    ],
)
def test_what_is_no_move_by_whole_voxels_is_refused(transforms, match, text):
    sample = {"label": MetaTensor(labels_of(3))}
    moved = mt.Compose([RWMapd("label", text, 3), *transforms])(sample)
    logits = torch.randn(1, 3, *moved["map"].shape[1:])
    for more in ([moved["map"][None]], [moved["label"][None], moved["map"][None]]):
        with pytest.raises(RWLossError, match=match):
            RWLoss(text, **FLAGS)(logits, *more)


def test_functions_that_move_whole_voxels_are_followed():
    one = {"label": labels_of(), "map": made("rectified")}
    for move in (lambda m: m.flip(1), lambda m: m.mT, lambda m: m[:, 2:7]):
        moved = mt.Compose([mt.Lambdad(KEYS, move), mt.ToTensord(KEYS)])(one)
        assert RWMapd("label", "rectified", 2)(moved)["map"] is moved["map"]


def test_a_map_that_moved_otherwise_than_its_label():
    refused = pytest.raises(RWLossError, match="made from other labels than the target")
    for keys in ("label", "map"):
        one = mt.Flipd(keys, 0)({"label": labels_of(), "map": made("rectified")})
        with refused:
            RWLoss("rectified", **FLAGS)(
                torch.randn(1, 2, 12, 12), one["label"][None], one["map"][None]
            )


def test_the_inverse_of_a_flip_is_followed_and_that_of_a_crop_refused():
    for transform, kept in ((mt.Flip(0), True), (mt.SpatialCrop((3, 3), (9, 9)), False)):
        back = transform.inverse(transform(made("rectified")))
        assert back.shape == (3, 12, 12)
        assert is_kept(back) is kept


def test_batches_keep_their_records():
    samples = [{"map": made("rectified", label=labels_of(seed=seed))} for seed in (51, 52)]
    samples[1] = mt.RandFlipd("map", 1.0)(samples[1])
    whole = list_data_collate(samples)["map"]
    for batched in (whole, whole[1:], pickle.loads(pickle.dumps(whole)), whole.double()):
        assert len(unpack(batched).labels) == len(batched)
    for again, sample in zip(decollate_batch(whole), samples, strict=True):
        assert torch.equal(again, sample["map"])
        assert is_kept(again)
    assert len(unpack(PadListDataCollate()(samples)["map"]).labels) == 2


def test_the_wrong_image_of_a_batch_is_named():
    one, other = (made("rectified", label=labels_of(seed=seed)) for seed in (51, 52))
    in_order = list_data_collate([{"map": one}, {"map": other}])["map"]
    small = {"map": made("rectified", label=labels_of(size=10))}
    for wrong, image in (
        (list_data_collate([{"map": one}, {"map": other.roll(1, dims=2)}])["map"], 1),
        (PadListDataCollate()([{"map": one}, small])["map"], 1),
        (in_order[torch.tensor([1, 0])], 0),  # the records are in another order
    ):
        with pytest.raises(RWLossError, match=rf"image {image} of the batch .*RWMapd once more"):
            unpack(wrong)
    for torn in (torch.stack([one, other]), in_order.chunk(2)[1]):
        with pytest.raises(RWLossError, match="list_data_collate"):
            unpack(torn)


def test_caches_in_memory_keep_the_record():
    pipeline = mt.Compose([RWMapd("label", "rectified", 2), mt.RandFlipd(KEYS, 1.0)])
    data = [{"label": labels_of(seed=seed)} for seed in (51, 52)]
    for cached in (
        CacheDataset(data, pipeline, progress=False),
        SmartCacheDataset(data, pipeline, cache_num=1, progress=False),
    ):
        assert is_kept(cached[0]["map"])
        assert is_kept(cached[0]["map"])


def test_a_map_without_its_record_is_refused():
    loss, logits = RWLoss("rectified", **FLAGS), torch.randn(1, 2, 12, 12)
    for loses in (
        lambda m: m.as_tensor(),
        lambda m: convert_to_tensor(m, track_meta=False),
        mt.EnsureType(track_meta=False),
        lambda m: MetaTensor(m.as_tensor()),
    ):
        plain = loses(made("rectified"))
        for more in ([plain[None]], [labels_of()[None], plain[None]]):
            with pytest.raises(RWLossError, match=r"set_track_meta\(True\)"):
                loss(logits, *more)
        with pytest.raises(RWLossError, match="0 records"):
            RWMapd("label", "rectified", 2)({"label": labels_of(), "map": plain})


def test_without_metadata_at_all_a_map_is_refused():
    set_track_meta(False)
    try:
        one = mt.Compose([RWMapd("label", "rectified", 2), mt.Flipd(KEYS, 0)])(
            {"label": labels_of()}
        )
        with pytest.raises(RWLossError, match="0 records"):
            unpack(one["map"][None])
    finally:
        set_track_meta(True)


def test_a_second_transform_leaves_later_crops_to_be_checked():
    """What deep supervision may do is told by a note of the loss, which must not come too soon."""
    make = RWMapd("label", "rectified", 2)
    one = make(make({"label": labels_of()}))
    elastic = mt.Rand2DElasticd("map", (4, 4), (2, 3), prob=1.0, mode="nearest").set_random_state(0)
    warped = mt.SpatialCropd("map", roi_start=(0, 0), roi_end=(8, 8))(elastic(one))["map"]
    with pytest.raises(RWLossError, match="changed in value"):
        RWLoss("rectified", **FLAGS)(torch.randn(1, 2, 8, 8), warped[None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")
def test_a_compiled_loss_takes_maps_and_refuses_others():
    loss = RWLoss("rectified", **FLAGS)
    compiled = torch.compile(loss, backend="eager")
    logits, packed = torch.randn(1, 2, 12, 12), made("rectified")[None]
    torch.testing.assert_close(compiled(logits, packed), loss(logits, packed))
    with pytest.raises(RWLossError, match="changed in value"):
        compiled(logits, packed.roll(2, dims=2))


# --- Another number of classes


@pytest.mark.parametrize("text", ["boundary", "rectified", "class_weighted"])
@pytest.mark.parametrize(("of_map", "of_input"), [(2, 3), (3, 2), (5, 3)])
def test_a_map_of_other_classes_is_refused(text, of_map, of_input):
    label = torch.zeros(1, 12, 12)
    label[:, 3:8, 2:9] = 1
    packed = made(text, of_map, label=label)
    loss = RWLoss(text, **FLAGS)
    logits = torch.randn(1, of_input, 12, 12)
    message = f"has {of_map} classes, the input has {of_input} channels .*num_classes={of_input}"
    for more in ([packed[None]], [label[None], packed[None]]):
        with pytest.raises(RWLossError, match=message):
            loss(logits, *more)
    # As the message advises; a second RWMapd makes it again.
    again = RWMapd("label", text, of_input)({"label": label, "map": packed})["map"]
    torch.testing.assert_close(loss(logits, again[None]), loss(logits, label[None]))


def test_masks_and_classes_are_told_apart():
    masks = (torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    of_masks = made("boundary", None, label=masks, masks=True)[None]
    with pytest.raises(RWLossError, match=r"has 3 masks, .*with softmax: .*num_classes=3"):
        RWLoss("boundary", **FLAGS)(torch.randn(1, 3, 12, 12), of_masks)
    with pytest.raises(RWLossError, match="has 3 masks, the input has 2 channels with sigmoid"):
        RWLoss("boundary", sigmoid=True)(torch.randn(1, 2, 12, 12), of_masks)
    of_classes = made("boundary", 3, label=labels_of(3))[None]
    for k in (1, 3, 5):
        for to_onehot_y in (False, True):
            loss = RWLoss("boundary", sigmoid=True, to_onehot_y=to_onehot_y)
            with pytest.raises(RWLossError, match=r"has 3 classes, .*with sigmoid: .*masks=True"):
                loss(torch.randn(1, k, 12, 12), of_classes)


def test_one_mask_is_a_map_of_two_classes():
    label = labels_of()
    of_mask, of_classes = made("boundary", None, masks=True), made("boundary")
    assert torch.equal(of_mask, of_classes)
    for loss, k in ((RWLoss("boundary", sigmoid=True), 1), (RWLoss("boundary", **FLAGS), 2)):
        logits = torch.randn(1, k, 12, 12)
        for packed in (of_mask, of_classes):
            torch.testing.assert_close(loss(logits, packed[None]), loss(logits, label[None]))


# --- Another expression


@pytest.mark.parametrize(
    ("of_map", "of_loss"),
    [
        ("boundary", "dice + 0.01 * boundary"),
        ("rectified", "boundary + dice"),
        ("rectified", "2 * rectified"),
        ("rectified", "blend(generalized_dice, boundary, step=None)"),
    ],
)
def test_a_map_of_another_expression_is_refused(of_map, of_loss):
    label = MetaTensor(labels_of())
    packed = list_data_collate([RWMapd("label", of_map, 2)({"label": label})] * 2)["map"]
    loss = pickle.loads(pickle.dumps(RWLoss(of_loss, **FLAGS)))
    loss.set_epoch(5, 10)
    wanted = str(maps.parse(of_loss).static_part).replace("*", r"\*")
    for more in ([packed], [torch.stack([label] * 2), packed]):
        with pytest.raises(
            RWLossError, match=f"belongs to {of_map}, but a map of {wanted} is needed"
        ):
            loss(torch.randn(2, 2, 12, 12), *more)


def test_the_image_with_another_map_is_named():
    both = [{"map": made(text)} for text in ("boundary", "rectified")]
    with pytest.raises(RWLossError, match=r"image 1 of the batch is of .*rectified"):
        RWLoss("boundary", **FLAGS)(torch.randn(2, 2, 12, 12), list_data_collate(both)["map"])


@pytest.mark.parametrize(
    ("of_map", "of_loss"),
    [
        ("rectified", "rectified + dice"),
        ("1.0 * rectified", "rectified.with_link(0.5)"),
        ("boundary", "blend(generalized_dice, boundary, step=None)"),
        ("rectified + 0.1 * boundary + dice", "rectified + boundary * 0.1"),
        ("rectified(weights=[0.25, 1])", "rectified(weights='dataset_inverse') + dice"),
    ],
)
def test_a_map_of_the_same_static_part_is_taken(of_map, of_loss):
    """Weights of a dataset are numbers in a map that was made before."""
    loss = RWLoss(of_loss, **FLAGS)
    loss.set_epoch(0, 10)
    assert torch.isfinite(loss(torch.randn(1, 2, 12, 12), made(of_map)[None]))


def test_a_second_transform_of_another_expression_is_refused():
    sample = {"label": labels_of(), "map": made("boundary")}
    with pytest.raises(RWLossError, match=r"belongs to boundary, but a map of rectified is needed"):
        RWMapd("label", "rectified", 2)(sample)
    assert RWMapd("label", "boundary", 2)(sample)["map"] is sample["map"]
