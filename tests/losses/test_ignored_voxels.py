"""Voxels that do not count: an ignored label, or 0 in a mask."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from loss_batches import (
    DYNAMIC,
    as_kind,
    assert_close,
    assert_same,
    every,
    given,
    here,
    uniform,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

STATIC = {
    "rectified": lambda y: plain.rectified(y, 4, [(1,) * (y.ndim - 1)] * len(y)),
    "boundary": lambda y: plain.boundary(y, 4, [(1,) * (y.ndim - 1)] * len(y)),
    "active_contour": lambda y: plain.active_contour(y, 4),
    "class_weighted": lambda y: plain.class_weighted(y, 4, lambda n: 1 / n),
}
MIXED = ["rectified.with_link(0.5)", "rectified + dice", "(dice + boundary).stabilized()"]
TERMS = [*STATIC, *DYNAMIC, *MIXED]
SHAPES = [(11, 9), (6, 7, 5)]


def some_ignored(shape=(11, 9), ignore_index=255):
    """Logits, labels with a side ignored in every image, and which voxels count."""
    logits, labels = given(shape)
    counted = here(torch.ones(labels.shape, dtype=torch.bool))
    counted[..., -3:] = False
    counted[1, 2:4] = False
    return logits, torch.where(counted, labels.int(), ignore_index), counted


def a_mask(shape=(11, 9)):
    return uniform(3, *shape, seed=5) > 0.4


# --- An ignored label


@every(text=STATIC, shape=SHAPES, ignore_index=[255, -1, -100, None])
def test_mean_of_the_official_costs_over_voxels_that_count(text, shape, ignore_index):
    """An ignored voxel belongs to no class, and ends a region; a mask ends none."""
    if ignore_index is None:
        (logits, labels), counted = given(shape), a_mask(shape)
        classes, more = labels, {"mask": counted}
    else:
        logits, labels, counted = some_ignored(shape, ignore_index)
        classes, more = torch.where(counted, labels, -1), {}
    values = here(STATIC[text](as_kind(classes, "numpy")))

    def official(x):
        return (torch.softmax(x, dim=1) * values).sum(dim=1)[counted].mean() / 4

    wanted = value_and_gradient(official, logits)
    loss = RegionWiseLoss(text, ignore_index=ignore_index)
    both = (Regions(y, 4, ignore_label=ignore_index) for y in (labels, as_kind(labels, "numpy")))
    for stored in (None, values, *(maps.parse(text)(regions) for regions in both)):
        assert_same(value_and_gradient(loss, logits, labels, stored, **more), wanted)


def test_an_ignored_region_ends_a_region():
    """By hand: a class of three voxels is one voxel deep at its ignored neighbor."""
    labels = here(torch.tensor([[[1, 1, 1, 255, 0, 0]]]))
    loss = RegionWiseLoss("rectified", ignore_index=255, reduction="none")
    costs = loss(here(torch.zeros(1, 2, 1, 6)), labels)
    rectified = [[1, 1, 1, 0, -0.5, -1], [-1, -2 / 3, -1 / 3, 0, 1, 1]]
    assert_close(costs[0, :, 0], here(torch.tensor(rectified)) / 2)


@every(text=TERMS, kind=["ignore_index", "mask"])
def test_no_gradient_where_voxels_do_not_count(text, kind):
    if kind == "mask":
        (logits, labels), counted = given((11, 9)), a_mask()
        loss, more = RegionWiseLoss(text), {"mask": counted}
    else:
        logits, labels, counted = some_ignored()
        loss, more = RegionWiseLoss(text, ignore_index=255), {}
    value, gradient = value_and_gradient(loss, logits, labels, **more)
    assert not gradient.movedim(1, -1)[~counted].any()
    assert gradient.movedim(1, -1)[counted].any()
    logits.movedim(1, -1)[~counted] *= -5  # what the network says there does not matter
    assert_close(loss(logits, labels, **more), value, 1e-12)


@every(text=TERMS, kind=["ignore_index", "mask"])
def test_logits_that_are_no_numbers_do_not_matter_there(text, kind):
    """As for torch's cross-entropy. Where a voxel counts, they make the loss no number."""
    logits, labels, counted = some_ignored()
    more = {"mask": counted} if kind == "mask" else {}
    labels = labels.where(counted, 0) if kind == "mask" else labels
    for settings in ({}, {"low_memory": True}, {"reduction": "sum", "include_background": False}):
        if "stabilized" in text and len(settings) > 1:
            continue
        loss = RegionWiseLoss(text, ignore_index=255, **settings)
        wanted = value_and_gradient(loss, logits, labels, **more)
        broken = logits.clone()
        broken.movedim(1, -1)[~counted] = broken.new_tensor([torch.nan, torch.inf, -torch.inf, 1])
        assert_same(value_and_gradient(loss, broken, labels, **more), wanted, 0)
        broken[0, :, 0, 0] = torch.nan
        # Without background class 0 may cost nothing; a projection refuses what is no number.
        if settings.get("include_background", True) and "stabilized" not in text:
            assert loss(broken, labels, **more).isnan()


