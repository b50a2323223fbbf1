"""A stored map in place of the static terms, in whatever form and memory it comes."""

import re

import numpy as np
import pytest
import torch
from loss_batches import as_kind, assert_close, given, here

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

SPACING = {2: (0.8, 2.5), 3: (0.8, 0.8, 2.5)}
EXPRESSIONS = [
    "rectified",
    "active_contour",
    "boundary",
    "boundary(convention='valverde')",
    "class_weighted",
    "unet_border",
    "boundary.stabilized()",
    "rectified + 0.01 * boundary",
]
each_expression = pytest.mark.parametrize("text", EXPRESSIONS)
each_shape = pytest.mark.parametrize("shape", [(11, 9), (6, 7, 5)], ids=str)


def official(logits, values):
    return torch.mean(torch.softmax(logits, dim=1) * values)


@each_expression
@each_shape
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("form", ["own", "dense", "tensor"])
def test_stored_map(text, shape, kind, form):
    logits, labels = given(shape)
    spacing = SPACING[len(shape)]
    stored = maps.parse(text)(Regions(as_kind(labels, kind), 4, spacing))
    if form == "dense":
        stored = RWMap.from_dense(stored.labels, stored.dense())
    elif form == "tensor":
        stored = here(stored.dense())
    loss = RegionWiseLoss(text, spacing_mm=spacing)
    assert_close(loss(logits, labels, stored), loss(logits, labels), 1e-7)


def test_stored_map_takes_the_place_of_the_expression():
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels, 4))
    found = RegionWiseLoss("boundary")(logits, labels, stored)
    assert found == RegionWiseLoss("rectified")(logits, labels)


@each_expression
@pytest.mark.parametrize("form", ["RWMap", "tensor", "numpy"])
def test_without_an_expression_each_call_gives_its_map(text, form):
    logits, labels = given((11, 9))
    made = maps.parse(text)(Regions(labels, 4))
    stored = made if form == "RWMap" else as_kind(made.dense(), form)
    loss = RegionWiseLoss()
    assert_close(loss(logits, labels, stored), official(logits, made.dense()))
    wanted = RegionWiseLoss(text).excess(logits, labels)
    assert_close(loss.excess(logits, labels, stored), wanted, 1e-5)
    summed = RegionWiseLoss(reduction="none", include_background=False)
    costs = (torch.softmax(logits, dim=1) * made.dense())[:, 1:]
    assert_close(summed(logits, labels, stored), costs)


def test_without_an_expression_and_without_a_map():
    loss = RegionWiseLoss(ignore_index=255)
    assert (repr(loss), loss.expression) == ("RegionWiseLoss(ignore_index=255)", None)
    for logits in (here(torch.zeros(1, 2, 3, 3)), here(torch.zeros(0, 2, 3, 3))):
        with pytest.raises(RWLossError, match="no expression, so each call needs a map: loss"):
            loss(logits, here(torch.zeros(len(logits), 3, 3)))
    loss.set_epoch(3)
    loss.load_state_dict(loss.state_dict())
    assert loss.epoch == 3


@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_stored_numpy_map_that_was_turned_with_its_image(text):
    """Views with negative strides, as numpy.flip and numpy.rot90 give them."""
    logits, labels = given((9, 9))
    stored = maps.parse(text)(Regions(as_kind(labels, "numpy"), 4))

    def turn(values, first):
        return np.rot90(np.flip(values, first), axes=(first, first + 1))

    turned = stored.with_arrays(lambda array: turn(array, array.ndim - 2))
    target = here(turned.labels.copy())
    wanted = official(logits, here(turn(stored.dense(), 2).copy()))
    loss = RegionWiseLoss(text)
    assert_close(loss(logits, target, turned), wanted)
    assert_close(loss(logits, target, turn(stored.dense(), 2)), wanted)
    with pytest.raises(RWLossError, match="made from other labels than the target"):
        loss(logits, labels, turned)


@pytest.mark.parametrize("dtype", ["float32", ">f4", "float64", "float16"])
def test_stored_numpy_map_in_read_only_memory_of_any_type(dtype):
    logits, labels = given((11, 9))
    stored = maps.ActiveContour()(Regions(as_kind(labels, "numpy"), 4)).dense()
    values = stored.astype(dtype)
    values.flags.writeable = False
    wanted = RegionWiseLoss("active_contour")(logits, labels)
    assert_close(RegionWiseLoss("active_contour")(logits, labels, values), wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", ">i2"])
def test_stored_map_with_labels_of_another_type(dtype):
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(as_kind(labels, "numpy"), 4))
    retyped = RWMap.compact(stored.labels.astype(dtype), 4, stored.true, stored.other)
    loss = RegionWiseLoss("rectified")
    assert_close(loss(logits, labels, retyped), loss(logits, labels))


def test_stored_map_of_other_labels_is_refused():
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels, 4))
    other = labels.clone()
    other[1, 4, 5] = (other[1, 4, 5] + 1) % 4
    with pytest.raises(RWLossError, match="the map was made from other labels than the target"):
        RegionWiseLoss("rectified")(logits, other, stored)


def test_labels_are_compared_without_wrapping():
    """In uint8, 256 + 1 is 1."""
    logits, labels = here(torch.zeros(1, 300, 2, 2)), here(torch.ones((1, 2, 2), dtype=torch.uint8))
    stored = maps.Rectified()(Regions(labels.long() + 256, 300))
    with pytest.raises(RWLossError, match="made from other labels"):
        RegionWiseLoss("rectified")(logits, labels, stored)


@pytest.mark.parametrize(
    "shape", [(3, 4, 11, 8), (3, 3, 11, 9), (1, 4, 11, 9), (3, 11, 9), (4, 11, 9)], ids=str
)
def test_tensor_of_another_shape_is_refused(shape):
    """No silent broadcasting."""
    logits, labels = given((11, 9))
    message = f"map {shape} does not fit logits (3, 4, 11, 9)"
    with pytest.raises(RWLossError, match=re.escape(message)):
        RegionWiseLoss("rectified")(logits, labels, here(torch.zeros(shape)))
