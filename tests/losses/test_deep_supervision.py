"""Lists of outputs: each with labels, maps, mask and spacing at its own resolution."""

from fractions import Fraction
from functools import cache

import pytest
import torch
from anatomy import batch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import (
    as_kind,
    assert_close,
    assert_same,
    every,
    given_masks,
    here,
    normal,
    uniform,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.losses.resolution import resampled

# Halves, odd sizes and unequal strides; high to low resolution.
SIZES = {
    2: [(12, 8), (6, 4), (3, 2)],
    3: [(8, 6, 4), (4, 3, 4), (2, 2, 2)],
    "odd": [(11, 7), (6, 4), (3, 2), (2, 1)],
    "up": [(6, 4), (12, 8)],
}
EXPRESSIONS = ["rectified", "boundary", "rectified.with_link(0.5)", "rectified + dice", "dice"]


def outputs_and_labels(sizes, num_classes=3):
    outputs = [
        normal(2, num_classes, *size, seed=11 + i, dtype=torch.float64)
        for i, size in enumerate(sizes)
    ]
    return outputs, here(batch(12, sizes[0], num_classes, size=2))


def nearest(values, size):
    """By the definition: for each new voxel the old one whose centre is nearest, the lower first.

    values (... *s), for the last axes.
    """
    first = values.ndim - len(size)
    for axis, new in enumerate(size, start=first):
        chosen = torch.tensor(nearest_centres(values.shape[axis], new), device=values.device)
        values = values.index_select(axis, chosen)
    return values


@cache
def nearest_centres(old, new):
    def distance(i, j):
        return abs(Fraction(2 * i + 1, 2 * new) - Fraction(2 * j + 1, 2 * old))

    return [min(range(old), key=lambda j, i=i: (distance(i, j), j)) for i in range(new)]


def scaled(spacing, full, size):
    return [mm * a / b for mm, a, b in zip(spacing, full, size, strict=True)]


def halves(heads):
    total = sum(0.5**i for i in range(heads))
    return [0.5**i / total for i in range(heads)]


def by_hand(outputs, labels, text, spacing=(1, 1, 1), weights=None, mask=None, **settings):
    """Each output with the loss for one output, on labels, mask and spacing made for it.

    labels: those of the first output, or a list with those of each.
    """
    full, total = outputs[0].shape[2:], 0
    weights = weights or halves(len(outputs))
    for i, (output, weight) in enumerate(zip(outputs, weights, strict=True)):
        size = output.shape[2:]
        target = labels[i] if isinstance(labels, list) else nearest(labels, size)
        counted = None if mask is None else nearest(mask, size)
        spacing_mm = scaled(spacing[: len(size)], full, size)
        loss = RegionWiseLoss(text, spacing_mm=spacing_mm, **settings)
        total = total + weight * loss(output, target, mask=counted)
    return total


@settings(deadline=None, max_examples=40, derandomize=True, database=None)
@given(old=st.integers(1, 40), new=st.integers(1, 40))
def test_resampling_takes_the_nearest_centre(old, new):
    values = torch.arange(old)[None]
    assert torch.equal(resampled(values, [new], 1), nearest(values, [new]))


@every(sizes=[(9, 3), (15, 5), (7, 7), (3, 9), (11, 3)])
def test_resampling_is_torchs_where_no_centre_lies_between_two(sizes):
    values = torch.arange(sizes[0], dtype=torch.float32).reshape(1, 1, -1)
    wanted = functional.interpolate(values, size=sizes[1], mode="nearest-exact")
    assert torch.equal(resampled(values, [sizes[1]], 2), wanted)


@every(sizes=SIZES.values(), text=EXPRESSIONS)
def test_maps_are_made_at_each_resolution(sizes, text):
    outputs, labels = outputs_and_labels(sizes)
    spacing = (0.8, 2.5, 1.2)[: len(sizes[0])]
    loss = RegionWiseLoss(text, spacing_mm=spacing)
    wanted = value_and_gradient(by_hand, outputs, labels, text, spacing)
    assert_same(value_and_gradient(loss, outputs, labels), wanted, 1e-12)
    if sizes is SIZES["up"]:  # other forms
        for target in (labels[:, None], functional.one_hot(labels.long(), 3).movedim(-1, 1)):
            assert_same(value_and_gradient(loss, outputs, target), wanted, 1e-12)
    unset = RegionWiseLoss(text)
    assert_same(value_and_gradient(unset, outputs, labels, spacing_mm=spacing), wanted, 1e-12)
    assert_same(value_and_gradient(loss, tuple(outputs), labels), wanted, 1e-12)


def test_spacing_of_each_image():
    outputs, labels = outputs_and_labels(SIZES[2])
    spacings = [(1.0, 3.0), (0.5, 0.5)]
    alone = [
        by_hand([x[i : i + 1] for x in outputs], labels[i : i + 1], "boundary", mm)
        for i, mm in enumerate(spacings)
    ]
    found = RegionWiseLoss("boundary")(outputs, labels, spacing_mm=spacings)
    assert_close(found, torch.stack(alone).mean(), 1e-12)


@every(text=EXPRESSIONS)
def test_one_output_in_a_list(text):
    outputs, labels = outputs_and_labels(SIZES[2][:1])
    loss = RegionWiseLoss(text)
    wanted = value_and_gradient(loss, outputs[0], labels)
    found = value_and_gradient(loss, outputs, labels)
    assert_same((found[0], found[1][0]), wanted, 1e-12)


# --- Weights


@every(weights=[(1, 0.5, 0.25), (0.2, 0, 3), [4, 0, 0]])
def test_given_weights_are_taken_as_they_are(weights):
    outputs, labels = outputs_and_labels(SIZES[2])
    loss = RegionWiseLoss("rectified", deep_supervision_weights=weights)
    wanted = by_hand(outputs, labels, "rectified", weights=weights)
    assert_close(loss(outputs, labels), wanted, 1e-12)


def test_an_output_of_weight_0_is_not_looked_at():
    """As nnU-Net leaves out the lowest resolution."""
    outputs, labels = outputs_and_labels(SIZES[2])
    outputs[2] = outputs[2] * torch.nan
    outputs[2].requires_grad_()
    loss = RegionWiseLoss("rectified", deep_supervision_weights=(2 / 3, 1 / 3, 0))
    value = loss(outputs, labels)
    assert value.isfinite()
    assert not value.requires_grad


# --- Stored maps


@every(
    sizes=SIZES.values(),
    text=["rectified", "boundary", "rectified.with_link(0.5)"],
    kind=["numpy", "torch"],
)
def test_one_stored_map_is_resampled_as_the_labels_are(sizes, text, kind):
    outputs, labels = outputs_and_labels(sizes)
    static = maps.parse(text).static_part
    stored = static(Regions(as_kind(labels, kind), 3))

    def at_each(outputs):
        total = 0
        for output, weight in zip(outputs, halves(len(sizes)), strict=True):
            size = output.shape[2:]
            if "link" in text:
                gap = static(Regions(labels, 3)).weight()
                own = RWMap.compact(
                    nearest(labels, size), 3, -nearest(gap, size), here(torch.zeros(2, *size))
                )
            else:
                own = nearest(static(Regions(labels, 3)).dense(), size)
            total = total + weight * RegionWiseLoss(text)(output, nearest(labels, size), own)
        return total

    wanted = value_and_gradient(at_each, outputs)
    # A link needs a compact map.
    for form in [stored] if "link" in text else [stored, stored.dense()]:
        assert_same(value_and_gradient(RegionWiseLoss(text), outputs, labels, form), wanted)


def test_a_stored_map_for_each_output():
    outputs, labels = outputs_and_labels(SIZES["odd"])
    targets = [nearest(labels, x.shape[2:]) for x in outputs]
    stored = [maps.Boundary()(Regions(y, 3, scaled((1, 2), (11, 7), y.shape[1:]))) for y in targets]
    loss = RegionWiseLoss("boundary", spacing_mm=(1, 2))
    wanted = value_and_gradient(loss, outputs, labels)
    assert_same(value_and_gradient(loss, outputs, labels, stored), wanted, 1e-12)
    assert_same(value_and_gradient(loss, outputs, targets, stored), wanted, 1e-12)
    dense = [rwmap.dense() for rwmap in stored]
    assert_same(value_and_gradient(loss, outputs, targets, dense), wanted, 1e-12)


def test_one_stored_map_goes_before_targets_that_were_resampled_otherwise():
    """nnU-Net's own lower targets need not be of the voxels that the map has there."""
    outputs, labels = outputs_and_labels(SIZES[2])
    others = [labels, labels[:, 1::2, 1::2], labels[:, 3::4, 3::4]]
    assert not torch.equal(others[1], nearest(labels, (6, 4)))
    stored = maps.Rectified()(Regions(labels, 3))
    loss = RegionWiseLoss("rectified + dice")
    wanted = value_and_gradient(loss, outputs, labels, stored)
    assert_same(value_and_gradient(loss, outputs, others, stored), wanted, 1e-12)
    for weights in ((1, 0, 0), (0, 0, 1)):  # of other labels: refused at each resolution
        loss = RegionWiseLoss("rectified", deep_supervision_weights=weights)
        with pytest.raises(RWLossError, match="made from other labels"):
            loss(outputs, labels.flip(1), stored)


# --- Lists of targets, as nnU-Net gives them


@every(sizes=SIZES.values(), text=EXPRESSIONS, channel=[True, False])
def test_a_target_for_each_output(sizes, text, channel):
    outputs, labels = outputs_and_labels(sizes)
    others = [(3 * uniform(2, *size, seed=13 + i)).short() for i, size in enumerate(sizes)]
    targets = [labels.short(), *others[1:]]
    spacing = (0.8, 2.5, 1.2)[: len(sizes[0])]
    loss = RegionWiseLoss(text, spacing_mm=spacing)
    given_targets = [y[:, None] for y in targets] if channel else targets
    wanted = value_and_gradient(by_hand, outputs, targets, text, spacing)
    assert_same(value_and_gradient(loss, outputs, given_targets), wanted, 1e-12)


# --- Masks, ignored voxels, sigmoid


@every(sizes=SIZES.values(), text=["rectified", "dice + boundary"])
def test_mask_and_ignored_label(sizes, text):
    outputs, labels = outputs_and_labels(sizes)
    labels = labels.int()
    labels[0, : sizes[0][0] // 3] = 255
    mask = uniform(*labels.shape, seed=1) > 0.3
    loss = RegionWiseLoss(text, ignore_index=255)
    wanted = value_and_gradient(by_hand, outputs, labels, text, mask=mask, ignore_index=255)
    masks = [nearest(mask, x.shape[2:]) for x in outputs]
    for given_mask in (mask, mask[:, None], masks):
        found = value_and_gradient(loss, outputs, labels, mask=given_mask)
        assert_same(found, wanted, 1e-12)


@every(sizes=[SIZES[2], SIZES["odd"]])
def test_masks_that_overlap(sizes):
    _, masks = given_masks(sizes[0])
    outputs, _ = outputs_and_labels(sizes)
    loss = RegionWiseLoss("rectified + dice", activation="sigmoid")
    wanted = value_and_gradient(by_hand, outputs, masks, "rectified + dice", activation="sigmoid")
    for target in (masks, [nearest(masks, x.shape[2:]) for x in outputs]):
        assert_same(value_and_gradient(loss, outputs, target), wanted, 1e-12)
    stored = maps.Rectified()(Regions(masks.flatten(0, 1), 2))
    assert loss(outputs, masks, stored).isfinite()


def test_excess_and_sum_of_a_list():
    outputs, labels = outputs_and_labels(SIZES[2])
    loss, wanted = RegionWiseLoss("rectified + dice"), 0
    for weight, x in zip(halves(3), outputs, strict=True):
        spacing = scaled((1, 1), (12, 8), x.shape[2:])
        wanted += weight * loss.excess(x, nearest(labels, x.shape[2:]), spacing_mm=spacing)
    assert_close(loss.excess(outputs, labels), wanted, 1e-12)
    loss = RegionWiseLoss("rectified", reduction="sum", deep_supervision_weights=(1, 0, 0))
    wanted = RegionWiseLoss("rectified", reduction="sum")(outputs[0], labels)
    assert_close(loss(outputs, labels), wanted, 1e-12)


# --- Wrong use


def test_what_is_refused():
    outputs, labels = outputs_and_labels(SIZES[2])
    stored, mask = maps.Rectified()(Regions(labels, 3)), here(torch.ones(labels.shape))

    def refused(message, *args, mask=None, **settings):
        with pytest.raises(RWLossError, match=message):
            RegionWiseLoss("rectified", **settings)(*args, mask=mask)

    for what, *args, own in [
        ("target", [labels] * 2, None, None),
        ("target", [labels] * 2, stored, None),
        ("map", labels, [stored] * 2, None),
        ("mask", labels, None, [mask] * 2),
    ]:
        refused(f"2 {what}s for 3 outputs: give one, or one for each", outputs, *args, mask=own)
    one = outputs[0]
    refused("expected target as a tensor, got list: a list is for", one, [labels])
    refused(r"its values .*, got list: a list is for deep", one, labels, [stored])
    refused("expected mask as a tensor, got list", one, labels, mask=[mask])
    refused("no output to train: the list is empty", [], labels)
    message = '"none" of static terms is for one output, got 3'
    refused(message, outputs, labels, reduction="none")
    for shape in [(12, 8), (2, 3, 2, 12, 8), (12,), (1, 12, 8)]:
        message = r"target \(.*\) does not fit logits \(2, 3, 12, 8\)"
        refused(message, outputs, here(torch.zeros(shape, dtype=torch.uint8)))
    for weights, message in (
        ((1, 1), "2 deep_supervision_weights for 3 outputs: give one for each"),
        ((0, 0, 0), "no output to train: every deep-supervision weight is 0"),
        ((1, -1, 0), "expected deep_supervision_weights of 0 or more"),
    ):
        refused(message, outputs, labels, deep_supervision_weights=weights)
