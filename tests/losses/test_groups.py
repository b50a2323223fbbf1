"""The losses of several batches in one call are those of a call for each."""

import pytest
import torch
from loss_batches import DYNAMIC, assert_close, every, given, here

from rwloss import Regions, RegionWiseLoss, maps

MAPS = [
    *DYNAMIC,
    "rectified + dice + cross_entropy",
    "boundary - 0.5 * rectified",
    "boundary.stabilized()",
    "class_weighted.with_link(0.3)",
    "blend(generalized_dice, boundary)",
    "focal(include_background=False) + rectified(scope='component')",
    "0 * dice",
]
SPACINGS = [(1.0, 2.0)] * 3 + [(1.5, 1.0)] * 3


def each_apart(loss, logits, labels, rwmap=None):
    """One call per group, of two images each."""
    values = []
    for rows in (slice(0, 2), slice(2, 4), slice(4, 6)):
        own = (
            None
            if rwmap is None
            else maps.parse("rectified")(Regions(labels[rows], 4, SPACINGS[rows]))
        )
        values.append(loss(logits[rows], labels[rows], own, spacing_mm=SPACINGS[rows]))
    return torch.stack(values)


@every(text=MAPS, ignores=[True, False])
def test_groups_are_calls_of_their_own(text, ignores):
    """Groups differ in how many voxels count; in the last group none does."""
    logits, labels = given((7, 6), size=6)
    labels = labels.long()
    if ignores:
        labels[0, :4], labels[2, 5], labels[4:] = -1, -1, -1
    loss = RegionWiseLoss(text, ignore_index=-1 if ignores else None)
    loss.set_epoch(2, 10)
    weights = here(torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64))
    leaf = logits.requires_grad_()
    wanted = each_apart(loss, leaf, labels)
    found = loss.by_group(leaf, labels, None, SPACINGS, 3)
    assert_close(found, wanted, 1e-12)
    (gradient,) = torch.autograd.grad((found * weights).sum(), leaf)
    assert_close(gradient, torch.autograd.grad((wanted * weights).sum(), leaf)[0], 1e-11)


EXCESS = ["rectified + dice + cross_entropy", "boundary", "class_weighted.with_link(0.3)"]


@every(text=EXCESS, ignores=[True, False])
def test_the_excess_of_groups(text, ignores):
    logits, labels = given((7, 6), size=6)
    labels = labels.long()
    if ignores:
        labels[0, :4], labels[2, 5], labels[4:] = -1, -1, -1
    loss = RegionWiseLoss(text, ignore_index=-1 if ignores else None)
    wanted = [
        loss.excess(logits[rows], labels[rows], spacing_mm=SPACINGS[rows])
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    found = loss.by_group(logits, labels, None, SPACINGS, 3, excess=True)
    assert_close(found, torch.stack(wanted), 1e-12)


def test_stored_maps_in_groups():
    logits, labels = given((7, 6), size=6)
    loss = RegionWiseLoss("rectified + dice")
    rwmap = maps.parse("rectified")(Regions(labels, 4, SPACINGS))
    found = loss.by_group(logits, labels, rwmap, SPACINGS, 3)
    assert_close(found, each_apart(loss, logits, labels, rwmap), 1e-6)


@pytest.mark.parametrize("text", ["rectified", "dice + cross_entropy"])
def test_one_group_is_the_loss(text):
    logits, labels = given((7, 6))
    loss = RegionWiseLoss(text)
    assert torch.equal(loss.by_group(logits, labels, None, None, 1), loss(logits, labels))
