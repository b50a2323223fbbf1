"""What a map says it is of: numbers that float32 keeps, and what the loss makes of them."""

import pickle

import pytest
import torch
from anatomy import batch

from rwloss import RWLossError
from rwloss.integrations.monai import RWLoss
from rwloss.integrations.monai.packed import refuse_if_warped
from rwloss.integrations.monai.stamp import LEAST, Stamp, digest, is_stamped, stamps_of

pytest.importorskip("monai", reason="MONAI is not installed")

from monai.data import MetaTensor, list_data_collate

from rwloss.integrations.monai import RWMapd

TEXTS = ["rectified", "boundary", "0.01 * boundary", "rectified + boundary", ""]
FLAGS = {"softmax": True, "to_onehot_y": True}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("num_classes", [0, 2, 3, 133, 1023])
def test_what_goes_in_comes_out(num_classes, text):
    stamp = Stamp.of(num_classes, text)
    assert LEAST <= stamp.number < 2**24
    kept = torch.full((1, 5, 2, 2), stamp.number, dtype=torch.float32)
    assert stamps_of(kept) == [stamp]
    assert (stamp.num_classes, stamp.digest) == (num_classes, digest(text))


def test_the_largest_stamp_and_what_is_none():
    assert Stamp(1023, 16383).number == 2**24 - 1
    assert Stamp.of(5000, "rectified") == Stamp.of(1023, "rectified")
    assert len({digest(text) for text in TEXTS}) == len(TEXTS)
    for number in (0.0, 1.0, 255.0, 2.0**24, -5000.0, 5000.5, float("nan"), float("inf")):
        assert Stamp.of_number(number).digest == 0


def test_labels_and_one_hot_have_no_stamp():
    for dtype in (torch.float32, torch.uint8, torch.int64, torch.bool):
        assert not is_stamped(torch.ones(1, 7, 4, 4, dtype=dtype))
    assert not is_stamped(torch.full((1, 1, 4, 4), 5000.0))


def test_a_stamp_that_was_changed_is_refused():
    packed = made("rectified")[None].clone()
    for value in (0.0, 5000.5, torch.nan, torch.inf):
        packed[:, -1] = value
        with pytest.raises(RWLossError, match="last channel of the map"):
            refuse_if_warped(packed)


def made(text, num_classes=2, *, label=None, **settings):
    """The map of a label, without metadata."""
    label = torch.as_tensor(batch(51, (12, 12), 2, 1)).float() if label is None else label
    return RWMapd("label", text, num_classes, **settings)({"label": label})["map"].as_subclass(
        torch.Tensor
    )


# --- Another number of classes


@pytest.mark.parametrize("text", ["boundary", "rectified", "class_weighted"])
@pytest.mark.parametrize(("of_map", "of_input"), [(2, 3), (3, 2), (5, 3), (3, 5), (2, 5), (4, 5)])
def test_a_map_of_other_classes_is_refused(text, of_map, of_input):
    """Channels alone don't tell: a map of two classes, and a compact one, fit any number."""
    label = torch.zeros(1, 12, 12)
    label[:, 3:8, 2:9] = 1
    packed = made(text, of_map, label=label)[None]
    loss = RWLoss(text, **FLAGS)
    logits = torch.randn(1, of_input, 12, 12)
    message = f"map has {of_map} classes, input has {of_input}: .*num_classes={of_input}"
    with pytest.raises(RWLossError, match=message):
        loss(logits, packed)
    with pytest.raises(RWLossError, match=message):
        loss(logits, label[None], packed)
    whole = RWMapd("label", text, of_input, map_keys="map")({"label": label, "map": packed[0]})
    torch.testing.assert_close(loss(logits, whole["map"][None]), loss(logits, label[None]))


