"""Dynamic terms: the map has the gradient of the loss, and what a loss of probabilities may be."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from anatomy import anatomy, batch
from dynamic_terms import (
    assert_same_gradient,
    assert_same_loss,
    brier,
    drawn_logits,
    each_term,
    gradient,
    one_hot_of,
    own_loss,
    target_of,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, dynamic_generators, few, seeds
from torch.nn.functional import log_softmax, softmax

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.maps import Prediction, from_loss

SHAPES = [((7, 6), (1.0, 1.0)), ((7, 6), (0.8, 2.5)), ((5, 4, 6), (0.8, 1.0, 2.5))]


def assert_map_has_the_gradient_of_the_loss(
    term, labels, num_classes, spacing=None, seed=0, device="cpu"
):
    """Mean over batch, classes and voxels that count of p·z, with z a constant."""
    ignore = -1 if (labels == -1).any() else None
    target = torch.as_tensor(labels.astype(np.int64), device=device)
    regions = Regions(target, num_classes, spacing, ignore)
    logits = drawn_logits(seed, labels, num_classes).to(device).requires_grad_()
    probs = softmax(logits, dim=1)
    z = term(regions, probs).dense()
    assert z.dtype == torch.float64
    assert not z.requires_grad
    counted = max(1, int((labels >= 0).sum()))
    found = gradient((probs * z).sum() / (num_classes * counted), logits)
    loss = own_loss(term, logits, regions)
    wanted = gradient(loss, logits)
    assert_same_gradient(found, wanted)
    whole = RegionWiseLoss(term, spacing_mm=spacing, ignore_index=ignore)(logits, regions.labels)
    assert whole.item() == pytest.approx(loss.item(), rel=1e-12, abs=1e-15)
    assert_same_gradient(gradient(whole, logits), wanted)
    return found


# --- The gradient of the map is that of the loss


@each_term
def test_logit_gradient_of_the_map(term, device):
    for shape, spacing in SHAPES:
        labels = batch(101, shape)
        found = assert_map_has_the_gradient_of_the_loss(term, labels, 4, spacing, device=device)
        assert found.abs().max() > 0
    for smallest in [(1, 1), (1, 5), (1, 1, 1)]:
        assert_map_has_the_gradient_of_the_loss(term, np.ones((2, *smallest), dtype=np.int64), 2)


@each_term
def test_logit_gradient_with_absent_full_and_ignored(term, device):
    """Class 3 is nowhere; image 0 is all class 1; a part of image 1, all of image 2 is ignored."""
    labels = batch(102, (7, 6), 3).astype(np.int64)
    labels[0] = 1
    labels[1, 2:5] = -1
    labels[2] = -1
    found = assert_map_has_the_gradient_of_the_loss(term, labels, 4, (0.8, 2.5), device=device)
    assert not found[2].any()
    assert not found[1, :, 2:5].any()


@few
@given(dynamic_generators, seeds, st.integers(2, 8))
def test_logit_gradient_of_any_term(term, rng, num_classes):
    shape = (2, *rng.integers(1, 5, rng.integers(2, 4)))
    labels = rng.integers(-1, num_classes, shape)
    spacing = tuple(rng.uniform(0.5, 3.0, len(shape) - 1))
    assert_map_has_the_gradient_of_the_loss(term, labels, num_classes, spacing, seed=num_classes)


@each_term
def test_gradcheck(term):
    labels = torch.as_tensor(batch(103, (4, 3), 3, size=1).astype(np.int64))
    labels[0, 1, 1] = -1
    regions = Regions(labels, 3, (0.8, 2.5), ignore_label=-1)
    logits = drawn_logits(3, labels, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: own_loss(term, given, regions), logits)


@each_term
def test_map_of_a_stabilized_term_drives_the_loss(term, device):
    labels = torch.as_tensor(batch(104, (7, 6)).astype(np.int64), device=device)
    logits = drawn_logits(4, labels, 4).to(device).requires_grad_()
    probs = softmax(logits, dim=1)
    z = term.stabilized()(Regions(labels, 4), probs.detach())
    assert z.is_compact
    wanted = gradient((probs * z.dense()).mean(), logits)
    loss = RegionWiseLoss(term.stabilized())(logits, labels)
    assert_same_gradient(gradient(loss, logits), wanted)
    assert loss.item() == pytest.approx(RegionWiseLoss(term)(logits, labels).item())


@each_term
def test_logit_margins_of_200(term, device):
    labels = torch.as_tensor(batch(108, (7, 6)).astype(np.int64), device=device)
    labels[2] = 1
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for dtype, towards in itertools.product(dtypes, (labels, (labels + 1) % 4)):
        logits = (200 * one_hot_of(towards.cpu(), 4)).to(device, dtype).requires_grad_()
        loss = RegionWiseLoss(term)(logits, labels)
        assert loss.isfinite()
        assert loss.dtype == torch.float32
        assert gradient(loss, logits).isfinite().all()
        probs = softmax(logits.detach().float(), dim=1).to(dtype)
        assert towards is labels or (probs.cpu() * one_hot_of(labels.cpu(), 4)).max() < 1e-30
        z = term(Regions(labels, 4), probs).dense()
        assert z.dtype == torch.float32
        assert z.isfinite().all()


@each_term
def test_autocast_and_no_grad_change_nothing(term, device):
    regions = Regions(torch.as_tensor(batch(109, (7, 6)).astype(np.int64), device=device), 4)
    probs = softmax(drawn_logits(0, regions.labels, 4).float(), dim=1).to(device)
    wanted = term(regions, probs).dense()
    # Sums over the objects of an image are added in any order on a GPU.
    rtol = 1e-6 if device == "cuda" and term.name in {"blob", "cc_dice_ce"} else 0
    with torch.autocast(device, dtype=torch.bfloat16):
        torch.testing.assert_close(term(regions, probs).dense(), wanted, rtol=rtol, atol=0)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = term(Regions(regions.labels.clone(), 4), probs.clone()).dense()
            torch.testing.assert_close(found, wanted, rtol=rtol, atol=0)


# --- NumPy and torch


@each_term
def test_numpy_and_torch_give_the_same(term):
    labels = batch(110, (7, 6))
    probs = softmax(drawn_logits(0, labels, 4), dim=1).numpy()
    wanted = term(Regions(torch.as_tensor(labels.astype(int)), 4), torch.as_tensor(probs)).dense()
    for kind, probs_kind in itertools.product(KINDS.values(), KINDS.values()):
        regions = Regions(kind(labels), 4)
        found = term(regions, probs_kind(probs))
        assert found.labels is regions.labels
        assert isinstance(found.values, type(regions.labels))
        np.testing.assert_array_equal(found.dense(), wanted)


def test_labels_of_any_type_and_arrays_in_any_memory_order():
    labels = (batch(110, (7, 6)) > 0).astype(np.int64)
    probs = np.random.default_rng(0).dirichlet((1, 1), labels.shape).transpose(0, 3, 1, 2)
    wanted = maps.Dice()(Regions(labels, 2), np.ascontiguousarray(probs)).dense()
    for dtype in [bool, np.int8, np.uint16, np.uint32, ">i4", np.float32]:
        found = maps.Dice()(Regions(labels.astype(dtype), 2), probs).dense()
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    turned = maps.Dice()(Regions(labels[:, ::-1], 2), probs[:, :, ::-1]).dense()
    np.testing.assert_allclose(turned[:, :, ::-1], wanted, rtol=1e-12)
    swapped = maps.Dice()(Regions(labels, 2), probs.astype(">f8")).dense()
    np.testing.assert_allclose(swapped, wanted, rtol=1e-12)


def test_type_of_the_map_is_that_of_the_probabilities_at_least_float32():
    regions = Regions(batch(110, (7, 6)), 4)
    for given_type, wanted in [("f4", "f4"), ("f8", "f8"), ("f2", "f4")]:
        probs = np.full((3, 4, 7, 6), 0.25, dtype=given_type)
        assert maps.Dice()(regions, probs).dense().dtype == np.dtype(wanted)


def test_the_probabilities_are_left_alone():
    labels = torch.as_tensor(anatomy(5, (7, 6))[None].astype(int))
    probs = torch.zeros(1, 4, 7, 6)
    maps.CrossEntropy()(Regions(labels, 4), probs)
    assert not probs.any()
    assert not probs.requires_grad


# --- What is wrong with the call


@each_term
def test_probabilities_are_missing_or_of_another_shape(term):
    regions = Regions(batch(111, (7, 6)), 4)
    with pytest.raises(RWLossError, match=f"{term.name} is dynamic, .* call it with probs"):
        term(regions)
    for shape in [(3, 3, 7, 6), (3, 4, 6, 7), (1, 4, 7, 6), (3, 7, 6), ()]:
        message = rf"{term.name}: probs \(.*\), expected \(3, 4, 7, 6\)"
        with pytest.raises(RWLossError, match=message):
            term(regions, np.ones(shape))


@pytest.mark.parametrize(
    ("generator", "name", "lowest"),
    [
        (maps.Dice, "smooth", "greater than 0"),
        (maps.Focal, "gamma", "at least 0"),
        (maps.Tversky, "alpha", "at least 0"),
        (maps.Tversky, "beta", "at least 0"),
        (maps.Tversky, "smooth", "greater than 0"),
        (maps.FocalTversky, "gamma", "greater than 0"),
        (maps.FocalTversky, "alpha", "at least 0"),
        (maps.HausdorffDT, "alpha", "greater than 0"),
        (maps.GeneralizedSurface, "alpha", "greater than 0"),
        (maps.BoundaryDoU, "smooth", "greater than 0"),
        (maps.AsymmetricFocal, "delta", "at least 0"),
        (maps.UnifiedFocal, "gamma", "at least 0"),
        (maps.TvMFDice, "kappa", "at least 0"),
        (maps.SVLS, "sigma", "greater than 0"),
    ],
)
def test_parameters_out_of_range(generator, name, lowest):
    for bad in (-0.1, *[0.0] * (lowest == "greater than 0")):
        with pytest.raises(RWLossError, match=rf"\({name}={bad}\): .*number {lowest}"):
            generator(**{name: bad})
    for bad in (math.nan, math.inf):
        with pytest.raises(RWLossError, match="must be a finite number"):
            generator(**{name: bad})


# --- from_loss


def test_a_loss_and_its_map_by_hand():
    """d/dp of the mean over voxels of Σ (p - y)², times the number of classes and voxels."""
    labels = batch(112, (7, 6))
    truth = one_hot_of(labels, 4)
    assert_same_loss(from_loss(brier), lambda z: brier(softmax(z, dim=1), truth), labels)
    probs = softmax(drawn_logits(0, labels, 4), dim=1)
    found = from_loss(brier)(Regions(labels, 4), probs).dense()
    np.testing.assert_allclose(found, 2 * 4 * (probs - truth), rtol=1e-9, atol=1e-12)


def test_a_loss_of_monai():
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    labels = batch(105, (9, 8))
    term = from_loss(monai.DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5))
    assert str(term) == "DiceLoss"
    dice = RegionWiseLoss("dice")
    assert_same_loss(term, lambda logits: dice(logits, target_of(labels)), labels)


# --- By image and class


@each_term
def test_the_loss_is_the_mean_of_its_values_by_image_and_class(term, device):
    labels = torch.as_tensor(batch(116, (7, 6)).astype(np.int64))
    labels[1, 2:5] = -1
    logits = drawn_logits(0, labels, 4).to(device)
    prediction = Prediction.of(log_softmax(logits, dim=1), labels.to(device), ((0.8, 2.5),) * 3)
    values = term.by_image_and_class(prediction)
    assert values.shape == (3, 4)
    torch.testing.assert_close(values.mean(), term.value(prediction), rtol=1e-12, atol=0)


def test_values_by_image_and_class_by_hand():
    """One of two images is ignored but for a voxel; p_t is 1/4 at its and 1/2 at the other ten."""
    labels = torch.tensor([[[0] * 5 + [1] * 5], [[1] + [-1] * 9]])
    probs = torch.full((2, 2, 1, 10), 0.5, dtype=torch.float64)
    probs[1, :, 0, 0] = torch.tensor([0.75, 0.25])
    prediction = Prediction.of(probs.log(), labels, ((1.0, 1.0),) * 2)
    found = maps.CrossEntropy().by_image_and_class(prediction)
    wanted = torch.tensor([[5.0, 5.0], [0.0, 2.0]], dtype=torch.float64) * math.log(2) * 4 / 11
    torch.testing.assert_close(found, wanted)
    dice = maps.Dice().by_image_and_class(prediction)
    wanted = 1 - torch.tensor([[0.5, 0.5], [0.0, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(dice, wanted, rtol=0, atol=1e-4)


def test_one_number_is_the_value_of_every_image_and_class():
    labels = torch.as_tensor(batch(116, (7, 6)).astype(np.int64))
    prediction = Prediction.of(log_softmax(drawn_logits(0, labels, 4), dim=1), labels, ())
    scalar = from_loss(lambda p, y: (p * y).mean())
    by_class = from_loss(lambda p, y: (p * y).mean(dim=(2, 3)))
    values = scalar.by_image_and_class(prediction)
    assert values.shape == (3, 4)
    assert (values == scalar.value(prediction)).all()
    torch.testing.assert_close(by_class.value(prediction), scalar.value(prediction))
    assert by_class.by_image_and_class(prediction).std() > 0


def test_logits_that_are_not_finite_are_no_fault_of_the_term():
    logits = torch.full((1, 2, 3, 3), math.nan, requires_grad=True)
    assert RegionWiseLoss("dice")(logits, torch.zeros(1, 3, 3).long()).isnan()


def test_names_of_losses():
    assert from_loss(brier).name == "brier"
    assert from_loss(brier, name="mine").name == "mine"
    assert str(from_loss(brier) + 2 * from_loss(brier, name="mine")) == "brier + 2 * mine"
    assert from_loss(brier) == from_loss(brier)
    assert from_loss(brier) != from_loss(brier, minimum=-1.0)
    assert hash(from_loss(brier)) == hash(from_loss(brier))


def test_ignored_voxels_are_zero_in_both():
    seen = {}

    def look(probs, truth):
        seen.update(probs=probs.detach().clone(), truth=truth.clone())
        return probs.sum()

    labels = batch(113, (7, 6)).astype(int)
    labels[1, 3:] = -1
    probs = np.full((3, 4, 7, 6), 0.25)
    from_loss(look)(Regions(labels, 4, ignore_label=-1), probs)
    torch.testing.assert_close(seen["truth"], one_hot_of(labels, 4))
    assert not seen["probs"][1, :, 3:].any()
    torch.testing.assert_close(seen["probs"].sum(dim=1), torch.as_tensor((labels >= 0) * 1.0))


@pytest.mark.parametrize("fn", [None, 1, "dice", maps.Dice()], ids=str)
def test_a_loss_is_a_function_of_probabilities(fn):
    with pytest.raises(RWLossError, match="from_loss: expected a function of"):
        from_loss(fn)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda p, y: p, r"one value per image and class \(3, 4\), .* got shape \(3, 4, 7, 6\)"),
        (lambda p, y: p.sum(dim=(1, 2, 3)), r"got shape \(3,\)"),
        (lambda p, y: 1.0, r"or one number \(\), got 1.0"),
        (lambda p, y: None, "got None"),
        (lambda p, y: y.sum(), "does not depend on the probabilities"),
        (lambda p, y: p.detach().sum(), "does not depend on the probabilities"),
        (lambda p, y: p.sum() / 0, "its loss is not finite"),
        (lambda p, y: p.sum() * torch.inf, "its loss is not finite"),
        (lambda p, y: (p.sum() - p.sum()).sqrt(), "values that are not finite"),
    ],
)
def test_losses_that_are_none(fn, message):
    term = from_loss(fn, name="mine")
    with pytest.raises(RWLossError, match=f"mine: .*{message}"):
        term(Regions(batch(114, (7, 6)), 4), np.full((3, 4, 7, 6), 0.25))


@pytest.mark.parametrize("name", maps.names())
def test_no_voxels(name, device):
    """An empty batch costs nothing, and makes an empty map."""
    for shape in [(0, 6, 7), (2, 0, 7), (0, 3, 4, 5)]:
        labels = torch.zeros(shape, dtype=torch.long, device=device)
        logits = torch.zeros(shape[0], 4, *shape[1:], device=device, requires_grad=True)
        image = torch.zeros(shape[0], 2, *shape[1:], device=device)
        rwmap = maps.get(name)(Regions(labels, 4, image=image), softmax(logits, dim=1))
        assert rwmap.dense().shape == logits.shape
        loss = RegionWiseLoss(name)(logits, labels, image=image)
        assert loss.item() == 0
        assert gradient(loss, logits).shape == logits.shape


# --- Without the background


@each_term
def test_a_term_without_the_background(term, device):
    """Its mean is over the other classes alone, as with `include_background` of the whole loss."""
    others = replace(term, include_background=False)
    labels = batch(118, (7, 6)).astype(np.int64)
    labels[1, 2:5] = -1
    assert_map_has_the_gradient_of_the_loss(others, labels, 4, (0.8, 2.5), device=device)
    given = {"spacing_mm": (0.8, 2.5), "ignore_index": -1}
    whole = RegionWiseLoss(term, include_background=False, **given)
    target = torch.as_tensor(labels)
    assert_same_loss(others, lambda logits: whole(logits, target), labels, device, (0.8, 2.5))
    again = RegionWiseLoss(others, include_background=False, **given)
    logits = drawn_logits(0, labels, 4)
    assert again(logits, target).item() == whole(logits, target).item()
    regions = Regions(target, 4, ignore_label=-1)
    assert not others(regions, softmax(logits, dim=1)).dense()[:, 0].any()


def test_other_log_probs_leave_nothing_of_those_of_before():
    logits, other = torch.randn(2, 2, 2, 4, 4).unbind()
    labels, spacings = torch.zeros(2, 4, 4, dtype=torch.long), ((1.0, 1.0),) * 2
    before = softmax(logits, 1)
    made = Prediction.of(
        before.log(), labels, spacings, all_count=True, probs=before, is_softmax=True,
        sums=lambda: (torch.zeros(2, 2),) * 3,
    )  # fmt: skip
    given = log_softmax(other, 1)
    for whole, log_probs in ((made, given), (made.without_background, given[:, 1:])):
        found = whole.with_log_probs(log_probs)
        torch.testing.assert_close(found.probs, log_probs.exp())
        torch.testing.assert_close(found.log_rest, (-log_probs.expm1()).log())
        torch.testing.assert_close(found.overlap()[1], log_probs.exp().sum(dim=(2, 3)))
