"""What a call may give: targets, empty batches, layouts, spacings; and what is refused."""

import re

import numpy as np
import plain_formulas as plain
import pytest
import torch
from loss_batches import (
    as_kind,
    assert_close,
    assert_same,
    every,
    given,
    given_masks,
    here,
    one_hot,
    value_and_gradient,
)

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.losses import as_labels

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
SHAPES = [(9, 7), (5, 4, 3)]
TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]
TYPES += [torch.uint16, torch.float16, torch.bfloat16, torch.bool]


def refused(message, call, *args, **kwargs):
    with pytest.raises(RWLossError, match=re.escape(message)) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# --- Targets


@every(text=["rectified", "boundary + dice"], dtype=TYPES, shape=SHAPES)
def test_target_of_every_type_in_every_form(text, dtype, shape):
    """Booleans are one-hot."""
    logits, labels = given(shape)
    loss = RegionWiseLoss(text)
    wanted = value_and_gradient(loss, logits, labels)
    forms = [one_hot(labels, 4)]
    forms += [] if dtype == torch.bool else [labels, labels[:, None]]
    for target in forms:
        assert torch.equal(as_labels(logits, target.to(dtype)).long(), labels.long())
        assert_same(value_and_gradient(loss, logits, target.to(dtype)), wanted, 0)


def test_labels_of_two_classes_as_booleans():
    logits, labels = given((9, 7), num_classes=2)
    loss = RegionWiseLoss("rectified + dice")
    assert loss(logits, labels.bool()) == loss(logits, labels)


def test_sizes_that_could_be_taken_for_each_other():
    """As many classes as rows, columns and images."""
    logits, labels = given((4, 4), size=4)
    for target in (labels, labels[:, None], one_hot(labels, 4)):
        assert torch.equal(as_labels(logits, target).long(), labels.long())


def spoiled(target, voxel):
    target[voxel] = 1.0
    return target


@every(
    spoil=[
        lambda t: t * 0.9,
        lambda t: t * 2,
        torch.zeros_like,
        torch.ones_like,
        lambda t: torch.softmax(t, dim=1),
        lambda t: t * torch.nan,
        lambda t: -t,
        lambda t: spoiled(t, (1, slice(0, 2), 2, 3)),
    ],
    call=[as_labels, RegionWiseLoss("rectified"), RegionWiseLoss("dice")],
)
def test_channels_that_are_not_one_hot(spoil, call):
    logits, labels = given((6, 7))
    target = spoil(one_hot(labels, 4).float())
    message = "target (3, 4, 6, 7) has as many channels as the logits but is not one-hot: expected"
    refused(message, call, logits, target)


@every(
    shape=[
        (3, 6),
        (3, 7, 6),
        (2, 6, 7),
        (3, 2, 6, 7),
        (3, 4, 7, 6),
        (1, 1, 6, 7),
        (6, 7),
        (3, 6, 7, 1),
    ],
    call=[as_labels, RegionWiseLoss("rectified"), RegionWiseLoss("dice")],
)
def test_target_of_a_shape_that_does_not_fit(shape, call):
    message = (
        f"target {shape} does not fit logits (3, 4, 6, 7): expected labels (3, 6, 7), "
        "(3, 1, 6, 7), or one-hot (3, 4, 6, 7)"
    )
    refused(message, call, given((6, 7))[0], here(torch.zeros(shape)))


@every(text=["rectified", "dice", "cross_entropy"])
def test_labels_that_are_no_class(text):
    """Of dynamic terms too, whose arithmetic would take them for no class at all."""
    logits, labels = given((4, 5))
    for label in (-1, 4, 255):
        wrong = labels.to(torch.int16)
        wrong[1, 2, 3] = label
        message = f"label {label} found, but num_classes=4 allows 0..3"
        assert f"ignore_index={label}" in refused(message, RegionWiseLoss(text), logits, wrong)
    labels[0, 0, 0], labels[1, 1, 1] = 255, 9
    loss = RegionWiseLoss(text, ignore_index=255)
    refused("label 9 found, but num_classes=4 allows 0..3", loss, logits, labels)
    for value, shown in ((0.5, "0.5"), (float("nan"), "nan")):
        broken = labels.float()
        broken[0, 1, 2] = value
        refused(f"expected whole labels, got {shown}", RegionWiseLoss(text), logits, broken)


# --- Logits, devices and settings


def test_one_channel_of_logits():
    message = "expected logits with 2 classes or more for the softmax, got 1"
    logits, labels = here(torch.zeros(2, 1, 4, 5)), here(torch.zeros(2, 4, 5))
    text = refused(message, RegionWiseLoss("rectified"), logits, labels)
    assert 'activation="sigmoid"' in text


@every(
    text=["rectified", "dice"],
    activation=["softmax", "sigmoid", "none"],
    shape=[(4,), (4, 5), (2, 4, 5), (2, 3, 2, 4, 5, 6)],
)
def test_logits_without_batch_classes_or_space(text, activation, shape):
    loss = RegionWiseLoss(text, activation=activation)
    logits, target = here(torch.zeros(shape)), here(torch.zeros(2, 4, 5))
    message = f"expected logits (b k *s) with *s 2-D or 3-D, got shape {shape}"
    refused(message, loss, logits, target)
    refused(message, loss, [logits], target)
    refused(message, as_labels, logits, target)