def test_masks_and_classes_are_told_apart():
    masks = (torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    of_masks = made("boundary", None, label=masks, masks=True)[None]
    with pytest.raises(RWLossError, match=r"made with masks=True.*num_classes=3, or pass sigmoid"):
        RWLoss("boundary", **FLAGS)(torch.randn(1, 3, 12, 12), of_masks)
    with pytest.raises(RWLossError, match="map has 3 masks, input has 2 channels"):
        RWLoss("boundary", sigmoid=True)(torch.randn(1, 2, 12, 12), of_masks)


@pytest.mark.parametrize("text", ["boundary", "rectified"])
@pytest.mark.parametrize("to_onehot_y", [False, True])
def test_a_map_of_classes_in_a_sigmoid_loss(text, to_onehot_y):
    label = torch.as_tensor(batch(51, (12, 12), 3, 1)).float()
    loss = RWLoss(text, sigmoid=True, to_onehot_y=to_onehot_y)
    for k in (1, 3, 5):  # a compact map has five channels
        with pytest.raises(RWLossError, match=r"made with num_classes=3: .*masks=True of one-hot"):
            loss(torch.randn(1, k, 12, 12), made(text, 3, label=label)[None])


def test_one_mask_is_a_map_of_two_classes():
    label = torch.as_tensor(batch(51, (12, 12), 2, 1)).float()
    of_mask, of_classes = made("boundary", None, masks=True, label=label), made("boundary")
    assert torch.equal(of_mask, of_classes)
    logits = torch.randn(1, 1, 12, 12)
    loss = RWLoss("boundary", sigmoid=True)
    torch.testing.assert_close(loss(logits, of_classes[None]), loss(logits, label[None]))


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
    label = MetaTensor(torch.as_tensor(batch(51, (12, 12), 2, 1)).float())
    both = [RWMapd("label", of_map, 2)({"label": label})] * 2
    loss = pickle.loads(pickle.dumps(RWLoss(of_loss, **FLAGS)))
    loss.set_epoch(0, 10)
    static = str(RWMapd("label", of_loss, 2).expression).replace("*", r"\*")
    logits = torch.randn(2, 2, 12, 12)
    with_meta = list_data_collate(both)["map"]
    for packed, named in (
        (with_meta, of_map),
        (with_meta[:1], of_map),
        (torch.stack([one["map"] for one in both]), of_map),
        (with_meta.as_tensor(), "another expression"),
    ):
        message = f"image 0 of the batch is of {named}, the static part of the loss is {static}: "
        with pytest.raises(RWLossError, match=message):
            loss(logits[: len(packed)], packed)
        with pytest.raises(RWLossError, match=message):
            loss(logits[: len(packed)], torch.stack([label] * len(packed)), packed)


def test_the_image_with_another_map_is_named():
    label = MetaTensor(torch.as_tensor(batch(51, (12, 12), 2, 1)).float())
    both = [RWMapd("label", text, 2)({"label": label}) for text in ("boundary", "rectified")]
    packed = list_data_collate(both)["map"]
    with pytest.raises(RWLossError, match=r"image 1 of the batch is of rectified, .* is boundary"):
        RWLoss("boundary", **FLAGS)(torch.randn(2, 2, 12, 12), packed)


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
    """Weights of a data set are numbers in a map that was made before."""
    loss = RWLoss(of_loss, **FLAGS)
    loss.set_epoch(0, 10)
    assert torch.isfinite(loss(torch.randn(1, 2, 12, 12), made(of_map)[None]))


def test_a_second_transform_of_another_expression_or_number_of_classes():
    """It needs no metadata: a cache may have lost them."""
    label = torch.as_tensor(batch(51, (12, 12), 2, 1)).float()
    sample = {"label": label, "map": made("boundary")}
    with pytest.raises(RWLossError, match=r"map of another expression, .* makes rectified.*cache"):
        RWMapd("label", "rectified", 2)(sample)
    assert RWMapd("label", "boundary", 2)(sample)["map"] is sample["map"]
    anew = RWMapd("label", "boundary", 3)(sample)["map"]
    assert torch.equal(anew, RWMapd("label", "boundary", 3)({"label": label})["map"])
