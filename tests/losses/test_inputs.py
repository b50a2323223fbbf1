"""Empty batches, layouts in memory, spacings of a batch, types of targets."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from loss_batches import (
    as_kind,
    assert_close,
    assert_same,
    given,
    given_masks,
    here,
    one_hot,
    value_and_gradient,
)

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

EXPRESSIONS = [
    "rectified",
    "boundary",
    "class_weighted",
    "unet_border",
    "active_contour.with_link(0.5)",
    "cross_entropy",
    "focal",
    "dice",
    "generalized_dice",
    "focal_tversky",
    "hausdorff_dt",
    "active_contour_length",
    "rectified + dice",
    "(dice + boundary).stabilized()",
]
each_expression = pytest.mark.parametrize("text", EXPRESSIONS)
each_shape = pytest.mark.parametrize("shape", [(9, 7), (5, 4, 3)], ids=str)


# --- Empty batches


def no_images(shape, activation):
    """Logits and target of an empty batch."""
    logits = here(torch.zeros(0, 4, *shape))
    return logits, logits if activation == "sigmoid" else logits[:, 0]


@each_expression
@each_shape
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_empty_batch(text, shape, activation, reduction):
    """What is left when a sampler drops every image: 0, with a gradient of no voxels."""
    logits, target = no_images(shape, activation)
    loss = RegionWiseLoss(text, activation=activation, reduction=reduction)
    for more in ({}, {"spacing_mm": (1.0, 2.0, 3.0)[: len(shape)]}):
        value, gradient = value_and_gradient(loss, logits, target, **more)
        assert value == 0
        assert gradient.shape == logits.shape
        assert loss.excess(logits, target, **more) == 0
    assert loss([logits, logits], target) == 0
    masked = RegionWiseLoss(text, activation=activation, ignore_index=255)
    assert masked(logits, target, mask=logits[:, 0]) == 0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_empty_batch_unreduced(activation):
    logits, target = no_images((9, 7), activation)
    loss = RegionWiseLoss("rectified", activation=activation, reduction="none")
    shape = (0, 4, 2, 9, 7) if activation == "sigmoid" else (0, 4, 9, 7)
    assert loss(logits, target).shape == shape


def test_empty_batch_with_a_stored_map():
    logits, labels = no_images((9, 7), "softmax")
    values = np.zeros((0, 9, 7), dtype=np.float32)
    stored = RWMap.compact(values.astype(np.uint8), 4, values, values)
    assert RegionWiseLoss("rectified")(logits, labels, stored) == 0


# --- Layouts


@each_expression
@each_shape
def test_layout_in_memory_changes_nothing(text, shape):
    logits, labels = given(shape)
    wanted = value_and_gradient(RegionWiseLoss(text), logits, labels)
    axes = len(shape)
    channels_last = torch.channels_last if axes == 2 else torch.channels_last_3d

    def spread(values):  # every second of a larger tensor
        large = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1])
        large[..., ::2] = values
        return large[..., ::2]

    def turned(values):
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)

    forms = [
        (logits.contiguous(memory_format=channels_last), labels),
        (spread(logits), spread(labels)),
        (turned(logits), turned(labels)),
        (logits.repeat(1, 2, *[1] * axes)[:, :4], labels),
    ]
    for x, y in forms:
        for form in (x, y):
            assert form is labels or not form.is_contiguous()
        assert_same(value_and_gradient(RegionWiseLoss(text), x, y), wanted, 1e-12)


def test_layout_of_overlapping_masks():
    logits, masks = given_masks((9, 7))
    loss = RegionWiseLoss("rectified + dice", activation="sigmoid")
    wanted = value_and_gradient(loss, logits, masks)
    last = {"memory_format": torch.channels_last}
    found = value_and_gradient(loss, logits.contiguous(**last), masks.contiguous(**last))
    assert_same(found, wanted, 1e-12)


@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_layout_of_stored_maps(text):
    logits, labels = given((9, 7))
    made = maps.parse(text)(Regions(labels, 4))
    loss = RegionWiseLoss(text)
    wanted = value_and_gradient(loss, logits, labels, made)
    stored = made.with_arrays(lambda array: array.flip(-1).contiguous().flip(-1))
    assert_same(value_and_gradient(loss, logits, labels, stored), wanted, 1e-12)
    one = here(torch.ones(())).expand(labels.shape)  # without memory of its own
    constant = RWMap.compact(labels, 4, -one, one)
    assert loss(logits, labels, constant).isfinite()


# --- Spacings


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@each_shape
def test_spacing_of_each_image(kind, shape):
    logits, labels = given(shape)
    rows = [(1.0, 1.0, 1.0), (0.8, 2.5, 1.5), (3.0, 0.5, 1.0)]
    spacings = [row[: len(shape)] for row in rows]
    z = here(plain.boundary(as_kind(labels, "numpy"), 4, spacings))
    wanted = value_and_gradient(lambda x: (torch.softmax(x, dim=1) * z).mean(), logits)
    found = value_and_gradient(
        RegionWiseLoss("boundary"), logits, labels, spacing_mm=kind(spacings)
    )
    assert_same(found, wanted)
    built = RegionWiseLoss("boundary", spacing_mm=kind(spacings))
    assert_same(value_and_gradient(built, logits, labels), wanted)


@pytest.mark.parametrize(
    "text", ["boundary", "hausdorff_dt", "active_contour_length", "unet_border"]
)
def test_a_batch_is_its_images(text):
    """With a spacing for each: the mean of what they are alone."""
    logits, labels = given((9, 7))
    spacings = [(1.0, 1.0), (0.8, 2.5), (3.0, 0.5)]
    alone = [
        RegionWiseLoss(text, spacing_mm=spacing)(logits[i : i + 1], labels[i : i + 1])
        for i, spacing in enumerate(spacings)
    ]
    together = RegionWiseLoss(text)(logits, labels, spacing_mm=spacings)
    assert_close(together, torch.stack(alone).mean())


def test_spacing_of_each_mask_is_that_of_its_image():
    logits, masks = given_masks((9, 7))
    spacings = [(1.0, 1.0), (0.8, 2.5)]
    loss = RegionWiseLoss("boundary", activation="sigmoid")
    alone = [
        loss(logits[i : i + 1], masks[i : i + 1], spacing_mm=spacing)
        for i, spacing in enumerate(spacings)
    ]
    assert_close(loss(logits, masks, spacing_mm=spacings), torch.stack(alone).mean())


@pytest.mark.parametrize(
    "spacing", [(1.0,), [(1, 1)] * 2, (1, 0), (1, -2), (1, float("nan"))], ids=str
)
def test_spacing_that_does_not_fit(spacing):
    logits, labels = given((9, 7))
    for text in ("boundary", "dice"):
        with pytest.raises(RWLossError, match="expected a spacing"):
            RegionWiseLoss(text)(logits, labels, spacing_mm=spacing)


# --- Types of targets

TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]


@pytest.mark.parametrize("text", ["rectified", "boundary", "dice", "cross_entropy"])
@pytest.mark.parametrize("dtype", [*TYPES, torch.uint16, torch.float16, torch.bool], ids=str)
@each_shape
def test_target_of_every_type_in_every_form(text, shape, dtype):
    """Booleans are one-hot; torch finds no largest of uint16."""
    logits, labels = given(shape)
    loss = RegionWiseLoss(text)
    wanted = value_and_gradient(loss, logits, labels)
    forms = [] if dtype == torch.uint16 else [one_hot(labels, 4)]
    forms += [] if dtype == torch.bool else [labels, labels[:, None]]
    for target in forms:
        assert_same(value_and_gradient(loss, logits, target.to(dtype)), wanted, 0)


@pytest.mark.parametrize("text", ["rectified", "dice"])
def test_labels_of_two_classes_as_booleans(text):
    logits, labels = given((9, 7), num_classes=2)
    loss = RegionWiseLoss(text)
    assert loss(logits, labels.bool()) == loss(logits, labels)


def test_nothing_that_is_given_is_changed():
    logits, labels = given((9, 7))
    labels[:, :2] = 255
    mask = here(torch.ones(3, 9, 7))
    stored = maps.Boundary()(Regions(labels, 4, ignore_label=255)).dense()
    before = [x.clone() for x in (logits, labels, mask, stored)]
    loss = RegionWiseLoss("boundary + dice", ignore_index=255, class_weights=(1, 2, 3, 4))
    loss(logits, labels, stored, mask=mask)
    loss.excess(logits, labels, mask=mask)
    for now, then in zip((logits, labels, mask, stored), before, strict=True):
        assert torch.equal(now, then)
