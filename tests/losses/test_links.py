"""Linked terms: w (1 - p_t^q) / q of each voxel."""

import pytest
import torch
from loss_batches import (
    as_kind,
    assert_close,
    assert_same,
    every,
    given,
    here,
    one_hot,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

SHAPES = [(9, 7), (5, 4, 3)]
STABLE = ["rectified", "active_contour", "class_weighted", "boundary.stabilized()"]


def weights(text, labels, num_classes=4):
    return maps.parse(text)(Regions(labels, num_classes)).weight().double()


def true_probs(logits, labels):
    return (torch.softmax(logits, dim=1) * one_hot(labels, logits.shape[1])).sum(dim=1)


@every(text=STABLE, shape=SHAPES, q=[1e-9, 0.01, 0.5, 0.7, 1.0])
def test_value_and_gradient_are_the_closed_form(text, shape, q):
    logits, labels = given(shape)
    w, p = weights(text, labels), true_probs(logits, labels)
    found = value_and_gradient(RegionWiseLoss(maps.parse(text).with_link(q)), logits, labels)
    value = (w * -torch.expm1(q * p.log()) / q).sum() / logits.numel()
    push = -(w * p**q)[:, None] / logits.numel()
    gradient = push * (one_hot(labels, 4) - torch.softmax(logits, dim=1))
    assert_same(found, (value, gradient))


@every(text=STABLE, shape=SHAPES)
def test_zero_is_weighted_cross_entropy_and_one_the_linear_loss(text, shape):
    logits, labels = given(shape)
    w = weights(text, labels)

    def cross_entropy(x):
        return (w * functional.cross_entropy(x, labels.long(), reduction="none")).mean() / 4

    wanted = value_and_gradient(cross_entropy, logits)
    for q in (0, 1e-10):
        loss = RegionWiseLoss(maps.parse(text).with_link(q))
        assert_same(value_and_gradient(loss, logits, labels), wanted)
    linked = value_and_gradient(RegionWiseLoss(maps.parse(text).with_link(1)), logits, labels)
    linear = value_and_gradient(RegionWiseLoss(text), logits, labels)
    assert_close(linked[1], linear[1], 1e-12)
    least = maps.parse(text)(Regions(labels, 4)).true.double().sum() / logits.numel()
    assert_close(linked[0], linear[0] - least)  # the linear loss above its minimum


@every(kind=["numpy", "torch"], q=[0.0, 0.5, 1.0])
def test_stored_compact_map(kind, q):
    logits, labels = given((9, 7))
    stored = maps.Rectified()(Regions(as_kind(labels, kind), 4))
    loss = RegionWiseLoss(maps.Rectified().with_link(q))
    wanted = value_and_gradient(loss, logits, labels)
    assert_same(value_and_gradient(loss, logits, labels, stored), wanted, 1e-12)


def test_stored_maps_that_are_refused():
    logits, labels = given((9, 7))
    loss = RegionWiseLoss("rectified.with_link(0.5)")
    values = maps.Rectified()(Regions(labels, 4)).dense()
    for stored in (values, RWMap.from_dense(labels, values)):
        with pytest.raises(RWLossError, match=r"a link needs a compact map.*this one is dense"):
            loss(logits, labels, stored)
    true, other = here(torch.zeros(labels.shape)), here(torch.ones(labels.shape))
    other[1, 2, 3] = -0.5
    with pytest.raises(RWLossError, match=r"a link needs a stable map: other - true is -0\.5"):
        loss(logits, labels, RWMap.compact(labels, 4, true, other))


def test_each_link_of_an_expression_is_its_own():
    logits, labels = given((9, 7))
    text = "rectified.with_link(0.5) + 2 * rectified.with_link(0) + rectified"
    w, p = weights("rectified", labels), true_probs(logits, labels)
    linear = RegionWiseLoss("rectified")(logits, labels)
    wanted = linear + (w * (2 * (1 - p**0.5) - 2 * p.log())).sum() / logits.numel()
    loss = RegionWiseLoss(text)
    assert_close(loss(logits, labels), wanted)
    with pytest.raises(RWLossError, match="have different links or schedules"):
        loss(logits, labels, maps.Rectified()(Regions(labels, 4)))


@every(include_background=[True, False])
def test_costs_are_at_the_true_class(include_background):
    """Without the background, voxels of class 0 cost nothing."""
    logits, labels = given((9, 7))
    w, p = weights("rectified", labels), true_probs(logits, labels)
    cost = one_hot(labels, 4) * (w * 2 * (1 - p**0.5))[:, None]
    cost = cost if include_background else cost[:, 1:]
    settings = {"include_background": include_background}
    for reduction, wanted in {"none": cost, "mean": cost.mean()}.items():
        loss = RegionWiseLoss("rectified.with_link(0.5)", reduction=reduction, **settings)
        assert_close(loss(logits, labels), wanted)


@every(q=[0.0, 0.3, 0.5, 1.0], margin=[5.0, 20.0, 60.0])
def test_the_push_on_a_dead_class_is_p_to_the_q(q, margin):
    """A fixed map's push carries the factor p, and so vanishes; a link's carries p^q."""
    logits = here(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    logits[:, 0] = margin
    labels = here(torch.zeros(1, 4, 4, dtype=torch.long))
    labels[:, 1:3, 1:3] = 2
    p = true_probs(logits, labels)
    loss = RegionWiseLoss(maps.ActiveContour().with_link(q))
    _, gradient = value_and_gradient(loss, logits, labels)
    dead = labels == 2
    assert_close(gradient[:, 2][dead], -(p**q * (1 - p))[dead] / logits.numel(), 1e-12)
    _, fixed = value_and_gradient(RegionWiseLoss("active_contour"), logits, labels)
    assert_close(gradient[:, 2][dead] / fixed[:, 2][dead], p[dead] ** (q - 1))


@every(q=[0.0, 0.5, 1.0])
def test_a_sure_and_right_voxel_has_no_cost(q):
    logits = here(torch.tensor([0.0, 200.0])).reshape(1, 2, 1, 1).expand(1, 2, 3, 3)
    labels = here(torch.ones(1, 3, 3, dtype=torch.long))
    loss = RegionWiseLoss(maps.ActiveContour().with_link(q))
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value == 0
    assert gradient.abs().max() == 0
