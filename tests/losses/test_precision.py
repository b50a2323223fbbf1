"""Half precision, autocast, double precision, and logits far apart."""

import pytest
import torch
from loss_batches import assert_close, every, given, given_masks, here, one_hot, value_and_gradient

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
each_term = every(text=TERMS)
HALF = [torch.float16, torch.bfloat16]


@each_term
@every(dtype=HALF)
def test_half_precision_is_accumulated_in_float32(text, dtype):
    logits, labels = given((9, 7), dtype=dtype)
    value, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels)
    wide_value, wide_gradient = value_and_gradient(RegionWiseLoss(text), logits.float(), labels)
    assert value.dtype == torch.float32
    assert value == wide_value
    assert gradient.dtype == dtype
    assert torch.equal(gradient, wide_gradient.to(dtype))


@each_term
@pytest.mark.parametrize(
    ("dtype", "logits_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.bfloat16)],
    ids=str,
)
def test_autocast_is_off_inside(text, dtype, logits_dtype):
    logits, labels = given((9, 7), dtype=logits_dtype)
    wanted = value_and_gradient(RegionWiseLoss(text), logits, labels)
    with torch.autocast(logits.device.type, dtype=dtype):
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


@each_term
def test_double_precision_is_kept(text):
    logits, labels = given((9, 7))
    value, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels)
    assert value.dtype == gradient.dtype == torch.float64
    single = value_and_gradient(RegionWiseLoss(text), logits.float(), labels)
    assert single[0].dtype == single[1].dtype == torch.float32
    assert_close(single[0], value, 1e-5)
    assert_close(single[1], gradient, 1e-4)


@each_term
@pytest.mark.parametrize(
    ("dtype", "activation", "right"),
    [
        (dtype, ["softmax", "sigmoid"][(number + right) % 2], right)
        for number, dtype in enumerate([torch.float64, torch.float32, *HALF])
        for right in (True, False)
    ],
    ids=str,
)
def test_logits_far_apart(text, activation, dtype, right):
    """A margin of 200, for the right class everywhere or for a wrong one."""
    if activation == "sigmoid":
        _, target = given_masks((9, 7))
        sure = 2.0 * target - 1
        logits = 200 * (sure if right else -sure)
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


@every(dtype=[torch.float32, *HALF])
@every(text=["cross_entropy", "focal", "active_contour.with_link(0)"])
def test_losses_of_logarithms_pull_at_a_margin_of_200(text, dtype):
    """Not only without NaN: the value is the margin, and the push as strong as ever."""
    logits = here(torch.tensor([200.0, 0.0])).reshape(1, 2, 1, 1).expand(1, 2, 4, 4).to(dtype)
    labels = here(torch.ones(1, 4, 4, dtype=torch.long))
    value, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels)
    classes = 2 if "link" in text else 1  # a map's loss is the mean over classes too
    assert value * classes == pytest.approx(200)
    push = here(torch.tensor([1.0, -1.0])).reshape(1, 2, 1, 1).expand_as(gradient) / (16 * classes)
    assert_close(gradient, push, 1e-2)


@every(dtype=HALF)
def test_sums_that_overflow_half_precision(dtype):
    """512² voxels at 1 are more than float16 can count."""
    logits = here(torch.zeros(1, 2, 512, 512, dtype=dtype))
    labels = here(torch.zeros(1, 512, 512, dtype=torch.uint8))
    labels[:, 100:200, 50:90] = 1
    for text in ("active_contour", "cross_entropy", "dice"):
        assert_close(
            RegionWiseLoss(text)(logits, labels),
            RegionWiseLoss(text)(logits.double(), labels),
            1e-5,
        )
    total = RegionWiseLoss("active_contour", reduction="sum")(logits, labels)
    assert total == 512 * 512 / 2


@every(ruled_out=[0, 3])
def test_infinite_logit_of_a_class_that_is_ruled_out(ruled_out):
    """-inf at a class that may not be: its probability is 0, and nothing turns to NaN."""
    logits, labels = given((9, 7))
    logits[:, ruled_out] = -torch.inf
    labels[labels == ruled_out] = 255  # ignored, so that nothing weighs its infinite logarithm
    for text in ("rectified", "boundary", "rectified.with_link(0.5)", "rectified.with_link(0)"):
        for background in (True, False):
            loss = RegionWiseLoss(text, ignore_index=255, include_background=background)
            value, gradient = value_and_gradient(loss, logits, labels)
            assert value.isfinite()
            assert gradient.isfinite().all()


@every(dtype=[torch.float16, torch.float64])
def test_stored_values_of_another_precision(dtype):
    logits, labels = given((9, 7), dtype=torch.float32)
    stored = maps.ActiveContour()(Regions(labels, 4)).dense()
    loss = RegionWiseLoss("active_contour")
    found = value_and_gradient(loss, logits, labels, stored.to(dtype))
    assert found[0].dtype == found[1].dtype == torch.float32
    assert_close(found[0], loss(logits, labels), 1e-6)
