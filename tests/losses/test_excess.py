"""How far a loss is above the least it could be for its maps."""

import pytest
import torch
from loss_batches import (
    DYNAMIC,
    assert_close,
    every,
    given,
    given_masks,
    here,
    normal,
    one_hot,
    uniform,
)

from rwloss import Regions, RegionWiseLoss, RWLossError, maps

STATIC = ["rectified", "boundary", "class_weighted", "boundary.stabilized()", "-1 * rectified"]
LINKED = ["rectified.with_link(0)", "rectified.with_link(0.5)"]
MIXED = [
    "rectified + dice",
    "boundary - 0.5 * rectified",
    "rectified.with_link(0.5) + boundary + 2 * cross_entropy",
    "(dice + boundary).stabilized()",
    "blend(generalized_dice, boundary, schedule='rebalance')",
]
EVERY = [*STATIC, *LINKED, *DYNAMIC, *MIXED]
# The mean cost of a voxel is least where all probability is at its cheapest class.
STABLE = ["rectified", "class_weighted", "boundary.stabilized()", "active_contour"]


def at_labels(labels, margin, num_classes=4):
    return margin * one_hot(labels, num_classes)


@every(text=EVERY, scale=[0.0, 3.0, 100.0])
def test_never_below_0(text, scale):
    _, labels = given((7, 5))
    loss = RegionWiseLoss(text)
    best = at_labels(labels, scale).float()
    for seed, x in enumerate((scale * normal(3, 4, 7, 5), best, -best)):
        assert loss.excess(x, labels) >= 0
        assert loss.excess(x, labels, mask=uniform(3, 7, 5, seed=seed) > 0.5) >= 0
        loss.set_epoch(40, total=100)


@every(
    text=[*STABLE, *LINKED, "dice", "cross_entropy", "rectified + dice"],
    reduction=["mean", "sum"],
    dtype=[torch.float32, torch.float64, torch.bfloat16],
)
def test_0_at_the_optimum(text, reduction, dtype):
    _, labels = given((7, 5))
    loss = RegionWiseLoss(text, reduction=reduction)
    best = loss.excess(at_labels(labels, 200).to(dtype), labels)
    assert best.item() == pytest.approx(0, abs=1e-4)
    assert loss.excess(at_labels(labels, 1).to(dtype), labels) > best


@every(text=[*STATIC, "boundary - 0.5 * rectified"], include_background=[True, False])
def test_loss_minus_its_minimum_for_the_map(text, include_background):
    """The least of a linear cost is at a corner: all probability at one class."""
    logits, labels = given((7, 5))
    z = maps.parse(text)(Regions(labels, 4)).dense().double()
    if not include_background:
        z[:, 0] = 0
    channels = 4 if include_background else 3
    least = z.amin(dim=1).sum() / (channels * labels.numel())
    loss = RegionWiseLoss(text, include_background=include_background)
    assert_close(loss.excess(logits, labels), loss(logits, labels) - least)


@every(text=[*LINKED, *DYNAMIC])
def test_losses_that_are_0_at_best_are_their_own_excess(text):
    logits, labels = given((7, 5))
    loss = RegionWiseLoss(text)
    assert_close(loss.excess(logits, labels), loss(logits, labels))
    assert not loss.excess(logits.requires_grad_(), labels).requires_grad


def test_terms_count_from_their_own_minimum():
    logits, labels = given((7, 5))
    parts = ["rectified.with_link(0.5)", "boundary", "dice"]
    wanted = sum(RegionWiseLoss(part).excess(logits, labels) for part in parts)
    assert_close(RegionWiseLoss(" + ".join(parts)).excess(logits, labels), wanted)
    # Inside a projection too.
    wanted = RegionWiseLoss("dice + 0.5 * boundary").excess(logits, labels)
    found = RegionWiseLoss("(dice + 0.5 * boundary).stabilized()").excess(logits, labels)
    assert_close(found, wanted)
    # And a loss of one's own.
    below = maps.from_loss(lambda p, y: -(p * y).sum() / y.sum(), name="hit", minimum=-1.0)
    loss = RegionWiseLoss(below)
    assert_close(loss.excess(logits, labels), loss(logits, labels) + 1)
    assert loss.excess(at_labels(labels, 200), labels).item() == pytest.approx(0, abs=1e-9)


@every(epoch=[0, 30, 99])
def test_follows_the_schedule(epoch):
    logits, labels = given((7, 5))
    loss = RegionWiseLoss("blend(dice, boundary, schedule='rebalance')")
    loss.set_epoch(epoch)
    alpha = max(0.01, 1 - 0.01 * epoch)
    wanted = alpha * RegionWiseLoss("dice").excess(logits, labels)
    wanted = wanted + (1 - alpha) * RegionWiseLoss("boundary").excess(logits, labels)
    assert_close(loss.excess(logits, labels), wanted)


def test_stored_map_mask_and_ignored_voxels():
    logits, labels = given((7, 5))
    labels[:, :2] = 255
    mask = uniform(3, 7, 5, seed=3) > 0.5
    counted = mask & (labels != 255)
    stored = maps.Boundary()(Regions(labels, 4, ignore_label=255))
    loss = RegionWiseLoss("boundary", ignore_index=255)
    least = stored.dense().amin(dim=1)[counted].mean() / 4
    wanted = loss(logits, labels, mask=mask) - least
    for rwmap in (None, stored, stored.dense()):
        assert_close(loss.excess(logits, labels, rwmap, mask=mask), wanted)


def test_class_weights():
    logits, labels = given((7, 5))
    weights = (1.0, 2.0, 3.0, 4.0)
    loss = RegionWiseLoss("rectified", class_weights=weights)
    table = here(torch.tensor(weights))[labels.long()]
    least = (maps.Rectified()(Regions(labels, 4)).true * table).mean() / 4
    assert_close(loss.excess(logits, labels), loss(logits, labels) - least)


def test_sigmoid():
    logits, masks = given_masks((7, 5))
    loss = RegionWiseLoss("boundary", activation="sigmoid", include_background=False)
    z = torch.stack([maps.Boundary()(Regions(masks[:, k], 2)).dense()[:, 1] for k in range(3)], 1)
    wanted = (torch.sigmoid(logits) * z - z.clamp_max(0)).mean()
    assert_close(loss.excess(logits, masks), wanted)


def test_what_has_no_excess():
    """Nothing is known of the most that a loss can be, nor of values that are not reduced."""
    logits, labels = given((7, 5))
    with pytest.raises(RWLossError, match='excess is one number: it needs reduction "mean" or'):
        RegionWiseLoss("rectified", reduction="none").excess(logits, labels)
    projected = "(dice + boundary).stabilized()"
    for text in ("rectified - dice", "(boundary - dice).stabilized()", f"-1 * {projected}"):
        with pytest.raises(RWLossError, match=r"excess: .*dice.* has a weight below 0"):
            RegionWiseLoss(text).excess(logits, labels)
