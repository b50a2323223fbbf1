"""Half precision, autocast, double precision, and logits far apart."""

import pytest
import torch
from loss_batches import (
    assert_close,
    every,
    given,
    given_masks,
    here,
    one_hot,
    value_and_gradient,
)
from torch.nn import functional

from rwloss import Regions, RegionWiseLoss, maps

TERMS = [
    "rectified",
    "boundary",
    "class_weighted",
    "boundary.stabilized()",
    "rectified.with_link(0)",
    "rectified.with_link(0.3)",
    "cross_entropy",
    "focal",
    "focal(gamma=0.5)",
    "dice",
    "generalized_dice",
    "tversky",
    "focal_tversky",
    "hausdorff_dt",
    "active_contour_length",
    "(dice + boundary).stabilized()",
    "(cross_entropy + boundary).stabilized()",
]
HALF = [torch.float16, torch.bfloat16]


@every(text=TERMS, dtype=HALF)
def test_half_precision_is_accumulated_in_float32(text, dtype):
    logits, labels = given((9, 7), dtype=dtype)
    value, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels)
    wide_value, wide_gradient = value_and_gradient(RegionWiseLoss(text), logits.float(), labels)
    assert value.dtype == torch.float32
    assert value == wide_value
    assert gradient.dtype == dtype
    assert torch.equal(gradient, wide_gradient.to(dtype))


@every(
    text=TERMS,
    dtypes=[(torch.bfloat16, torch.float32), (torch.float16, torch.bfloat16)],
)
def test_autocast_is_off_inside(text, dtypes):
    logits, labels = given((9, 7), dtype=dtypes[1])
    wanted = value_and_gradient(RegionWiseLoss(text), logits, labels)
    with torch.autocast(logits.device.type, dtype=dtypes[0]):
        found = value_and_gradient(RegionWiseLoss(text), logits, labels)
    assert found[0].dtype == torch.float32
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


def test_autocast_is_off_in_a_loss_of_ones_own():
    """Its matrix products too would be in half precision."""
    logits, labels = given((9, 7), dtype=torch.float32)
    loss = RegionWiseLoss(maps.from_loss(lambda p, y: p.flatten() @ y.flatten() / y.sum()))
    wanted = loss(logits, labels)
    with torch.autocast(logits.device.type, dtype=torch.bfloat16):
        found = loss(logits, labels)
    assert found.dtype == torch.float32
    assert found == wanted


@every(text=TERMS)
def test_double_precision_is_kept(text):
    logits, labels = given((9, 7))
    value, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels)
    assert value.dtype == gradient.dtype == torch.float64
    single = value_and_gradient(RegionWiseLoss(text), logits.float(), labels)
    assert single[0].dtype == single[1].dtype == torch.float32
    assert_close(single[0], value, 1e-5)
    assert_close(single[1], gradient, 1e-4)


@every(
    text=TERMS,
    activation=["softmax", "sigmoid"],
    right=[True, False],
    dtype=[torch.float64, torch.float32, *HALF],
)
def test_logits_far_apart(text, activation, right, dtype):
    """A margin of 200, for the right class everywhere or for a wrong one."""
    if (activation == "softmax") == (right and dtype in HALF):
        return  # half of the cases are enough
    if activation == "sigmoid":
        _, target = given_masks((9, 7))
        logits = (200 if right else -200) * (2.0 * target - 1)
    else:
        _, target = given((9, 7))
        logits = 200 * one_hot((target.long() + (0 if right else 1)) % 4, 4)
    loss = RegionWiseLoss(text, activation=activation)
    value, gradient = value_and_gradient(loss, logits.to(dtype), target)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.dtype == dtype
    excess = loss.excess(logits.to(dtype), target)
    assert excess.isfinite()
    assert excess >= 0


@every(text=["cross_entropy", "focal", "active_contour.with_link(0)"], dtype=[torch.float32, *HALF])
def test_losses_of_logarithms_pull_at_a_margin_of_200(text, dtype):
    """Not only without NaN: the value is the margin, and the push as strong as ever."""
    logits = here(torch.tensor([200.0, 0.0])).reshape(1, 2, 1, 1).expand(1, 2, 4, 4).to(dtype)
    labels = here(torch.ones(1, 4, 4, dtype=torch.long))
    value, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels)
    classes = 2 if "link" in text else 1  # a map's loss is the mean over classes too
    assert value * classes == pytest.approx(200)
    push = here(torch.tensor([1.0, -1.0])).reshape(1, 2, 1, 1).expand_as(gradient) / (16 * classes)
    assert_close(gradient, push, 1e-2)


@every(dtype=HALF, text=["active_contour", "cross_entropy", "dice"])
def test_sums_that_overflow_half_precision(dtype, text):
    """300² voxels at 1 are more than float16 can count."""
    logits = here(torch.zeros(1, 2, 300, 300, dtype=dtype))
    labels = here(torch.zeros(1, 300, 300, dtype=torch.uint8))
    labels[:, 100:200, 50:90] = 1
    loss = RegionWiseLoss(text)
    assert_close(loss(logits, labels), loss(logits.double(), labels), 1e-5)
    total = RegionWiseLoss("active_contour", reduction="sum")(logits, labels)
    assert total == 300 * 300 / 2


@every(
    text=["rectified", "boundary", "rectified.with_link(0.5)", "rectified.with_link(0)"],
    include_background=[True, False],
    ruled_out=[0, 3],
)
def test_infinite_logit_of_a_class_that_is_ruled_out(text, include_background, ruled_out):
    """-inf at a class that may not be: its probability is 0, and nothing turns to NaN."""
    logits, labels = given((9, 7))
    logits[:, ruled_out] = -torch.inf
    labels[labels == ruled_out] = 255  # ignored, so that nothing weighs its infinite logarithm
    loss = RegionWiseLoss(text, ignore_index=255, include_background=include_background)
    value, gradient = value_and_gradient(loss, logits, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every(text=["active_contour.with_link(0)", "rectified.with_link(0.5)", "cross_entropy", "focal"])
def test_infinite_logit_at_the_true_class(text):
    """The loss may be infinite; its gradient is finite, as torch's cross-entropy has it."""
    for activation in ("softmax", "none"):
        logits, labels = given((9, 7))
        logits[0, :, 2, 3] = 0.0
        logits[0, labels[0, 2, 3], 2, 3] = -torch.inf
        x = logits.softmax(dim=1) if activation == "none" else logits
        for settings in ({}, {"include_background": False}):
            loss = RegionWiseLoss(text, activation=activation, **settings)
            assert value_and_gradient(loss, x, labels)[1].isfinite().all()
    if "link(0)" in text:
        wanted = value_and_gradient(
            lambda x: functional.cross_entropy(x, labels.long()) / 4, logits
        )
        assert_close(value_and_gradient(RegionWiseLoss(text), logits, labels)[1], wanted[1], 1e-9)


@every(dtype=[torch.float16, torch.float64])
def test_stored_values_of_another_precision(dtype):
    logits, labels = given((9, 7), dtype=torch.float32)
    stored = maps.ActiveContour()(Regions(labels, 4)).dense()
    loss = RegionWiseLoss("active_contour")
    found = value_and_gradient(loss, logits, labels, stored.to(dtype))
    assert found[0].dtype == found[1].dtype == torch.float32
    assert_close(found[0], loss(logits, labels), 1e-6)
