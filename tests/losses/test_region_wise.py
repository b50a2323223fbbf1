"""The loss against torch.mean(softmax * map), its gradient, its reductions and class weights."""

import loss_batches
import plain_formulas as plain
import pytest
import torch
from loss_batches import (
    assert_close,
    assert_same,
    every,
    given_masks,
    here,
    normal,
    one_hot,
    uniform,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, maps

RULES = {
    "inverse": lambda n: 1 / n,
    "inverse_square": lambda n: 1 / n**2,
    "effective_number": lambda n: (1 - 0.9999) / (1 - 0.9999**n),
}
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
# Each built-in as text, with the plain formula of its dense map.
OFFICIAL = {
    "rectified": lambda y, s: plain.rectified(y, 4, s),
    "active_contour": lambda y, s: plain.active_contour(y, 4),
    "boundary": lambda y, s: plain.boundary(y, 4, s),
    "boundary(convention='valverde')": lambda y, s: plain.boundary(y, 4, s, "valverde"),
    "boundary(normalize='max')": lambda y, s: plain.boundary(y, 4, s, normalize="max"),
    "class_weighted": lambda y, s: plain.class_weighted(y, 4, RULES["inverse"]),
    "class_weighted(weights='inverse_square')": lambda y, s: plain.class_weighted(
        y, 4, RULES["inverse_square"]
    ),
    "class_weighted(weights='effective_number')": lambda y, s: plain.class_weighted(
        y, 4, RULES["effective_number"]
    ),
    f"class_weighted(weights={WEIGHTS})": lambda y, s: plain.class_weighted(y, 4, WEIGHTS),
}
SHAPES = [(9, 7), (5, 4, 3)]
STATIC = ["rectified", "boundary", "class_weighted", "rectified.with_link(0.5)"]


def given(shape=(9, 7)):
    """Logits (b k *s) with gradient, and labels (b *s)."""
    logits, labels = loss_batches.given(shape)
    return logits.requires_grad_(), labels


def official_map(text, labels, spacing):
    return here(OFFICIAL[text](labels.cpu().numpy(), [spacing] * len(labels)))


def official(logits, values):
    return torch.mean(torch.softmax(logits, dim=1) * values)


def test_closed_form_of_one_voxel():
    """p = 1/4 for the true class: 3/4 is wrong, over four classes."""
    logits, target = here(torch.zeros(1, 4, 1, 1)), here([[[2]]])
    assert RegionWiseLoss("active_contour")(logits, target).item() == pytest.approx(0.75 / 4)
    assert RegionWiseLoss("rectified")(logits, target).item() == pytest.approx((0.75 - 0.25) / 4)
    assert RegionWiseLoss("boundary")(logits, target).item() == 0


@every(text=OFFICIAL, spacing=[None, (0.8, 2.5), (0.8, 0.8, 2.5)])
def test_equals_the_official_mean(text, spacing):
    """The spacing is 1 by default."""
    logits, labels = given((11, 9) if spacing is None or len(spacing) == 2 else (6, 7, 5))
    values = official_map(text, labels, spacing or (1.0, 1.0))
    found = value_and_gradient(RegionWiseLoss(text, spacing_mm=spacing), logits, labels)
    wanted = value_and_gradient(official, logits, values)
    assert_close(found[0], wanted[0])
    assert_close(found[1], wanted[1], 1e-5)


@every(text=OFFICIAL)
def test_gradient_is_the_closed_form(text):
    """dL/dlogit_k = p_k (z_k - sum_j p_j z_j) / (B K N), for compact and dense maps."""
    logits, labels = given()
    stored = maps.parse(text)(Regions(labels, 4))
    z, p = stored.dense().double(), torch.softmax(logits, dim=1)
    wanted = p * (z - (p * z).sum(dim=1, keepdim=True)) / logits.numel()
    for rwmap in (stored, z):
        _, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels, rwmap)
        assert_close(gradient, wanted, 1e-12)


