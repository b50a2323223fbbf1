"""A map as one MetaTensor: what comes back out, what it is of, and how faults are noticed."""

import itertools
import pickle

import pytest
import torch
from anatomy import batch
from loss_batches import given
from torch.nn import functional

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
from rwloss.integrations.monai.map_tensor import MapRecord, pack, unpack

FLAGS = {"softmax": True, "to_onehot_y": True}
KEYS = ["label", "map"]


def packed_of(shape, text="rectified", num_classes=4, masks=0, **settings):
    """Labels (c *s), their map, and both as a MetaTensor (m *s)."""
    if masks:
        labels = torch.rand(masks, *shape, generator=torch.Generator().manual_seed(0)) < 0.3
        labels = labels.byte()
    else:
        _, labels = given(shape, num_classes, size=1)
    rwmap = maps.parse(text)(Regions(labels, num_classes, **settings))
    packed, meta = pack(labels, rwmap, masks=masks)
    return labels, rwmap, MetaTensor(packed, meta=meta)


def is_kept(packed):
    """Whether its values are taken, without a note of MONAI's."""
    try:
        unpack(packed[None])
    except RWLossError:
        return False
    return True


def labels_of(classes=2, seed=51, size=12):
    return torch.as_tensor(batch(seed, (size, size), classes, 1)).float()


def made(text, num_classes=2, *, label=None, **settings):
    label = labels_of() if label is None else label
    return RWMapd("label", text, num_classes, **settings)({"label": label})["map"]


# --- What goes in comes out


