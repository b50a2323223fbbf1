"""PlanLoss: targets of nnU-Net's data loader, its deep supervision, regions and ignore labels."""

import itertools

import numpy as np
import pytest
import torch
from loss_batches import assert_same, value_and_gradient
from scipy.ndimage import distance_transform_edt

from rwloss import RegionWiseLoss, RWLossError, maps
from rwloss.integrations.nnunet.loss import PlanLoss
from rwloss.losses.resolution import halving_weights

SPACING = {2: (0.5, 2.0), 3: (3.0, 0.5, 1.0)}
SIZE = {2: (12, 8), 3: (6, 8, 10)}
both_ranks = pytest.mark.parametrize("axes", [2, 3])


def labels_of(axes, num_classes=3, images=2, ignore_label=None):
    """Blocks of labels (b 1 *s) int16, as nnU-Net's data loader gives them."""
    generator = torch.Generator().manual_seed(axes)
    coarse = [n // 2 for n in SIZE[axes]]
    blocks = torch.randint(0, num_classes, (images, 1, *coarse), generator=generator)
    for axis in range(2, axes + 2):
        blocks = blocks.repeat_interleave(2, dim=axis)
    if ignore_label is not None:
        blocks[:, :, :2] = ignore_label
    return blocks.to(torch.int16)


def regions_of(axes, *, ignore):
    """Regions {1, 2} and {2}, boolean (b 2 *s), and with `ignore` the mask behind them."""
    target = labels_of(axes, ignore_label=3 if ignore else None)
    masks = [(target == 1) | (target == 2), target == 2]
    return torch.cat([*masks, target == 3] if ignore else masks, dim=1)


def logits_like(target, channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((len(target), channels, *target.shape[2:]), generator=generator)


@both_ranks
@pytest.mark.parametrize("text", ["rectified + dice", "dice + 0.01 * boundary"])
def test_is_region_wise_loss(axes, text):
    """Of labels; of regions, which may overlap; with ignored voxels, which cost nothing."""
    for ignore_label in (None, 3):
        target = labels_of(axes, ignore_label=ignore_label)
        logits = logits_like(target, 3)
        loss = PlanLoss(text, spacing_mm=SPACING[axes], ignore_label=ignore_label)
        plain = RegionWiseLoss(text, spacing_mm=SPACING[axes], ignore_index=ignore_label)
        found = value_and_gradient(loss, logits, target)
        assert_same(found, value_and_gradient(plain, logits, target[:, 0].long()))
        assert not found[1][(target == 3).expand_as(logits)].any()
        deep = PlanLoss(
            text, spacing_mm=SPACING[axes], ignore_label=ignore_label, head_weights=[1.0, 0.0]
        )
        torch.testing.assert_close(deep([logits, logits], [target, target]), found[0])
    masks = regions_of(axes, ignore=False)
    assert_same(
        value_and_gradient(
            PlanLoss(text, spacing_mm=SPACING[axes], regions=True), logits_like(masks, 2), masks
        ),
        value_and_gradient(
            RegionWiseLoss(text, spacing_mm=SPACING[axes], activation="sigmoid"),
            logits_like(masks, 2),
            masks.float(),
        ),
    )


def naive_boundary(logits, target, spacing_mm):
    """Mean of p·z over voxels of classes 0..2, with SciPy's distances of each class."""
    probs = torch.softmax(logits.double(), dim=1).numpy()
    labels = target[:, 0].numpy()
    values = np.zeros(probs.shape)
    for image, k in itertools.product(range(len(labels)), range(3)):
        inside = labels[image] == k
        assert inside.any(), "the formula is for classes that are there"
        depth = distance_transform_edt(inside, sampling=spacing_mm)
        outside = distance_transform_edt(~inside, sampling=spacing_mm)
        values[image, k] = np.where(inside, min(spacing_mm) - depth, outside)
    counts = labels < 3
    return (values * probs).sum(axis=1)[counts].mean() / 3


@both_ranks
@pytest.mark.parametrize("ignore_label", [None, 3])
def test_map_is_measured_in_the_order_of_the_plans_axes(axes, ignore_label):
    """Against SciPy's distances, class by class; another order gives another value.

    Ignored voxels belong to no class: they end a region, and do not count.
    """
    target = labels_of(axes, ignore_label=ignore_label)
    logits = logits_like(target, 3)
    loss = PlanLoss("boundary", spacing_mm=SPACING[axes], ignore_label=ignore_label)
    found = float(loss(logits, target))
    assert found == pytest.approx(naive_boundary(logits, target, SPACING[axes]), rel=1e-5)
    turned = naive_boundary(logits, target, SPACING[axes][::-1])
    assert found != pytest.approx(turned, rel=1e-2)


@both_ranks
@pytest.mark.parametrize("least", [0.0, 1e-6])
def test_deep_supervision_is_the_weighted_sum_of_its_outputs(axes, least):
    """Each with labels and spacing of its own resolution; the last axis halves from the second."""
    first = labels_of(axes)
    strides = [(1,) * axes, (1,) * (axes - 1) + (2,), (2,) * (axes - 1) + (2,)]
    targets = [first]
    for stride in strides[1:]:
        size = [n // s for n, s in zip(first.shape[2:], stride, strict=True)]
        small = torch.nn.functional.interpolate(first.float(), size, mode="nearest-exact")
        targets.append(small.to(first.dtype))
    outputs = [logits_like(target, 3, seed).requires_grad_() for seed, target in enumerate(targets)]
    weights = halving_weights(3, last=least)
    loss = PlanLoss("boundary + dice", spacing_mm=SPACING[axes], head_weights=weights)
    naive = 0
    for output, target, stride, weight in zip(outputs, targets, strides, weights, strict=True):
        spacing = [mm * s for mm, s in zip(SPACING[axes], stride, strict=True)]
        naive = naive + weight * RegionWiseLoss("boundary + dice", spacing_mm=spacing)(
            output, target
        )
    value = loss(outputs, targets)
    torch.testing.assert_close(value, naive)
    wanted = torch.autograd.grad(naive, outputs)
    # A weight of 0 leaves its output out; so does nnU-Net.
    for found, want in zip(
        torch.autograd.grad(value, outputs, allow_unused=True), wanted, strict=True
    ):
        torch.testing.assert_close(torch.zeros_like(want) if found is None else found, want)


def test_weights_of_outputs():
    assert halving_weights(1, last=0.0) == [1.0]
    assert halving_weights(2, last=0.0) == [1.0, 0.0]
    assert halving_weights(4, last=0.0) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0.0])
    assert halving_weights(4, last=1e-6)[-1] == pytest.approx(1e-6 / 1.750001)


def test_a_batch_that_is_all_ignored_costs_nothing():
    target = torch.full((1, 1, 6, 6), 3, dtype=torch.int16)
    loss = PlanLoss("rectified", spacing_mm=(1, 1), ignore_label=3)
    value, gradient = value_and_gradient(loss, logits_like(target, 3), target)
    assert float(value) == 0
    assert not gradient.any()


@both_ranks
def test_regions_with_an_ignore_mask_behind_them(axes):
    given = regions_of(axes, ignore=True)
    logits = logits_like(given, 2)
    settings = {"spacing_mm": SPACING[axes], "regions": True, "ignore_label": 3}
    naive = 0  # a two-class problem for each region
    for k in range(2):
        labels = given[:, k].long().masked_fill(given[:, -1], 7)
        two = torch.stack([torch.zeros_like(logits[:, k]), logits[:, k]], dim=1)
        plain = RegionWiseLoss("rectified + dice", spacing_mm=SPACING[axes], ignore_index=7)
        naive = naive + plain(two, labels) / 2
    ignored = given[:, -1:].expand_as(logits)
    for dtype in (torch.bool, torch.int16, torch.float32):
        target = given.to(dtype)
        value, gradient = value_and_gradient(
            PlanLoss("rectified + dice", **settings), logits, target
        )
        torch.testing.assert_close(value, naive)
        assert not gradient[ignored].any()
        assert gradient[~ignored].any()
        deep = PlanLoss("rectified + dice", **settings, head_weights=[1.0, 0.0])
        both = deep([logits, logits[:, :, ::2]], [target, target[:, :, ::2]])
        torch.testing.assert_close(both, value)
    with pytest.raises(RWLossError, match="a mask of 0 and 1 for each channel"):
        PlanLoss("dice", **settings)(logits, given[:, :2])


def test_is_computed_in_float32_under_autocast():
    target = labels_of(2)
    logits = logits_like(target, 3).to(torch.bfloat16)
    loss = PlanLoss("rectified + dice", spacing_mm=SPACING[2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss, logits, target)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value, loss(logits.float(), target), rtol=0, atol=0)


def test_follows_the_epoch():
    loss = PlanLoss("blend(dice, boundary, step=None)", spacing_mm=SPACING[2])
    target = labels_of(2)
    logits = logits_like(target, 3)
    dice, boundary = (
        RegionWiseLoss(text, spacing_mm=SPACING[2])(logits, target) for text in ("dice", "boundary")
    )
    for epoch, wanted in ((0, dice), (9, 0.01 * dice + 0.99 * boundary)):
        loss.set_epoch(epoch, 10)
        torch.testing.assert_close(loss(logits, target), wanted)
    assert str(loss.expression) == str(maps.parse("blend(dice, boundary, step=None)"))
    assert repr(PlanLoss("dice", spacing_mm=(1, 2))) == "PlanLoss('dice', spacing_mm=(1.0, 2.0))"