def test_arrays_instead_of_tensors():
    logits, labels = given((4, 5))
    loss = RegionWiseLoss("rectified")
    array = np.ones((3, 4, 5))
    refused("expected logits as a tensor, got ndarray", loss, array, labels)
    text = refused("expected target as a tensor, got ndarray", loss, logits, array)
    assert "torch.as_tensor" in text
    refused("expected mask as a tensor, got ndarray", loss, logits, labels, mask=array)
    refused("expected target as a tensor, got ndarray", loss, [logits], array)


@every(text=["rectified", "dice"], activation=["softmax", "sigmoid"])
def test_tensors_on_another_device(text, activation):
    logits = here(torch.zeros(3, 4, 4, 5))
    target = logits if activation == "sigmoid" else logits[:, 0]
    mask = torch.zeros(3, 4, 5, device="meta")
    loss = RegionWiseLoss(text, activation=activation)
    for many in (logits, [logits]):
        on = f"is on meta, logits are on {logits.device}: move it with"
        refused(f"target {on} target.to(logits.device)", loss, many, target.to("meta"))
        refused(f"mask {on}", loss, many, target, mask=mask)


def test_settings_that_do_not_exist():
    for expression, got in (
        (0, "int"),
        (maps.Rectified, "the class Rectified: such as 'rectified' or maps.Rectified()"),
        (1.0, "float"),
        (RWMap, "the class RWMap"),
    ):
        refused(f"expected an expression or its text, got {got}", RegionWiseLoss, expression)
    loss, likely = RegionWiseLoss, "did you mean"
    refused(f"unknown map 'rectifed': {likely} 'rectified'", loss, "rectifed")
    refused(f"unknown reduction 'means': {likely} 'mean'", loss, "dice", reduction="means")
    refused(f"unknown activation 'softmx': {likely} 'softmax'", loss, "dice", activation="softmx")


# --- Empty batches


def no_images(shape, activation):
    """Logits and target of an empty batch."""
    logits = here(torch.zeros(0, 4, *shape))
    return logits, logits if activation == "sigmoid" else logits[:, 0]


@every(text=EXPRESSIONS, shape=SHAPES, activation=["softmax", "sigmoid", "none"])
def test_empty_batch(text, shape, activation):
    """What is left when a sampler drops every image: 0, with a gradient of no voxels."""
    logits, target = no_images(shape, activation)
    for reduction in ("mean", "sum"):
        loss = RegionWiseLoss(text, activation=activation, reduction=reduction)
        value, gradient = value_and_gradient(loss, logits, target)
        assert value == 0
        assert gradient.shape == logits.shape
    spacing = {"spacing_mm": (1.0, 2.0, 3.0)[: len(shape)]}
    assert loss.excess(logits, target) == loss.excess(logits, target, **spacing) == 0
    assert loss([logits, logits], target, **spacing) == 0
    masked = RegionWiseLoss(text, activation=activation, ignore_index=255)
    assert masked(logits, target, mask=logits[:, 0]) == 0


def test_empty_batch_unreduced_or_with_a_stored_map():
    for activation, shape in {"softmax": (0, 4, 9, 7), "sigmoid": (0, 4, 2, 9, 7)}.items():
        loss = RegionWiseLoss("rectified", activation=activation, reduction="none")
        assert loss(*no_images((9, 7), activation)).shape == shape
    logits, labels = no_images((9, 7), "softmax")
    values = np.zeros((0, 9, 7), dtype=np.float32)
    stored = RWMap.compact(values.astype(np.uint8), 4, values, values)
    assert RegionWiseLoss("rectified")(logits, labels, stored) == 0


# --- Layouts


@every(text=EXPRESSIONS, shape=SHAPES)
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


# --- Spacings


@every(kind=[list, np.array, torch.tensor], shape=SHAPES)
def test_spacing_of_each_image(kind, shape):
    logits, labels = given(shape)
    rows = [(1.0, 1.0, 1.0), (0.8, 2.5, 1.5), (3.0, 0.5, 1.0)]
    spacings = [row[: len(shape)] for row in rows]
    z = here(plain.boundary(as_kind(labels, "numpy"), 4, spacings))
    wanted = value_and_gradient(lambda x: (torch.softmax(x, dim=1) * z).mean(), logits)
    loss = RegionWiseLoss("boundary")
    assert_same(value_and_gradient(loss, logits, labels, spacing_mm=kind(spacings)), wanted)
    built = RegionWiseLoss("boundary", spacing_mm=kind(spacings))
    assert_same(value_and_gradient(built, logits, labels), wanted)


@every(text=["boundary", "hausdorff_dt", "active_contour_length", "unet_border"])
def test_a_batch_is_its_images(text):
    """With a spacing for each: the mean of what they are alone. A mask has that of its image."""
    spacings = [(1.0, 1.0), (0.8, 2.5), (3.0, 0.5)]
    for activation, (logits, target) in {
        "softmax": given((9, 7)),
        "sigmoid": given_masks((9, 7), size=3),
    }.items():
        loss = RegionWiseLoss(text, activation=activation)
        alone = [
            loss(logits[i : i + 1], target[i : i + 1], spacing_mm=spacing)
            for i, spacing in enumerate(spacings)
        ]
        assert_close(loss(logits, target, spacing_mm=spacings), torch.stack(alone).mean())


@every(
    spacing=[(1.0,), [(1, 1)] * 2, (1, 0), (1, -2), (1, float("nan"))], text=["boundary", "dice"]
)
def test_spacing_that_does_not_fit(spacing, text):
    logits, labels = given((9, 7))
    refused("expected a spacing", RegionWiseLoss(text), logits, labels, spacing_mm=spacing)