@pytest.mark.parametrize("shape", [(16, 12), (9, 8, 7)], ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize(("text", "compact"), [("rectified", True), ("boundary", False)])
def test_what_goes_in_comes_out(shape, num_classes, text, compact):
    labels, rwmap, packed = packed_of(shape, text, num_classes)
    assert packed.dtype == torch.float32
    assert len(packed) == 1 + (2 if compact else num_classes)
    found = unpack(packed[None])
    again = found.rwmap(found.labels.long(), num_classes)
    assert torch.equal(again.dense(), rwmap.dense())
    assert torch.equal(again.labels, labels.long())
    assert found.records == [MapRecord(text, num_classes, 0, compact)]


def test_ignored_voxels_keep_their_label_and_cost_nothing():
    labels, _, _ = packed_of((16, 12))
    labels = labels.long()
    labels[:, 3:9, 4:] = 255
    for text, num_classes in [("rectified", 4), ("boundary", 4), ("boundary", 2)]:
        some = labels.where(labels < num_classes, 255)
        rwmap = maps.parse(text)(Regions(some, num_classes, ignore_label=255))
        packed, meta = pack(some, rwmap, masks=0)
        found = unpack(MetaTensor(packed, meta=meta)[None])
        assert torch.equal(found.labels[0], some.float())
        assert torch.equal(found.rwmap(rwmap.labels[None], num_classes).dense(), rwmap.dense())


@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_masks(text):
    masks, rwmap, packed = packed_of((16, 12), text, 2, masks=3)
    found = unpack(packed[None])
    assert torch.equal(found.rwmap(masks[None], 2).dense(), rwmap.dense())
    assert torch.equal(found.rwmap(masks[None, 1:], 2).dense(), rwmap.dense()[1:])


def test_the_metadata_of_the_label_go_along():
    label = MetaTensor(labels_of(), affine=2.0 * torch.eye(4), meta={"patient": "007"})
    packed = made("rectified", label=label)
    assert packed.meta["patient"] == "007"
    assert torch.equal(packed.affine, label.affine)
    assert packed.applied_operations == []
    assert "rwmap" not in label.meta
    assert '"expression": "rectified"' in packed.meta["rwmap"]


# --- How it may move


@pytest.mark.parametrize("shape", [(7, 5), (300, 3), (6, 5, 4), (3, 2, 70), (1, 5), (1, 1, 1)])
def test_every_flip_turn_and_crop_is_recognised(shape):
    """All symmetries of the grid, and crops of any place: brute force, without notes of MONAI."""
    _, _, packed = packed_of(shape)
    axes = range(1, 1 + len(shape))
    for order in itertools.permutations(axes):
        for mirrored in itertools.product([False, True], repeat=len(shape)):
            turned = packed.permute(0, *order).flip([a for a in axes if mirrored[a - 1]])
            assert is_kept(turned)
            for axis in axes:
                length = turned.shape[axis]
                assert is_kept(turned.narrow(axis, length // 3, length - length // 3))


@pytest.mark.parametrize("shape", [(24, 20), (10, 9, 8), (300, 200)], ids=str)
@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_what_is_no_move_by_whole_voxels_is_recognised(shape, text):
    _, _, packed = packed_of(shape, text)
    assert is_kept(packed)
    wrong = {}
    for mode in ("nearest", "linear"):
        kind = "nearest" if mode == "nearest" else ("bilinear", "trilinear")[len(shape) - 2]
        for scale in (0.5, 0.7, 1.2, 2.0):
            wrong[mode, scale] = functional.interpolate(packed[None], scale_factor=scale, mode=kind)
    edges = (1, 0) * len(shape)
    wrong["zeros around"] = functional.pad(packed[None], edges)
    wrong["edge"] = functional.pad(packed[None], edges, mode="replicate")
    wrong["mirror"] = functional.pad(packed[None], edges, mode="reflect")
    wrong["around"] = functional.pad(packed[None], (3, 2) * len(shape), mode="circular")
    wrong["rolled"] = packed.roll(3, dims=1)[None]
    wrong["scaled"] = packed[None] * 0.5
    wrong["negated"] = -packed[None]
    wrong["shifted"] = packed[None] + 0.25
    wrong["noise"] = packed[None] + 1e-3 * torch.randn(packed.shape)
    wrong["half precision"] = packed[None].half().float()
    wrong["nan"] = packed[None].clone()
    wrong["nan"][0, 0, 2, 2] = torch.nan
    wrong["hole"] = packed[None].clone()
    wrong["hole"][0, :, 3:5, 3:5] = 0
    wrong["swapped"] = packed[None].clone()
    wrong["swapped"][0, :, [2, 9], 2] = packed[:, [9, 2], 2]
    if shape == (300, 200):
        del wrong["nan"], wrong["swapped"]  # of a large map, not every voxel is looked at
    assert [name for name, other in wrong.items() if is_kept(other[0])] == []


def test_three_voxels_in_a_row_are_not_those_of_every_second():
    """Of an even slope, whose differences are the same everywhere."""
    labels = torch.zeros(1, 64, 64)
    labels[:, 40:] = 1
    packed = made("boundary", label=labels)
    assert is_kept(packed.flip(1))
    assert not is_kept(packed[:, ::2])
    assert not is_kept(packed.repeat_interleave(2, dim=1))


def test_a_large_map_is_looked_at_in_part():
    labels = torch.zeros(1, 700, 600)
    labels[:, 100:400, 50:500] = 1
    packed = made("boundary", label=labels)
    assert len(packed.meta["rwmap_fingerprints"]) == 4 << 14
    assert is_kept(packed[:, 77:640, 33:].flip(2))
    for wrong in (packed[:, ::2], packed + 0.25, functional.pad(packed, (1, 1))):
        assert not is_kept(wrong)


def test_the_wrong_image_of_a_batch_is_named():
    _, _, packed = packed_of((16, 12))
    both = list_data_collate([{"map": one} for one in (packed, packed.roll(1, dims=2))])["map"]
    unpack(both[:1])
    with pytest.raises(RWLossError, match=r"image 1 of the batch.*RWMapd once more"):
        unpack(both)


# --- What MONAI's transforms, batches and caches do with it


def refused_after(*transforms, match, text="rectified"):
    sample = {"label": MetaTensor(labels_of(3)), "image": labels_of()}
    moved = mt.Compose([RWMapd("label", text, 3), *transforms])(sample)
    logits = torch.randn(1, 3, *moved["map"].shape[1:])
    for more in ([moved["map"][None]], [moved["label"][None], moved["map"][None]]):
        with pytest.raises(RWLossError, match=match):
            RWLoss(text, **FLAGS)(logits, *more)


def test_a_crop_and_a_pad_that_give_the_size_back():
    refused_after(
        mt.SpatialCropd(KEYS, roi_start=(2, 2), roi_end=(10, 10)),
        mt.SpatialPadd(KEYS, 12),
        match="went through SpatialPad",
    )


def test_what_is_noted_is_refused_even_if_it_did_nothing():
    """It would be the same map here, but the values can't prove it for any map."""
    refused_after(mt.RandAffined(KEYS, prob=1.0, mode="nearest"), match="went through RandAffine")
    refused_after(mt.Resized(KEYS, (12, 12), mode="nearest"), match="went through Resize")


def test_a_zoom_that_the_values_do_not_show():
    """Of a map with one value per class, whose rows of three stay the same."""
    zoom = mt.Zoomd(KEYS, 2.0, mode="nearest")
    refused_after(zoom, match="went through Zoom", text="class_weighted")


@pytest.mark.parametrize("change", [lambda m: m * 2, lambda m: m.roll(2, 1), lambda m: m[:, ::2]])
def test_functions_that_leave_no_note(change):
    refused_after(mt.Lambdad(KEYS, change), match="changed in value")


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
        assert len(unpack(batched).records) == len(batched)
    for again, sample in zip(decollate_batch(whole), samples, strict=True):
        assert torch.equal(again, sample["map"])
        assert is_kept(again)
    assert len(unpack(PadListDataCollate()(samples)["map"]).records) == 2


def test_batches_with_records_in_another_order_are_refused():
    samples = [{"map": made("rectified", label=labels_of(seed=seed))} for seed in (51, 52)]
    whole = list_data_collate(samples)["map"]
    with pytest.raises(RWLossError, match="changed in value"):
        unpack(whole[torch.tensor([1, 0])])
    for torn in (torch.stack([sample["map"] for sample in samples]), whole.chunk(2)[1]):
        with pytest.raises(RWLossError, match="list_data_collate"):
            unpack(torn)


def test_pads_of_the_collate_function_are_refused():
    samples = [{"map": made("rectified", label=labels_of(size=size))} for size in (12, 10)]
    with pytest.raises(RWLossError, match="image 1 of the batch"):
        unpack(PadListDataCollate()(samples)["map"])


@pytest.mark.parametrize(
    "dataset",
    [
        lambda data, transform: CacheDataset(data, transform, progress=False),
        lambda data, transform: SmartCacheDataset(data, transform, cache_num=1, progress=False),
    ],
    ids=["CacheDataset", "SmartCacheDataset"],
)
def test_caches_in_memory_keep_the_record(dataset):
    pipeline = mt.Compose([RWMapd("label", "rectified", 2), mt.RandFlipd(KEYS, 1.0)])
    cached = dataset([{"label": labels_of(seed=seed)} for seed in (51, 52)], pipeline)
    for _ in range(2):
        assert is_kept(cached[0]["map"])


@pytest.mark.parametrize(
    "loses",
    [
        lambda m: m.as_tensor(),
        lambda m: convert_to_tensor(m, track_meta=False),
        mt.EnsureType(track_meta=False),
        lambda m: MetaTensor(m.as_tensor()),
    ],
)
def test_a_map_without_its_record_is_refused(loses):
    plain = loses(made("rectified"))
    loss, logits = RWLoss("rectified", **FLAGS), torch.randn(1, 2, 12, 12)
    for more in ([plain[None]], [labels_of()[None], plain[None]]):
        with pytest.raises(RWLossError, match=r"set_track_meta\(True\)"):
            loss(logits, *more)
    with pytest.raises(RWLossError, match="no record"):
        RWMapd("label", "rectified", 2)({"label": labels_of(), "map": plain})


def test_without_metadata_at_all_a_map_is_refused():
    set_track_meta(False)
    try:
        one = mt.Compose([RWMapd("label", "rectified", 2), mt.Flipd(KEYS, 0)])(
            {"label": labels_of()}
        )
        with pytest.raises(RWLossError, match="no record"):
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
@pytest.mark.parametrize(("of_map", "of_input"), [(2, 3), (3, 2), (5, 3), (3, 5), (2, 5)])
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
    whole = RWMapd("label", text, of_input)({"label": label, "map": packed})
    torch.testing.assert_close(loss(logits, whole["map"][None]), loss(logits, label[None]))


def test_masks_and_classes_are_told_apart():
    masks = (torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    of_masks = made("boundary", None, label=masks, masks=True)[None]
    with pytest.raises(RWLossError, match=r"has 3 masks, .*with softmax: .*num_classes=3"):
        RWLoss("boundary", **FLAGS)(torch.randn(1, 3, 12, 12), of_masks)
    with pytest.raises(RWLossError, match="has 3 masks, the input has 2 channels with sigmoid"):
        RWLoss("boundary", sigmoid=True)(torch.randn(1, 2, 12, 12), of_masks)


@pytest.mark.parametrize("text", ["boundary", "rectified"])
@pytest.mark.parametrize("to_onehot_y", [False, True])
def test_a_map_of_classes_in_a_sigmoid_loss(text, to_onehot_y):
    loss = RWLoss(text, sigmoid=True, to_onehot_y=to_onehot_y)
    for k in (1, 3, 5):
        with pytest.raises(RWLossError, match=r"has 3 classes, .*with sigmoid: .*masks=True"):
            loss(torch.randn(1, k, 12, 12), made(text, 3, label=labels_of(3))[None])


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
    with_meta = list_data_collate([RWMapd("label", of_map, 2)({"label": label})] * 2)["map"]
    loss = pickle.loads(pickle.dumps(RWLoss(of_loss, **FLAGS)))
    loss.set_epoch(0, 10)
    static = str(RWMapd("label", of_loss, 2).expression).replace("*", r"\*")
    logits = torch.randn(2, 2, 12, 12)
    for packed in (with_meta, with_meta[:1]):
        message = f"image 0 of the batch is of {of_map}, the static part of the loss is {static}: "
        with pytest.raises(RWLossError, match=message):
            loss(logits[: len(packed)], packed)
        with pytest.raises(RWLossError, match=message):
            loss(logits[: len(packed)], torch.stack([label] * len(packed)), packed)


def test_the_image_with_another_map_is_named():
    both = [{"map": made(text)} for text in ("boundary", "rectified")]
    with pytest.raises(RWLossError, match=r"image 1 of the batch is of rectified, .* is boundary"):
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


def test_a_second_transform_of_another_expression_or_number_of_classes():
    label = labels_of()
    sample = {"label": label, "map": made("boundary")}
    with pytest.raises(RWLossError, match=r"map of boundary, .* makes rectified.*cache"):
        RWMapd("label", "rectified", 2)(sample)
    assert RWMapd("label", "boundary", 2)(sample)["map"] is sample["map"]
    again = RWMapd("label", "boundary", 3)(sample)["map"]
    assert torch.equal(again, RWMapd("label", "boundary", 3)({"label": label})["map"])
