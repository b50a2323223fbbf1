"""RWLoss: MONAI's conventions beside the plain loss, and what it refuses."""

import itertools
import pickle
import types

import pytest
import torch
from loss_batches import assert_same, given, given_masks, one_hot, value_and_gradient

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.integrations.monai import RWLoss

# --- Against the plain loss: what MONAI's BoundaryLoss has no word for


def test_sum_of_an_expression_with_dice_is_its_mean_times_images_and_classes():
    logits, labels = given((16, 12))
    flags = {"softmax": True, "to_onehot_y": True, "include_background": False}
    for batch, values in ((False, 9), (True, 3)):
        mean, total = (
            RWLoss("rectified + dice", **flags, reduction=each, batch=batch)(
                logits, labels[:, None]
            )
            for each in ("mean", "sum")
        )
        torch.testing.assert_close(total, mean * values)


@pytest.mark.parametrize("to_onehot_y", [True, False])
def test_ignored_voxels(to_onehot_y):
    logits, labels = given((16, 12))
    for ignored in (255, -1, 0, 2):
        target = labels.long()
        target[:, 4:9, 5:] = ignored
        flags = {"softmax": True, "to_onehot_y": to_onehot_y, "ignore_index": ignored}
        assert_same(
            value_and_gradient(
                RWLoss("boundary + dice", **flags),
                logits,
                target[:, None] if to_onehot_y else one_hot(target, 4),
            ),
            value_and_gradient(
                RegionWiseLoss("boundary + dice", ignore_index=ignored), logits, target
            ),
        )


@pytest.mark.parametrize("to_onehot_y", [True, False])
def test_ignored_voxels_of_masks(to_onehot_y):
    logits, labels = given((16, 12))
    plain = RegionWiseLoss(
        "rectified", activation="sigmoid", include_background=False, ignore_index=9
    )
    for ignored in (255, 2):
        target = labels.long()
        target[:, 4:9, 5:] = ignored
        masks, hidden = one_hot(target, 4).long(), (target == ignored)[:, None]
        given_masks = masks if ignored == 2 else masks.where(~hidden, ignored)
        loss = RWLoss("rectified", sigmoid=True, to_onehot_y=to_onehot_y, ignore_index=ignored)
        assert_same(
            value_and_gradient(loss, logits, target[:, None] if to_onehot_y else given_masks),
            value_and_gradient(plain, logits, masks.where(~hidden, 9)),
        )


@pytest.mark.parametrize("flag", ["softmax", "sigmoid"])
def test_soft_labels(flag):
    logits, labels = given((16, 12))
    soft = 0.9 * one_hot(labels, 4) + 0.025
    text, more = "dice + rectified", {"include_background": flag == "softmax"}
    assert_same(
        value_and_gradient(RWLoss(text, soft_labels="largest", **{flag: True}), logits, soft),
        value_and_gradient(
            RegionWiseLoss(text, soft_labels="largest", activation=flag, **more), logits, soft
        ),
    )


def test_reduction_as_an_enumeration():
    """As MONAI's LossReduction, whose members have values."""
    logits, labels = given((16, 12))
    one, other = (
        RWLoss("rectified", softmax=True, reduction=reduction)(logits, one_hot(labels, 4))
        for reduction in ("sum", types.SimpleNamespace(value="sum"))
    )
    assert one == other


def test_mask_map_and_spacing_given_at_the_call():
    """As third argument an RWMap; the spacing comes before that of the loss."""
    logits, labels = given((16, 12))
    rwmap = 0.5 * maps.get("boundary")(Regions(labels, 4))
    loss = RWLoss("boundary", softmax=True, to_onehot_y=True, spacing_mm=(1.0, 2.5))
    plain = RegionWiseLoss("boundary", spacing_mm=(1.0, 2.5))
    for args, more in (
        ((), {}),
        ((rwmap,), {}),
        ((), {"mask": torch.rand(3, 1, 16, 12) < 0.5}),
        ((), {"mask": torch.rand(1, 1, 16, 12) < 0.5}),  # one for all images, as in MONAI
        ((), {"spacing_mm": (3.0, 0.5)}),
    ):
        found = value_and_gradient(loss, logits, labels[:, None], *args, **more)
        assert_same(found, value_and_gradient(plain, logits, labels, *args, **more))
    assert loss(logits, labels[:, None], rwmap) != loss(logits, labels[:, None])


def test_schedule_and_its_state():
    logits, labels = given((16, 12))
    text = "blend(generalized_dice, boundary, schedule='rebalance')"
    loss = RWLoss(text, softmax=True, to_onehot_y=True)
    plain = RegionWiseLoss(text)
    loss.set_epoch(30, 100)
    plain.set_epoch(30, 100)
    torch.testing.assert_close(loss(logits, labels[:, None]), plain(logits, labels))
    again = RWLoss(text, softmax=True, to_onehot_y=True)
    again.load_state_dict(loss.state_dict())
    assert again.epoch == 30
    assert pickle.loads(pickle.dumps(loss)).epoch == 30
    assert repr(RWLoss("dice", softmax=True, batch=True)) == "RWLoss('dice', batch=True)"


@pytest.mark.parametrize("text", ["boundary", "rectified + dice"])
def test_under_autocast(text, device):
    """Computed in float32, with gradients in the type of the outputs."""
    loss = RWLoss(text, softmax=True, to_onehot_y=True)
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = given((9, 8, 7), dtype=dtype)
        logits, target = logits.to(device), labels[:, None].float().to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            value, gradient = value_and_gradient(loss, logits, target)
        assert value.dtype == torch.float32
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(value, loss(logits.float(), target))


