"""Sigmoid for masks that overlap, and probabilities as they come."""

import pytest
import torch
from loss_batches import (
    assert_close,
    assert_same,
    every,
    given,
    given_masks,
    here,
    uniform,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

EXPRESSIONS = [
    "rectified",
    "boundary",
    "class_weighted",
    "active_contour.with_link(0.5)",
    "dice",
    "cross_entropy",
    "generalized_dice + 0.1 * boundary",
    "(dice + boundary).stabilized()",
]
SHAPES = [(9, 7), (5, 4, 3)]


# --- Sigmoid


@every(text=EXPRESSIONS, shape=SHAPES, include_background=[True, False])
def test_sigmoid_is_the_two_class_softmax_of_each_channel(text, shape, include_background):
    """One channel at a time, through the softmax loss; their mean."""
    if not include_background:
        text = text.replace(".stabilized()", "")  # refused: a map without its channel 0
    logits, masks = given_masks(shape)
    loss = RegionWiseLoss(text, activation="sigmoid", include_background=include_background)
    alone = RegionWiseLoss(text, include_background=include_background)

    def one_by_one(x, masks):
        values = []
        for k in range(x.shape[1]):
            two = torch.stack([torch.zeros_like(x[:, k]), x[:, k]], dim=1)
            values.append(alone(two, masks[:, k]))
        return torch.stack(values).mean()

    wanted = value_and_gradient(one_by_one, logits, masks)
    assert_same(value_and_gradient(loss, logits, masks), wanted, 1e-9)
    # One channel takes a target without channels.
    assert loss(logits[:, :1], masks[:, 0]) == loss(logits[:, :1], masks[:, :1])


@every(text=["rectified", "boundary", "active_contour"], shape=SHAPES)
def test_without_the_complement_it_is_the_mean_of_sigmoid_times_map(text, shape):
    logits, masks = given_masks(shape)
    z = torch.stack(
        [maps.parse(text)(Regions(masks[:, k], 2)).dense()[:, 1] for k in range(3)], dim=1
    ).double()
    loss = RegionWiseLoss(text, activation="sigmoid", include_background=False)
    wanted = value_and_gradient(lambda x: (torch.sigmoid(x) * z).mean(), logits)
    assert_same(value_and_gradient(loss, logits, masks), wanted, 1e-9)


@every(shape=SHAPES)
def test_boundary_is_monais_boundary_loss(shape):
    losses = pytest.importorskip("monai.losses")
    logits, masks = given_masks(shape, dtype=torch.float32)
    masks[0, 1], masks[1, 2] = 0, 1  # an absent mask, and one that fills the image
    loss = RegionWiseLoss("boundary", activation="sigmoid", include_background=False)
    wanted = value_and_gradient(losses.BoundaryLoss(sigmoid=True), logits, masks.float())
    assert_same(value_and_gradient(loss, logits, masks), wanted, 1e-5)
    logits, labels = given(shape, dtype=torch.float32)
    theirs = losses.BoundaryLoss(softmax=True, to_onehot_y=True)
    for background in (True, False):
        theirs.include_background = background
        wanted = value_and_gradient(theirs, logits, labels[:, None].float())
        loss = RegionWiseLoss("boundary", include_background=background)
        assert_same(value_and_gradient(loss, logits, labels), wanted, 1e-5)


@every(shape=SHAPES)
def test_sigmoid_cross_entropy_is_the_binary_one(shape):
    logits, masks = given_masks(shape)
    loss = RegionWiseLoss("cross_entropy", activation="sigmoid")
    wanted = value_and_gradient(functional.binary_cross_entropy_with_logits, logits, masks.double())
    assert_same(value_and_gradient(loss, logits, masks), wanted, 1e-12)


def test_types_of_masks():
    logits, masks = given_masks((9, 7))
    loss = RegionWiseLoss("rectified + dice", activation="sigmoid")
    for dtype in (torch.bool, torch.uint8, torch.int16, torch.float32):
        assert loss(logits, masks.to(dtype)) == loss(logits, masks)


@every(shape=SHAPES)
def test_stored_maps_of_masks(shape):
    logits, masks = given_masks(shape)
    loss = RegionWiseLoss("rectified", activation="sigmoid")
    stored = maps.Rectified()(Regions(masks.flatten(0, 1), 2))
    wanted = value_and_gradient(loss, logits, masks)
    for form in (stored, RWMap.from_dense(stored.labels, stored.dense())):
        assert_same(value_and_gradient(loss, logits, masks, form), wanted, 1e-12)
    # Values (b k *s), as for logits, are of the masks themselves; the complements cost nothing.
    z = uniform(*logits.shape, seed=3)
    wanted = value_and_gradient(lambda x: (torch.sigmoid(x) * z).mean() / 2, logits)
    assert_same(value_and_gradient(loss, logits, masks, z), wanted, 1e-12)
    without = RegionWiseLoss("rectified", activation="sigmoid", include_background=False)
    wanted = value_and_gradient(lambda x: (torch.sigmoid(x) * z).mean(), logits)
    assert_same(value_and_gradient(without, logits, masks, z), wanted, 1e-12)


@every(text=["rectified", "boundary + dice + cross_entropy"], ignore_index=[255, 7, -1])
def test_each_mask_may_ignore_voxels_of_its_own(text, ignore_index):
    logits, masks = given_masks((9, 7))
    masks = masks.to(torch.int16)
    masks[0, 1, :4], masks[1, 2, :, 3:] = ignore_index, ignore_index
    loss = RegionWiseLoss(text, activation="sigmoid", ignore_index=ignore_index)
    two = torch.stack([torch.zeros_like(logits), logits], dim=2).flatten(0, 1)
    wanted = RegionWiseLoss(text, ignore_index=ignore_index)(two, masks.flatten(0, 1))
    value, gradient = value_and_gradient(loss, logits, masks)
    assert_close(value, wanted, 1e-12)
    assert torch.equal(gradient != 0, masks != ignore_index)


def test_ignored_value_that_the_type_of_masks_cannot_hold():
    """In uint8, 257 is 1: no voxel is ignored."""
    logits, masks = given_masks((9, 7))
    loss = RegionWiseLoss("rectified", activation="sigmoid", ignore_index=257)
    wanted = RegionWiseLoss("rectified", activation="sigmoid")(logits, masks)
    assert_close(loss(logits, masks), wanted, 1e-12)
    masks[0, 0, 0, 0] = 44  # 300 in uint8
    loss = RegionWiseLoss("rectified", activation="sigmoid", ignore_index=300)
    with pytest.raises(RWLossError, match="expected masks of 0 and 1, got 44"):
        loss(logits, masks)


@every(text=["rectified", "cross_entropy"], shape=SHAPES)
def test_a_voxel_mask_is_of_all_masks_of_its_image(text, shape):
    logits, masks = given_masks(shape)
    keep = uniform(2, *shape, seed=6) > 0.4
    keep[0] |= uniform(*shape, seed=7) > 0.5
    loss = RegionWiseLoss(text, activation="sigmoid")
    _, gradient = value_and_gradient(loss, logits, masks, mask=keep)
    assert torch.equal(gradient != 0, keep[:, None].expand_as(gradient))
    ones = here(torch.ones(2, *shape))
    wanted = value_and_gradient(loss, logits, masks, mask=ones)[1] * ones.sum() / keep.sum()
    assert_close(gradient, wanted * keep[:, None], 1e-9)


@every(include_background=[True, False])
def test_unreduced_sigmoid(include_background):
    """Complement and mask beside each other, or the mask alone."""
    logits, masks = given_masks((9, 7))
    kwargs = {"activation": "sigmoid", "include_background": include_background}
    cost = RegionWiseLoss("rectified", reduction="none", **kwargs)(logits, masks)
    assert cost.shape == ((2, 3, 2, 9, 7) if include_background else (2, 3, 9, 7))
    assert_close(cost.mean(), RegionWiseLoss("rectified", **kwargs)(logits, masks), 1e-12)
    total = RegionWiseLoss("rectified", reduction="sum", **kwargs)(logits, masks)
    assert_close(cost.sum(), total, 1e-12)
    z = maps.Rectified()(Regions(masks[:, 2], 2)).dense()[:, 1]
    own = cost[:, 2, 1] if include_background else cost[:, 2]
    assert_close(own, torch.sigmoid(logits[:, 2]) * z)


@every(shape=SHAPES, ours_and_theirs=[("cross_entropy", "DiceCELoss"), ("focal", "DiceFocalLoss")])
def test_sums_with_dice_are_monais(shape, ours_and_theirs):
    """Dice of the masks alone, the other term of what is outside too.

    With several channels MONAI's DiceCELoss takes the softmax for its cross-entropy, even then.
    """
    losses = pytest.importorskip("monai.losses")
    text, name = ours_and_theirs
    logits, masks = given_masks(shape, masks=1 if name == "DiceCELoss" else 3)
    theirs = getattr(losses, name)(sigmoid=True)
    loss = RegionWiseLoss(f"dice(include_background=False) + {text}", activation="sigmoid")
    wanted = value_and_gradient(theirs, logits, masks.double())
    assert_same(value_and_gradient(loss, logits, masks), wanted, 1e-4)


# --- Probabilities as they come


@every(text=EXPRESSIONS, shape=SHAPES)
def test_probabilities_as_they_come(text, shape):
    """The same values and, through the softmax outside, the same gradients."""
    logits, labels = given(shape)
    outside = RegionWiseLoss(text, activation="none")
    wanted = value_and_gradient(RegionWiseLoss(text), logits, labels)
    found = value_and_gradient(lambda x: outside(torch.softmax(x, dim=1), labels), logits)
    assert_same(found, wanted, 1e-9)


@every(shape=SHAPES)
def test_gradient_by_a_probability_is_the_map(shape):
    logits, labels = given(shape)
    z = maps.Boundary()(Regions(labels, 4)).dense()
    loss = RegionWiseLoss("boundary", activation="none")
    _, gradient = value_and_gradient(loss, torch.softmax(logits, dim=1), labels)
    assert_close(gradient, z.double() / logits.numel(), 1e-12)


@every(text=EXPRESSIONS, dtype=[torch.float16, torch.bfloat16, torch.float32], shift=[0, 1])
def test_probabilities_of_exactly_0_and_1(text, dtype, shift):
    """As they are where a softmax outside has underflowed. shift: 0 all right, 1 all wrong."""
    _, labels = given((9, 7))
    hard = functional.one_hot((labels.long() + shift) % 4, 4).movedim(-1, 1).to(dtype)
    value, gradient = value_and_gradient(RegionWiseLoss(text, activation="none"), hard, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.dtype == dtype


@every(text=EXPRESSIONS, shape=SHAPES, include_background=[True, False])
def test_probabilities_of_masks_as_they_come(text, shape, include_background):
    """The same values and, through the sigmoid outside, the same gradients."""
    if not include_background:
        text = text.replace(".stabilized()", "")
    logits, masks = given_masks(shape)
    settings = {"include_background": include_background}
    outside = RegionWiseLoss(text, activation="masks", **settings)
    wanted = value_and_gradient(
        RegionWiseLoss(text, activation="sigmoid", **settings), logits, masks
    )
    found = value_and_gradient(lambda x: outside(torch.sigmoid(x), masks), logits)
    assert_same(found, wanted, 1e-9)


@every(
    ours_and_theirs=[
        ("dice", "DiceLoss"),
        ("tversky(alpha=0.5, beta=0.5)", "TverskyLoss"),
        ("boundary", "BoundaryLoss"),
        ("hausdorff_dt", "HausdorffDTLoss"),
    ],
    sizes=[(2, 3), (1, 1)],
)
def test_hard_probabilities_have_monais_value_and_gradient(ours_and_theirs, sizes):
    """Exactly 0 and 1, right and wrong; an empty mask that is predicted empty costs nothing."""
    losses = pytest.importorskip("monai.losses")
    text, name = ours_and_theirs
    _, masks = given_masks((9, 7), masks=sizes[1], size=sizes[0])
    theirs = getattr(losses, name)(include_background=True)
    loss = RegionWiseLoss(text, activation="masks", include_background=False)
    for target in (masks, torch.zeros_like(masks)):
        for probs in (masks.double(), 1 - masks.double(), torch.zeros_like(masks).double()):
            wanted = value_and_gradient(theirs, probs, target.double())
            assert_same(value_and_gradient(loss, probs, target), wanted, 1e-4)
    assert loss(torch.zeros_like(probs), torch.zeros_like(masks)) == 0
    # Of classes too.
    if sizes[0] == 2:
        _, labels = given((9, 7))
        probs = functional.one_hot((labels.long() + (labels > 1)) % 4, 4).movedim(-1, 1).double()
        truth = functional.one_hot(labels.long(), 4).movedim(-1, 1).double()
        loss = RegionWiseLoss(text, activation="none")
        wanted = value_and_gradient(theirs, probs, truth)
        assert_same(value_and_gradient(loss, probs, labels), wanted, 1e-4)


def test_wrong_inputs_for_the_activation():
    logits, labels = given((9, 7))
    for activation, channels, message in (
        ("sigmoid", 4, r"target \(3, 9, 7\) does not fit logits \(3, 4, 9, 7\): with activation="),
        ("none", 4, 'expected probabilities of 0 to 1, got .*: with activation="none" the network'),
        ("none", 1, "probabilities of 2 classes or more, got 1: stack"),
    ):
        with pytest.raises(RWLossError, match=message):
            RegionWiseLoss("rectified", activation=activation)(logits[:, :channels], labels)
    logits, masks = given_masks((9, 7), dtype=torch.float32)
    for value, shown in ((2, "2"), (0.5, "0.5"), (float("nan"), "nan"), (255, "255")):
        wrong = masks.float()
        wrong[1, 2, 3, 4] = value
        with pytest.raises(RWLossError, match=f"expected masks of 0 and 1, got {shown}: with"):
            RegionWiseLoss("rectified", activation="sigmoid")(logits, wrong)
