"""Mean, sum and none; the background left out; weights of classes."""

import pytest
import torch
from loss_batches import (
    assert_close,
    assert_same,
    given,
    given_masks,
    here,
    one_hot,
    uniform,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, maps

STATIC = ["rectified", "boundary", "class_weighted", "rectified.with_link(0.5)"]
TERMS = [*STATIC, "dice", "cross_entropy", "rectified + 2 * dice - 0.1 * boundary"]
each_static = pytest.mark.parametrize("text", STATIC)
each_term = pytest.mark.parametrize("text", TERMS)
each_shape = pytest.mark.parametrize("shape", [(9, 7), (5, 4, 3)], ids=str)
each_background = pytest.mark.parametrize("include_background", [True, False])


@each_term
@each_shape
@each_background
def test_sum_is_the_mean_times_the_number_of_values_and_that_of_none(
    text, shape, include_background
):
    logits, labels = given(shape)
    settings = {"include_background": include_background}
    mean = value_and_gradient(RegionWiseLoss(text, **settings), logits, labels)
    found = value_and_gradient(RegionWiseLoss(text, reduction="sum", **settings), logits, labels)
    channels = 4 if include_background else 3
    values = labels.numel() * channels
    assert_same(found, (mean[0] * values, mean[1] * values), 1e-12)
    if text in STATIC:
        costs = RegionWiseLoss(text, reduction="none", **settings)(logits, labels)
        assert costs.shape == (3, channels, *shape)
        assert_close(costs.sum(), found[0], 1e-12)


@each_static
def test_gradient_of_unreduced_costs(text):
    """Weighted by anything, as a caller does."""
    logits, labels = given((9, 7))
    weight = uniform(*logits.shape, seed=2)
    unreduced = RegionWiseLoss(text, reduction="none")
    found = value_and_gradient(lambda x: (unreduced(x, labels) * weight).mean(), logits)
    if "link" in text:
        w = maps.Rectified()(Regions(labels, 4)).weight()[:, None]
        truth = one_hot(labels, 4)

        def wanted(x):
            return (truth * w * 2 * (1 - torch.softmax(x, dim=1) ** 0.5) * weight).mean()
    else:
        z = maps.parse(text)(Regions(labels, 4)).dense()

        def wanted(x):
            return (torch.softmax(x, dim=1) * z * weight).mean()

    assert_same(found, value_and_gradient(wanted, logits))


# --- By image and class

MIXED = [
    "dice",
    "cross_entropy",
    "generalized_dice + hausdorff_dt",
    "rectified + 0.5 * dice",
    "2 * rectified.with_link(0.5) - 0.1 * boundary + dice + focal",
    "blend(dice, boundary, schedule='steal')",
    "(dice + boundary).stabilized()",
    "rectified + (cross_entropy + 0.1 * boundary).stabilized()",
]


SETTINGS = {
    "plain": ({}, (3, 4)),
    "without background": ({"include_background": False}, (3, 3)),
    "probabilities": ({"activation": "none"}, (3, 4)),
    "ignored voxels and a mask": ({"ignore_index": 255}, (3, 4)),
    "deep supervision": ({}, (3, 4)),
    "sigmoid": ({"activation": "sigmoid"}, (2, 3, 2)),
    "masks alone": ({"activation": "sigmoid", "include_background": False}, (2, 3)),
}
"""Settings of a loss, with the shape of its values by image and class."""


def call_of(name, loss, logits, target):
    """The loss of a batch of this kind."""
    if name == "ignored voxels and a mask":
        target = target.clone()
        target[0, :4] = 255
        mask = uniform(3, 9, 7, seed=1) > 0.4
        return loss(logits, target, mask=mask)
    if name == "deep supervision":
        return loss([logits, logits[:, :, ::3, ::2]], target)
    return loss(torch.softmax(logits, dim=1) if name == "probabilities" else logits, target)


@pytest.mark.parametrize("text", MIXED)
@pytest.mark.parametrize("name", SETTINGS)
def test_values_by_image_and_class_have_the_loss_as_their_mean(text, name):
    settings, shape = SETTINGS[name]
    if settings.get("include_background") is False and "stabilized" in text:
        pytest.skip("refused: a map without its channel 0")
    overlapping = settings.get("activation") == "sigmoid"
    logits, target = (given_masks if overlapping else given)((9, 7))
    unreduced = RegionWiseLoss(text, reduction="none", **settings)
    reduced = RegionWiseLoss(text, **settings)
    for loss in (unreduced, reduced):
        loss.set_epoch(7)
    assert call_of(name, unreduced, logits, target).shape == shape
    found = value_and_gradient(lambda x: call_of(name, unreduced, x, target).mean(), logits)
    wanted = value_and_gradient(lambda x: call_of(name, reduced, x, target), logits)
    assert_same(found, wanted, 1e-6)


def test_values_by_image_and_class_by_their_formulas():
    logits, labels = given((9, 7))
    probs, truth = torch.softmax(logits, dim=1), one_hot(labels, 4)
    both, sizes = (probs * truth).sum(dim=(2, 3)), (probs + truth).sum(dim=(2, 3))
    dice = 1 - (2 * both + 1e-5) / (sizes + 1e-5)
    static = (probs * maps.Rectified()(Regions(labels, 4)).dense()).mean(dim=(2, 3))
    found = RegionWiseLoss("rectified + 2 * dice", reduction="none")(logits, labels)
    assert_close(found, static + 2 * dice)


def test_a_loss_of_the_whole_batch_is_the_same_for_each_class():
    logits, labels = given((9, 7))
    term = maps.from_loss(lambda p, y: ((p - y) ** 2).mean(), name="brier")
    values = RegionWiseLoss(term, reduction="none")(logits, labels)
    assert values.shape == (3, 4)
    assert_close(values, RegionWiseLoss(term)(logits, labels).expand(3, 4), 1e-12)


# --- Background


@each_shape
def test_dynamic_terms_without_background(shape):
    """Each formula over the other channels, after the softmax."""
    logits, labels = given(shape)
    probs, truth = torch.softmax(logits, dim=1)[:, 1:], one_hot(labels, 4)[:, 1:]
    space = tuple(range(2, logits.ndim))
    both, sizes = (probs * truth).sum(dim=space), (probs + truth).sum(dim=space)
    formulas = {
        "dice": (1 - (2 * both + 1e-5) / (sizes + 1e-5)).mean(),
        "cross_entropy": -(truth * probs.log()).sum() / labels.numel(),
    }
    for text, wanted in formulas.items():
        assert_close(RegionWiseLoss(text, include_background=False)(logits, labels), wanted, 1e-9)


@each_shape
def test_dice_without_background_is_monais(shape):
    losses = pytest.importorskip("monai.losses")
    logits, labels = given(shape)
    theirs = losses.DiceLoss(include_background=False, softmax=True, to_onehot_y=True)
    wanted = value_and_gradient(theirs, logits, labels[:, None].double())
    loss = RegionWiseLoss("dice", include_background=False)
    assert_same(value_and_gradient(loss, logits, labels), wanted)


def test_what_needs_the_background():
    message = "include_background=False: a map without its channel 0 is not stable"
    with pytest.raises(RWLossError, match=message):
        RegionWiseLoss("(dice + boundary).stabilized()", include_background=False)
    RegionWiseLoss("boundary.stabilized()", include_background=False)  # a map like any other


# --- Class weights


@each_shape
@each_background
def test_class_weights_are_of_the_true_class(shape, include_background):
    """Voxel by voxel, never channel by channel: a stable map stays stable."""
    logits, labels = given(shape)
    weights = (1.0, 0.0, 2.5, 4.0)
    table = here(torch.tensor(weights, dtype=torch.float64))[labels.long()][:, None]
    for text in ("rectified", "boundary"):
        z = maps.parse(text)(Regions(labels, 4)).dense() * table

        def official(x, z=z):
            costs = torch.softmax(x, dim=1) * z
            return (costs if include_background else costs[:, 1:]).mean()

        loss = RegionWiseLoss(text, class_weights=weights, include_background=include_background)
        wanted = value_and_gradient(official, logits)
        assert_same(value_and_gradient(loss, logits, labels), wanted)
        stored = maps.parse(text)(Regions(labels, 4))
        for rwmap in (stored, stored.dense()):
            assert_same(value_and_gradient(loss, logits, labels, rwmap), wanted)


def test_class_weights_of_a_link():
    logits, labels = given((9, 7))
    weights = here(torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64))
    loss = RegionWiseLoss("active_contour.with_link(0)", class_weights=weights.tolist())
    # torch's own mean divides by the weights of the voxels; ours by their number, and by K.
    total = functional.cross_entropy(logits, labels.long(), weight=weights, reduction="sum")
    assert_close(loss(logits, labels), total / (4 * labels.numel()))