def test_under_autocast_in_deep_supervision(monai_losses):
    """As a network gives them there: outputs in half precision, targets in full."""
    logits, labels = given((8, 8, 8), dtype=torch.bfloat16)
    heads = [logits, logits[..., ::2, ::2, ::2].clone()]
    deep = monai_losses.DeepSupervisionLoss(
        RWLoss("rectified + dice", softmax=True, to_onehot_y=True)
    )
    target = labels[:, None].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradients = value_and_gradient(deep, heads, target)
    assert value.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients} == {torch.bfloat16}
    torch.testing.assert_close(value, deep([head.float() for head in heads], target))


# --- What it refuses


def test_terms_that_need_the_outside_of_a_mask_are_refused():
    for text in ("active_contour", "class_weighted", "rectified.with_link(0.5)"):
        with pytest.raises(RWLossError, match='activation="sigmoid"'):
            RWLoss(text, sigmoid=True)
        RWLoss(text, softmax=True)
    for text in ("boundary", "rectified", "rectified + active_contour", "dice"):
        RWLoss(text, sigmoid=True)


def test_settings_that_exclude_each_other():
    with pytest.raises(RWLossError, match="choose one"):
        RWLoss("rectified", sigmoid=True, softmax=True)
    with pytest.raises(RWLossError, match="unknown reduction"):
        RWLoss("rectified", softmax=True, reduction="average")


LABELS = {"softmax": True, "to_onehot_y": True}


@pytest.mark.parametrize(
    ("flags", "k", "target", "message"),
    [
        ({"softmax": True}, 4, torch.zeros(3, 1, 16, 12), "to_onehot_y=True for a label map"),
        ({"softmax": True}, 4, torch.zeros(3, 16, 12), "to_onehot_y=True for a label map"),
        (LABELS, 4, torch.zeros(3, 3, 16, 12), "to_onehot_y=False for one channel per channel"),
        (LABELS, 4, torch.zeros(3, 1, 9, 12), "does not fit logits"),
        (LABELS | {"ignore_index": 255}, 4, -torch.ones(3, 1, 16, 12), "label -1 found"),
        ({}, 1, torch.zeros(3, 1, 16, 12), "logits and sigmoid=True"),
        ({"softmax": True}, 1, torch.zeros(3, 1, 16, 12), "or use sigmoid=True"),
        (
            {"to_onehot_y": True},
            4,
            torch.zeros(3, 1, 16, 12),
            "expected probabilities of 0 to 1, .* without softmax or sigmoid the network must "
            "give probabilities; for logits use softmax=True or sigmoid=True",
        ),
        ({"softmax": True}, 4, torch.ones(3, 4, 16, 12), "or sigmoid=True for masks that overlap"),
        ({"softmax": True}, 4, 0.25 * torch.ones(3, 4, 16, 12), "not one-hot"),
        ({"sigmoid": True}, 4, torch.full((3, 4, 16, 12), 2), "for class labels use softmax=True"),
        ({"sigmoid": True}, 1, torch.zeros(3, 1, 9, 12), "with sigmoid=True expected a mask"),
    ],
)
def test_wrong_targets(flags, k, target, message):
    """In its own words: `RegionWiseLoss` has one argument, activation."""
    logits, _ = given((16, 12), k)
    with pytest.raises(RWLossError, match=message) as refused:
        RWLoss("rectified", **flags)(logits, target)
    assert "activation" not in str(refused.value)


def test_what_the_messages_advise_works():
    logits, labels = given((16, 12))
    many, masks = given_masks((16, 12), 3)
    for loss, x, y in (
        (RWLoss("rectified", **LABELS), logits, labels),
        (RWLoss("rectified", **LABELS), logits, labels[:, None]),
        (RWLoss("rectified", softmax=True), logits, one_hot(labels, 4)),
        (RWLoss("rectified", sigmoid=True), many, masks),
        (RWLoss("rectified", sigmoid=True), many[:, :1], masks[:, :1]),
        (
            RWLoss("rectified"),
            torch.stack([1 - many[:, 0].sigmoid(), many[:, 0].sigmoid()], 1),
            one_hot(masks[:, 0], 2),
        ),
        (RegionWiseLoss("active_contour", activation="sigmoid"), many, masks),
        (RegionWiseLoss("rectified.with_link(0.5)", activation="sigmoid"), many, masks),
    ):
        value, gradient = value_and_gradient(loss, x, y)
        assert torch.isfinite(value)
        assert gradient.any()


def test_one_hot_targets_are_no_maps():
    """As many channels as some map has, and none of its numbers."""
    loss = RWLoss("rectified", **LABELS)
    for num_classes, scale in itertools.product((2, 3, 4, 5, 8), (1, 255)):
        logits, labels = given((16, 12), num_classes)
        for dtype in (torch.float32, torch.uint8):
            target = scale * one_hot(labels, num_classes).to(dtype)
            with pytest.raises(RWLossError, match="to_onehot_y=False for one channel per"):
                loss(logits, target)
            with pytest.raises(RWLossError, match="0 records"):
                loss(logits, labels[:, None], target)


def test_an_rwmap_of_classes_in_a_sigmoid_loss_is_refused_in_its_own_words():
    logits, labels = given((16, 12))
    rwmap = maps.get("rectified")(Regions(labels, 4))
    with pytest.raises(RWLossError, match="map has 4 classes, with sigmoid=True every mask is"):
        RWLoss("rectified", sigmoid=True)(logits, one_hot(labels, 4), rwmap)


def test_no_output():
    with pytest.raises(RWLossError, match="no output"):
        RWLoss("rectified", **LABELS)([], torch.zeros(1, 1, 4, 4))