@every(text=TERMS)
def test_nothing_counts(text):
    logits, labels = given((11, 9))
    plain_loss, loss = RegionWiseLoss(text), RegionWiseLoss(text, ignore_index=255)
    for each, target, more in (
        (plain_loss, labels, {"mask": here(torch.zeros(3, 11, 9))}),
        (loss, torch.full_like(labels, 255), {}),
    ):
        value, gradient = value_and_gradient(each, logits, target, **more)
        # focal_tversky is a little above 0 at its best, for a finite derivative of its root.
        assert value.item() == pytest.approx(0, abs=1e-5 if "focal_t" in text else 0)
        assert not gradient.any()
        assert each.excess(logits, target, **more) == value
    labels[1] = 255  # nothing counts in one image
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value.isfinite()
    assert not gradient[1].any()
    assert gradient[0].any()


@every(shape=SHAPES, ignore_index=[255, -100, 2])
def test_cross_entropy_is_that_of_torch(shape, ignore_index):
    """A class may be ignored too."""
    logits, labels, _ = some_ignored(shape, ignore_index)
    found = value_and_gradient(
        RegionWiseLoss("cross_entropy", ignore_index=ignore_index), logits, labels
    )
    wanted = value_and_gradient(
        lambda x: functional.cross_entropy(x, labels.long(), ignore_index=ignore_index), logits
    )
    assert_same(found, wanted, 1e-12)


def test_types_of_labels():
    logits, labels, _ = some_ignored()
    loss = RegionWiseLoss("rectified + dice", ignore_index=255)
    wanted = loss(logits, labels)
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.float32):
        assert loss(logits, labels.to(dtype)) == wanted


def test_values_that_know_nothing_of_ignored_voxels():
    logits, labels, counted = some_ignored()
    values = uniform(3, 4, 11, 9)
    before = values.clone()
    loss = RegionWiseLoss("boundary", ignore_index=255)
    wanted = (torch.softmax(logits, dim=1) * values).sum(dim=1)[counted].mean() / 4
    assert_close(loss(logits, labels, values), wanted, 1e-12)
    costs = RegionWiseLoss("boundary", ignore_index=255, reduction="none")
    found = costs(logits, labels, values)
    assert_close(found, torch.softmax(logits, dim=1) * values * counted[:, None], 1e-12)
    assert torch.equal(values, before)


