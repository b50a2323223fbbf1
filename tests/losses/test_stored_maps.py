"""A stored map in place of the static terms, in whatever form and memory it comes."""

import re

import numpy as np
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

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

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


def official(logits, values):
    return torch.mean(torch.softmax(logits, dim=1) * values)


def refused(message, loss, *args):
    with pytest.raises(RWLossError, match=re.escape(message)):
        loss(*args)


@every(text=EXPRESSIONS, spacing=[(0.8, 2.5), (0.8, 0.8, 2.5)], kind=["numpy", "torch"])
def test_stored_map(text, spacing, kind):
    logits, labels = given((9, 7) if len(spacing) == 2 else (5, 4, 3))
    loss = RegionWiseLoss(text, spacing_mm=spacing)
    wanted = loss(logits, labels)
    stored = maps.parse(text)(Regions(as_kind(labels, kind), 4, spacing))
    dense = RWMap.from_dense(stored.labels, stored.dense())
    for form in (stored, dense, here(stored.dense()), stored.dense()):
        assert_close(loss(logits, labels, form), wanted, 1e-7)


@every(text=EXPRESSIONS, form=["RWMap", "tensor", "numpy"])
def test_without_an_expression_each_call_gives_its_map(text, form):
    logits, labels = given((9, 7))
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
        message = "no expression, so each call needs a map: loss"
        refused(message, loss, logits, here(torch.zeros(len(logits), 3, 3)))
    loss.set_epoch(3)
    loss.load_state_dict(loss.state_dict())
    assert loss.epoch == 3


@every(text=["rectified", "boundary"])
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
    refused("made from other labels than the target", loss, logits, labels, turned)


@every(text=["rectified", "boundary"])
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


def test_stored_numpy_map_of_other_types():
    """In read-only memory too."""
    logits, labels = given((9, 7))
    for dtype in ("float32", ">f4", "float64", "float16"):
        stored = maps.ActiveContour()(Regions(as_kind(labels, "numpy"), 4)).dense()
        values = stored.astype(dtype)
        values.flags.writeable = False
        wanted = RegionWiseLoss("active_contour")(logits, labels)
        assert_close(RegionWiseLoss("active_contour")(logits, labels, values), wanted)
    loss = RegionWiseLoss("rectified")
    for dtype in ("uint8", "int16", "uint16", "int32", "int64", ">i2"):
        stored = maps.Rectified()(Regions(as_kind(labels, "numpy"), 4))
        retyped = RWMap.compact(stored.labels.astype(dtype), 4, stored.true, stored.other)
        assert_close(loss(logits, labels, retyped), loss(logits, labels))


# --- Refused


def test_stored_map_of_other_labels():
    logits, labels = given((9, 7))
    stored = maps.Rectified()(Regions(labels, 4))
    other = labels.clone()
    other[1, 4, 5] = (other[1, 4, 5] + 1) % 4
    message = "the map was made from other labels than the target"
    refused(message, RegionWiseLoss("rectified"), logits, other, stored)
    # Compared without wrapping: in uint8, 256 + 1 is 1.
    logits, labels = here(torch.zeros(1, 300, 2, 2)), here(torch.ones((1, 2, 2), dtype=torch.uint8))
    stored = maps.Rectified()(Regions(labels.long() + 256, 300))
    refused(message, RegionWiseLoss("rectified"), logits, labels, stored)


def test_stored_map_of_something_else():
    """Another expression, a scaled one, another spacing; a bare tensor is the user's own matter."""
    logits, labels = given((9, 7))
    rectified = maps.Rectified()(Regions(labels, 4))
    for text, needed in {
        "boundary": "boundary",
        "0.5 * rectified + dice": r"0.5 * rectified",
        "rectified(scope='component')": "rectified(scope='component')",
        "boundary.stabilized().with_link(0.5)": "boundary.stabilized()",
        "blend(dice, boundary, schedule='steal')": "boundary",
    }.items():
        message = (
            f"the map belongs to rectified, but a map of {needed} is needed: make it again with"
        )
        refused(message, RegionWiseLoss(text), logits, labels, rectified)
        assert RegionWiseLoss(text.split(".s")[0])(logits, labels, rectified.dense()).isfinite()
    for loss in ("rectified + dice", "rectified.with_link(0.5)", "blend(dice, rectified)"):
        RegionWiseLoss(loss)(logits, labels, rectified)
    by_hand = RWMap.compact(labels, 4, rectified.true, rectified.other)
    RegionWiseLoss("boundary")(logits, labels, by_hand)
    # The order of terms does not matter.
    both = maps.parse("0.5 * boundary + rectified")(Regions(labels, 4))
    loss = RegionWiseLoss("dice + rectified + 0.5 * boundary")
    assert_close(loss(logits, labels, both), loss(logits, labels))
    message = (
        "the map belongs to 0.5 * boundary + rectified, but a map of rectified + boundary is needed"
    )
    refused(message, RegionWiseLoss("rectified + boundary"), logits, labels, both)
    # Numbers from the classes of a dataset are not known to the loss, all else is.
    weighted = maps.parse("class_weighted(weights='dataset_inverse')").resolved([4, 3, 2, 1])
    loss = RegionWiseLoss("class_weighted(weights='dataset_inverse')")
    loss(logits, labels, weighted(Regions(labels, 4)))
    message = (
        r"the map belongs to rectified, but a map of class_weighted(weights='dataset_inverse') is"
    )
    refused(message, loss, logits, labels, rectified)


