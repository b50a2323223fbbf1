"""Wrong use: each message says what was expected, what came, and the way out."""

import re

import numpy as np
import pytest
import torch
from loss_batches import given, here

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps
from rwloss.losses import as_labels


def refused(message, call, *args, **kwargs):
    with pytest.raises(RWLossError, match=re.escape(message)) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# --- Logits


def test_one_channel_of_logits():
    text = refused(
        "expected logits with 2 classes or more for the softmax, got 1",
        RegionWiseLoss("rectified"),
        here(torch.zeros(2, 1, 4, 5)),
        here(torch.zeros(2, 4, 5)),
    )
    assert 'activation="sigmoid"' in text


@pytest.mark.parametrize("text", ["rectified", "dice", "rectified + cross_entropy"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 4, 5), (2, 3, 2, 4, 5, 6)], ids=str)
def test_logits_without_batch_classes_or_space(shape, text, activation):
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


@pytest.mark.parametrize("text", ["rectified", "dice"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_tensors_on_another_device(text, activation):
    logits = here(torch.zeros(3, 4, 4, 5))
    target = logits if activation == "sigmoid" else logits[:, 0]
    mask = torch.zeros(3, 4, 5, device="meta")
    loss = RegionWiseLoss(text, activation=activation)
    for many in (logits, [logits]):
        on = f"is on meta, logits are on {logits.device}: move it with"
        refused(f"target {on} target.to(logits.device)", loss, many, target.to("meta"))
        refused(f"mask {on}", loss, many, target, mask=mask)


# --- Target


@pytest.mark.parametrize("text", ["rectified", "dice", "cross_entropy"])
@pytest.mark.parametrize("label", [-1, 4, 255])
def test_label_that_is_no_class(label, text):
    """Of dynamic terms too, whose arithmetic would take it for no class at all."""
    logits, labels = given((4, 5))
    labels = labels.to(torch.int16)
    labels[1, 2, 3] = label
    found = refused(
        f"label {label} found, but num_classes=4 allows 0..3", RegionWiseLoss(text), logits, labels
    )
    assert f"ignore_index={label}" in found


@pytest.mark.parametrize("text", ["rectified", "dice"])
def test_label_that_is_neither_class_nor_ignored(text):
    logits, labels = given((4, 5))
    labels[0, 0, 0], labels[1, 1, 1] = 255, 9
    loss = RegionWiseLoss(text, ignore_index=255)
    refused("label 9 found, but num_classes=4 allows 0..3", loss, logits, labels)


@pytest.mark.parametrize("text", ["rectified", "dice"])
@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (float("nan"), "nan")])
def test_labels_that_are_not_whole(value, shown, text):
    logits, labels = given((4, 5))
    labels = labels.float()
    labels[0, 1, 2] = value
    refused(f"expected whole labels, got {shown}", RegionWiseLoss(text), logits, labels)


# --- Stored maps


def test_stored_map_of_other_classes():
    logits, labels = given((4, 5))
    stored = maps.Rectified()(Regions(labels, 6))
    message = "map has 6 classes, logits have 4: pass num_classes=4, or precompute again"
    refused(message, RegionWiseLoss("rectified"), logits, labels, stored)
    masks = here(torch.zeros(3, 4, 4, 5))
    loss = RegionWiseLoss("rectified", activation="sigmoid")
    message = 'map has 6 classes, with activation="sigmoid" every mask is'
    refused(message, loss, logits, masks, stored)


@pytest.mark.parametrize("text", ["rectified", "rectified.with_link(0.5)", "rectified + dice"])
def test_stored_map_of_another_shape(text):
    logits, labels = given((4, 5))
    loss = RegionWiseLoss(text)
    stored = maps.Rectified()(Regions(labels[:, :3], 4))
    message = "map is of labels (3, 3, 5), the target has (3, 4, 5): crop or turn the map"
    refused(message, loss, logits, labels, stored)
    values = here(torch.zeros(3, 4, 3, 5))
    message = "map (3, 4, 3, 5) does not fit logits (3, 4, 4, 5)"
    refused(message, loss, logits, labels, values)


@pytest.mark.parametrize("text", ["dice", "dice + cross_entropy", "blend(dice, cross_entropy)"])
def test_stored_map_beside_nothing_static(text):
    logits, labels = given((4, 5))
    stored = maps.Rectified()(Regions(labels, 4))
    found = refused("has none: leave the map out", RegionWiseLoss(text), logits, labels, stored)
    assert str(maps.parse(text)) in found


@pytest.mark.parametrize(
    "expression",
    [
        "rectified + boundary.stabilized().with_link(0.5)",
        maps.blend("rectified", "boundary", step=None),
    ],
    ids=str,
)
def test_stored_map_beside_several_static_parts(expression):
    logits, labels = given((4, 5))
    stored = maps.Rectified()(Regions(labels, 4))
    loss = RegionWiseLoss(expression)
    loss.set_epoch(3, total=10)
    refused("one stored map can't stand for rectified and boundary", loss, logits, labels, stored)


def test_map_that_is_no_map():
    logits, labels = given((4, 5))
    message = "expected a map as an RWMap or its values (b k *s), got str"
    refused(message, RegionWiseLoss("rectified"), logits, labels, "rectified")


# --- Settings


@pytest.mark.parametrize("expression", [0, maps.Rectified, 1.0, RWMap], ids=str)
def test_expression_that_is_none(expression):
    refused("expected an expression or its text, got", RegionWiseLoss, expression)


def test_misspelt_choices_name_the_nearest():
    loss, likely = RegionWiseLoss, "did you mean"
    refused(f"unknown map 'rectifed': {likely} 'rectified'", loss, "rectifed")
    refused(f"unknown reduction 'means': {likely} 'mean'", loss, "dice", reduction="means")
    refused(f"unknown activation 'softmx': {likely} 'softmax'", loss, "dice", activation="softmx")