def test_class_weights_and_ignored_voxels():
    logits, labels = given((9, 7))
    labels[:, :3] = 255
    loss = RegionWiseLoss("rectified", class_weights=(5, 1, 1, 1), ignore_index=255)
    value, gradient = value_and_gradient(loss, logits, labels)
    costs = RegionWiseLoss("rectified", ignore_index=255, reduction="none")(logits, labels)
    costs = costs * torch.where(labels == 0, 5.0, 1.0)[:, None]
    assert_close(value, costs.sum() / (4 * (labels != 255).sum()))
    assert not gradient[:, :, :3].any()


def test_class_weights_leave_dynamic_terms_alone():
    logits, labels = given((9, 7))
    loss = RegionWiseLoss("dice + cross_entropy", class_weights=(1, 2, 3, 4))
    assert loss(logits, labels) == RegionWiseLoss("dice + cross_entropy")(logits, labels)


def test_class_weights_outside_and_inside_a_mask():
    logits, masks = here(torch.zeros(1, 2, 3, 3)), here(torch.ones(1, 2, 3, 3))
    loss = RegionWiseLoss("active_contour", activation="sigmoid", class_weights=(1, 3))
    assert loss(logits, masks).item() == pytest.approx(3 * 0.5 / 2)
    wrong = RegionWiseLoss("active_contour", activation="sigmoid", class_weights=(1, 2, 3))
    with pytest.raises(RWLossError, match=r"3 class_weights for 2 classes: .*outside and inside"):
        wrong(logits, masks)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 2, 3), "3 class_weights for 4 classes: give one for each"),
        ((1, -1, 1, 1), "expected class_weights of 0 or more, got"),
        ((1, float("nan"), 1, 1), "expected class_weights of 0 or more, got"),
    ],
)
def test_class_weights_that_do_not_fit(weights, message):
    with pytest.raises(RWLossError, match=message):
        RegionWiseLoss("rectified", class_weights=weights)(*given((9, 7)))