def test_stored_maps_ignore_the_same_voxels():
    logits, labels, counted = some_ignored()
    loss = RegionWiseLoss("rectified", ignore_index=255)
    full = maps.Rectified()(Regions(torch.where(labels == 255, 0, labels), 4))
    with pytest.raises(RWLossError, match="made from other labels"):
        loss(logits, labels, full)
    # As a store gives it: in NumPy memory, labels with -1 in a signed type.
    made = maps.Rectified()(Regions(as_kind(labels, "numpy"), 4, ignore_label=255))
    stored = RWMap.compact(made.labels.astype(np.int8), 4, made.true, made.other)
    assert (stored.labels[~as_kind(counted, "numpy")] == -1).all()
    assert_close(loss(logits, labels, stored), loss(logits, labels), 1e-12)


# --- A mask


@every(text=TERMS)
def test_mask_of_ones_changes_nothing(text):
    logits, labels = given((11, 9))
    wanted = value_and_gradient(RegionWiseLoss(text), logits, labels)
    mask = here(torch.ones(3, 11, 9))
    assert_same(value_and_gradient(RegionWiseLoss(text), logits, labels, mask=mask), wanted, 1e-12)


@every(shape=SHAPES, text=["cross_entropy", "focal"])
def test_mask_and_ignored_label_together(shape, text):
    logits, labels, counted = some_ignored(shape)
    mask = a_mask(shape)
    loss = RegionWiseLoss(text, ignore_index=255)
    wanted = value_and_gradient(loss, logits, torch.where(mask, labels, 255))
    assert_same(value_and_gradient(loss, logits, labels, mask=mask), wanted, 1e-12)
    assert (mask & counted).any()


@every(text=["dice", "generalized_dice", "tversky"])
def test_overlap_inside_the_mask(text):
    """As if the image were only what lies inside."""
    logits, labels = given((11, 9))
    mask = here(torch.zeros(3, 11, 9))
    mask[:, 2:8, 1:7] = 1
    wanted = RegionWiseLoss(text)(logits[:, :, 2:8, 1:7], labels[:, 2:8, 1:7])
    assert_close(RegionWiseLoss(text)(logits, labels, mask=mask), wanted, 1e-12)


@every(text=["rectified", "dice"])
def test_forms_of_masks(text):
    logits, labels = given((11, 9))
    mask = a_mask()
    loss = RegionWiseLoss(text)
    wanted = loss(logits, labels, mask=mask)
    for dtype in (torch.bool, torch.uint8, torch.float32, torch.int64):
        assert loss(logits, labels, mask=mask.to(dtype)) == wanted
        assert loss(logits, labels, mask=mask.to(dtype)[:, None]) == wanted
    # One mask for all images.
    shared = mask[:1, None]
    assert loss(logits, labels, mask=shared) == loss(
        logits, labels, mask=shared.expand(3, 1, 11, 9)
    )
    for shape in [(3, 9, 11), (3, 4, 11, 9), (11, 9), (1, 11, 9)]:
        with pytest.raises(RWLossError, match=r"mask \(.*does not fit logits \(3, 4, 11, 9\): exp"):
            loss(logits, labels, mask=here(torch.ones(shape)))
    # Weights are no mask; what the message advises works.
    for factor, dtype in ((0.5, torch.float16), (255, torch.uint8), (-1, torch.int64)):
        soft = (factor * mask).to(dtype)
        with pytest.raises(RWLossError, match=f"of 0 and 1, got {factor}: .* pass mask > 0.5,"):
            loss(logits, labels, mask=soft)
        assert loss(logits, labels, mask=soft.abs() > 0) == wanted
    with pytest.raises(RWLossError, match="got nan"):
        loss(logits, labels, mask=here(torch.full((3, 11, 9), torch.nan)))


@every(reduction=["sum", "none"])
def test_reductions_of_masked_costs(reduction):
    logits, labels = given((11, 9))
    mask = a_mask()
    values = maps.Boundary()(Regions(labels, 4)).dense()
    costs = torch.softmax(logits, dim=1) * values * mask[:, None]
    found = RegionWiseLoss("boundary", reduction=reduction)(logits, labels, mask=mask)
    assert_close(found, costs.sum() if reduction == "sum" else costs)