def test_stored_map_of_another_spacing():
    logits, labels = given((8, 6))
    stored = maps.Boundary()(Regions(labels, 4, (2.0, 1.0)))
    RegionWiseLoss("boundary")(logits, labels, stored)  # no spacing is known here
    message = "the map was made at a spacing of 2 x 1 mm, but the image has 2 x 2 mm: make the map"
    refused(message, RegionWiseLoss("boundary", spacing_mm=(2, 2)), logits, labels, stored)
    loss = RegionWiseLoss("boundary", spacing_mm=(2.0001, 1))
    assert_close(loss(logits, labels, stored), loss(logits, labels), 1e-3)
    with pytest.raises(RWLossError, match="but the image has 1 x 1: make"):
        loss(logits, labels, stored, spacing_mm=[(2, 1), (1, 1), (2, 1)])
    # Deep supervision: one map in the spacing of the first output, or one for each.
    outputs = [logits, logits[..., ::2, ::2]]
    targets = [labels, labels[..., ::2, ::2]]
    lower = maps.Boundary()(Regions(targets[1], 4, (4.0, 2.0)))
    loss(outputs, labels, stored)
    loss(outputs, targets, [stored, lower])
    wrong = [stored, maps.Boundary()(Regions(targets[1], 4, (2.0, 1.0)))]
    refused("spacing of 2 x 1 mm, but the image has 4.0002 x 2", loss, outputs, targets, wrong)
    # Overlapping masks: rows of the images are those of their masks.
    loss = RegionWiseLoss("boundary", activation="sigmoid", spacing_mm=[(2, 1), (1, 1), (2, 1)])
    masks = one_hot(labels, 4)
    made = maps.Boundary()(Regions.from_masks(masks, [(2, 1), (1, 1), (2, 1)]))
    loss(logits, masks, made)
    wrong = maps.Boundary()(Regions.from_masks(masks, (2, 1)))
    refused("spacing of 2 x 1 mm, but the image has 1 x 1:", loss, logits, masks, wrong)


def test_stored_map_of_other_classes():
    logits, labels = given((4, 5))
    stored = maps.Rectified()(Regions(labels, 6))
    message = "map has 6 classes, logits have 4: pass num_classes=4, or precompute again"
    refused(message, RegionWiseLoss("rectified"), logits, labels, stored)
    loss = RegionWiseLoss("rectified", activation="sigmoid")
    message = 'map has 6 classes, with activation="sigmoid" every mask is'
    refused(message, loss, logits, here(torch.zeros(3, 4, 4, 5)), stored)


@every(text=["rectified", "rectified.with_link(0.5)", "rectified + dice"])
def test_stored_map_of_another_shape(text):
    """No silent broadcasting."""
    logits, labels = given((4, 5))
    loss = RegionWiseLoss(text)
    stored = maps.Rectified()(Regions(labels[:, :3], 4))
    message = "map has labels (3, 3, 5), the target has (3, 4, 5): crop or rotate the map"
    refused(message, loss, logits, labels, stored)
    volume = maps.Rectified()(Regions(labels[:, None], 4))
    for outputs in (logits, [logits, logits]):
        loss = RegionWiseLoss(text, spacing_mm=(1.0, 2.0))
        refused("map has labels (3, 1, 4, 5), the target has", loss, outputs, labels, volume)
    for shape in [(3, 4, 3, 5), (3, 4, 4, 4), (3, 3, 4, 5), (1, 4, 4, 5), (3, 4, 5), (4, 4, 5)]:
        message = f"map {shape} does not fit logits (3, 4, 4, 5)"
        refused(message, loss, logits, labels, here(torch.zeros(shape)))
    message = "expected a map as an RWMap or its values (b k *s), got str"
    refused(message, loss, logits, labels, "rectified")


@every(text=["dice", "dice + cross_entropy", "blend(dice, cross_entropy)"])
def test_stored_map_beside_nothing_static(text):
    logits, labels = given((4, 5))
    stored = maps.Rectified()(Regions(labels, 4))
    message = f"and {maps.parse(text)} has none: leave out the map"
    refused(message, RegionWiseLoss(text), logits, labels, stored)


@every(
    expression=[
        "rectified + boundary.stabilized().with_link(0.5)",
        maps.blend("rectified", "boundary", step=None),
    ],
)
def test_stored_map_beside_several_static_parts(expression):
    logits, labels = given((4, 5))
    stored = maps.Rectified()(Regions(labels, 4))
    loss = RegionWiseLoss(expression)
    loss.set_epoch(3, total=10)
    message = "so one stored map can't replace rectified and boundary"
    refused(message, loss, logits, labels, stored)