def test_constant_added_to_a_voxel_changes_no_gradient():
    logits, labels = given()
    z = official_map("boundary", labels, (1.0, 1.0))
    loss = RegionWiseLoss("boundary")
    _, before = value_and_gradient(loss, logits, labels, z)
    _, after = value_and_gradient(loss, logits, labels, z + normal(3, 1, 9, 7))
    assert_close(after, before, 1e-12)


def test_no_gradient_flows_into_the_map():
    logits, labels = given()
    values = uniform(3, 4, 9, 7, dtype=torch.float64).requires_grad_()
    RegionWiseLoss("rectified")(logits, labels, values).backward()
    assert values.grad is None
    assert logits.grad is not None


def test_spacing_of_the_call_goes_before_that_of_the_constructor():
    logits, labels = given()
    loss = RegionWiseLoss("boundary", spacing_mm=(1.0, 1.0))
    wanted = RegionWiseLoss("boundary", spacing_mm=(0.8, 2.5))(logits, labels)
    assert loss(logits, labels, spacing_mm=(0.8, 2.5)) == wanted
    assert loss(logits, labels) != wanted


# --- Reductions and background


@every(text=OFFICIAL, shape=SHAPES, include_background=[True, False])
def test_reductions(text, shape, include_background):
    logits, labels = given(shape)
    cost = torch.softmax(logits, dim=1) * official_map(text, labels, (1.0,) * len(shape))
    if not include_background:
        cost = cost[:, 1:]  # after the softmax, and the mean is over K - 1
    for reduction, wanted in {"none": cost, "sum": cost.sum(), "mean": cost.mean()}.items():
        loss = RegionWiseLoss(text, include_background=include_background, reduction=reduction)
        assert_close(loss(logits, labels), wanted)


@every(
    text=[*STATIC, "dice", "cross_entropy", "rectified + 2 * dice - 0.1 * boundary"],
    shape=SHAPES,
    include_background=[True, False],
)
def test_sum_is_the_mean_times_the_number_of_values(text, shape, include_background):
    logits, labels = given(shape)
    settings = {"include_background": include_background}
    mean = value_and_gradient(RegionWiseLoss(text, **settings), logits, labels)
    found = value_and_gradient(RegionWiseLoss(text, reduction="sum", **settings), logits, labels)
    values = labels.numel() * (4 if include_background else 3)
    assert_same(found, (mean[0] * values, mean[1] * values), 1e-12)
    if text in STATIC:
        unreduced = RegionWiseLoss(text, reduction="none", **settings)
        costs = value_and_gradient(lambda x: unreduced(x, labels).sum(), logits)
        assert_same(costs, found, 1e-12)


@every(text=["rectified", "boundary"])
def test_gradient_of_unreduced_costs(text):
    """Weighted by anything, as a caller does."""
    logits, labels = given()
    weight = uniform(*logits.shape, seed=2)
    unreduced = RegionWiseLoss(text, reduction="none")
    found = value_and_gradient(lambda x: (unreduced(x, labels) * weight).mean(), logits)
    z = maps.parse(text)(Regions(labels, 4)).dense()
    assert_same(found, value_and_gradient(official, logits, z * weight))


@every(shape=SHAPES)
def test_dynamic_terms_without_background(shape):
    """Each formula over the other channels, after the softmax."""
    losses = pytest.importorskip("monai.losses")
    logits, labels = given(shape)
    probs, truth = torch.softmax(logits, dim=1)[:, 1:], one_hot(labels, 4)[:, 1:]
    wanted = -(truth * probs.log()).sum() / labels.numel()
    found = RegionWiseLoss("cross_entropy", include_background=False)(logits, labels)
    assert_close(found, wanted, 1e-9)
    theirs = losses.DiceLoss(include_background=False, softmax=True, to_onehot_y=True)
    wanted = value_and_gradient(theirs, logits, labels[:, None].double())
    loss = RegionWiseLoss("dice", include_background=False)
    assert_same(value_and_gradient(loss, logits, labels), wanted)


def test_what_needs_the_background():
    message = "include_background=False: a map without its channel 0 is not stable"
    with pytest.raises(RWLossError, match=message):
        RegionWiseLoss("(dice + boundary).stabilized()", include_background=False)
    RegionWiseLoss("boundary.stabilized()", include_background=False)  # a map like any other


# --- Overlaps of the whole batch


@every(
    include_background=[True, False],
    ours_and_theirs=[
        ("dice", "DiceLoss"),
        ("tversky(alpha=0.3, beta=0.7)", "TverskyLoss"),
        ("generalized_dice", "GeneralizedDiceLoss"),
    ],
)
def test_overlaps_of_a_batch_are_monais(include_background, ours_and_theirs):
    losses = pytest.importorskip("monai.losses")
    text, name = ours_and_theirs
    more = {"alpha": 0.3, "beta": 0.7} if name == "TverskyLoss" else {}
    more |= {"batch": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    logits, labels = given()
    theirs = getattr(losses, name)(
        include_background=include_background, softmax=True, to_onehot_y=True, **more
    )
    loss = RegionWiseLoss(text, batch=True, include_background=include_background)
    wanted = value_and_gradient(theirs, logits, labels[:, None].double())
    assert_same(value_and_gradient(loss, logits, labels), wanted, 1e-4)
    assert abs(loss(logits, labels) - RegionWiseLoss(text)(logits, labels)) > 1e-4
    # Masks that overlap are pooled mask by mask.
    if include_background:
        logits, masks = given_masks((9, 7))
        theirs = getattr(losses, name)(sigmoid=True, **more)
        loss = RegionWiseLoss(text, activation="sigmoid", include_background=False, batch=True)
        if text != "generalized_dice":  # of all masks together there, of each alone here
            wanted = value_and_gradient(theirs, logits, masks.double())
            assert_same(value_and_gradient(loss, logits, masks), wanted, 1e-4)


def test_what_the_whole_batch_changes():
    """Terms of voxels are what they were; each image has the values of the batch."""
    logits, labels = given()
    text = "rectified + cross_entropy + rectified.with_link(0.5)"
    assert RegionWiseLoss(text, batch=True)(logits, labels) == RegionWiseLoss(text)(logits, labels)
    loss = RegionWiseLoss("focal_tversky", batch=True, reduction="none")
    values = loss(logits, labels)
    assert_close(values, values[:1].expand(3, 4), 0)
    assert_close(values.mean(), RegionWiseLoss("focal_tversky", batch=True)(logits, labels), 1e-12)
    wanted = RegionWiseLoss("focal_tversky")(
        logits.transpose(0, 1).flatten(1, 2)[None], labels.flatten(0, 1)[None]
    )
    assert_close(values.mean(), wanted)
    with pytest.raises(
        RWLossError, match=r"stabilized\(\) with batch=True: its map is that of each"
    ):
        RegionWiseLoss("(dice + boundary).stabilized()", batch=True)


# --- By image and class

MIXED = [
    "dice",
    "cross_entropy",
    "generalized_dice + hausdorff_dt",
    "rectified + 0.5 * dice",
    "dice(include_background=False) + cross_entropy",
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


@every(text=MIXED, name=SETTINGS)
def test_values_by_image_and_class_have_the_loss_as_their_mean(text, name):
    settings, shape = SETTINGS[name]
    if settings.get("include_background") is False and "stabilized" in text:
        return  # refused: a map without its channel 0
    overlapping = settings.get("activation") == "sigmoid"
    logits, target = (given_masks if overlapping else loss_batches.given)((9, 7))
    unreduced = RegionWiseLoss(text, reduction="none", **settings)
    reduced = RegionWiseLoss(text, **settings)
    for loss in (unreduced, reduced):
        loss.set_epoch(7)
    assert call_of(name, unreduced, logits, target).shape == shape
    found = value_and_gradient(lambda x: call_of(name, unreduced, x, target).mean(), logits)
    wanted = value_and_gradient(lambda x: call_of(name, reduced, x, target), logits)
    assert_same(found, wanted, 1e-6)


def test_values_by_image_and_class_by_their_formulas():
    logits, labels = given()
    probs, truth = torch.softmax(logits, dim=1), one_hot(labels, 4)
    both, sizes = (probs * truth).sum(dim=(2, 3)), (probs + truth).sum(dim=(2, 3))
    dice = 1 - (2 * both + 1e-5) / (sizes + 1e-5)
    static = (probs * maps.Rectified()(Regions(labels, 4)).dense()).mean(dim=(2, 3))
    found = RegionWiseLoss("rectified + 2 * dice", reduction="none")(logits, labels)
    assert_close(found, static + 2 * dice)


def test_a_loss_of_the_whole_batch_is_the_same_for_each_class():
    logits, labels = given()
    term = maps.from_loss(lambda p, y: ((p - y) ** 2).mean(), name="brier")
    values = RegionWiseLoss(term, reduction="none")(logits, labels)
    assert_close(values, RegionWiseLoss(term)(logits, labels).expand(3, 4), 1e-12)


# --- Class weights


@every(text=["rectified", "boundary"], shape=SHAPES, include_background=[True, False])
def test_class_weights_are_of_the_true_class(text, shape, include_background):
    """Voxel by voxel, never channel by channel: a stable map stays stable."""
    logits, labels = given(shape)
    weights = (1.0, 0.0, 2.5, 4.0)
    table = here(torch.tensor(weights, dtype=torch.float64))[labels.long()][:, None]
    stored = maps.parse(text)(Regions(labels, 4))

    def weighted(x):
        costs = torch.softmax(x, dim=1) * stored.dense() * table
        return (costs if include_background else costs[:, 1:]).mean()

    loss = RegionWiseLoss(text, class_weights=weights, include_background=include_background)
    wanted = value_and_gradient(weighted, logits)
    for rwmap in (None, stored, stored.dense()):
        assert_same(value_and_gradient(loss, logits, labels, rwmap), wanted)


def test_class_weights_of_a_link():
    logits, labels = given()
    weights = here(torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64))
    loss = RegionWiseLoss("active_contour.with_link(0)", class_weights=weights.tolist())
    # torch's own mean divides by the weights of the voxels; ours by their number, and by K.
    total = functional.cross_entropy(logits, labels.long(), weight=weights, reduction="sum")
    assert_close(loss(logits, labels), total / (4 * labels.numel()))


def test_class_weights_and_ignored_voxels():
    logits, labels = given()
    labels[:, :3] = 255
    loss = RegionWiseLoss("rectified", class_weights=(5, 1, 1, 1), ignore_index=255)
    value, gradient = value_and_gradient(loss, logits, labels)
    costs = RegionWiseLoss("rectified", ignore_index=255, reduction="none")(logits, labels)
    costs = costs * torch.where(labels == 0, 5.0, 1.0)[:, None]
    assert_close(value, costs.sum() / (4 * (labels != 255).sum()))
    assert not gradient[:, :, :3].any()


def test_class_weights_leave_dynamic_terms_alone():
    logits, labels = given()
    loss = RegionWiseLoss("dice + cross_entropy", class_weights=(1, 2, 3, 4))
    assert loss(logits, labels) == RegionWiseLoss("dice + cross_entropy")(logits, labels)


def test_class_weights_outside_and_inside_a_mask():
    logits, masks = here(torch.zeros(1, 2, 3, 3)), here(torch.ones(1, 2, 3, 3))
    loss = RegionWiseLoss("active_contour", activation="sigmoid", class_weights=(1, 3))
    assert loss(logits, masks).item() == pytest.approx(3 * 0.5 / 2)
    wrong = RegionWiseLoss("active_contour", activation="sigmoid", class_weights=(1, 2, 3))
    with pytest.raises(RWLossError, match=r"3 class_weights for 2 classes: .*outside and inside"):
        wrong(logits, masks)


def test_class_weights_that_do_not_fit():
    message = "3 class_weights for 4 classes: give one for each"
    with pytest.raises(RWLossError, match=message):
        RegionWiseLoss("rectified", class_weights=(1, 2, 3))(*given())
    for weights in ((1, -1, 1, 1), (1, float("nan"), 1, 1)):
        with pytest.raises(RWLossError, match="expected class_weights of 0 or more, got"):
            RegionWiseLoss("rectified", class_weights=weights)
