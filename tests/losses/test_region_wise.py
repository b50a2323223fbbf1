"""The loss against torch.mean(softmax * map), its gradient against the closed form."""

import loss_batches
import plain_formulas as plain
import pytest
import torch
from loss_batches import assert_close, here, normal, uniform, value_and_gradient

from rwloss import Regions, RegionWiseLoss, maps

RULES = {
    "inverse": lambda n: 1 / n,
    "inverse_square": lambda n: 1 / n**2,
    "effective_number": lambda n: (1 - 0.9999) / (1 - 0.9999**n),
}
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
# Each built-in as text, with the plain formula of its dense map.
OFFICIAL = {
    "rectified": lambda y, s: plain.rectified(y, 4, s),
    "active_contour": lambda y, s: plain.active_contour(y, 4),
    "boundary": lambda y, s: plain.boundary(y, 4, s),
    "boundary(convention='valverde')": lambda y, s: plain.boundary(y, 4, s, "valverde"),
    "boundary(normalize='max')": lambda y, s: plain.boundary(y, 4, s, normalize="max"),
    "class_weighted": lambda y, s: plain.class_weighted(y, 4, RULES["inverse"]),
    "class_weighted(weights='inverse_square')": lambda y, s: plain.class_weighted(
        y, 4, RULES["inverse_square"]
    ),
    "class_weighted(weights='effective_number')": lambda y, s: plain.class_weighted(
        y, 4, RULES["effective_number"]
    ),
    f"class_weighted(weights={WEIGHTS})": lambda y, s: plain.class_weighted(y, 4, WEIGHTS),
}
each_expression = pytest.mark.parametrize("text", OFFICIAL)


def given(shape):
    """Logits (b k *s) with gradient, and labels (b *s)."""
    logits, labels = loss_batches.given(shape)
    return logits.requires_grad_(), labels


def official_map(text, labels, spacing):
    return here(OFFICIAL[text](labels.cpu().numpy(), [spacing] * len(labels)))


def official(logits, values):
    return torch.mean(torch.softmax(logits, dim=1) * values)


# --- Value


def test_closed_form_of_one_voxel():
    """p = 1/4 for the true class: 3/4 is wrong, over four classes."""
    logits, target = here(torch.zeros(1, 4, 1, 1)), here([[[2]]])
    assert RegionWiseLoss("active_contour")(logits, target).item() == pytest.approx(0.75 / 4)
    assert RegionWiseLoss("rectified")(logits, target).item() == pytest.approx((0.75 - 0.25) / 4)
    assert RegionWiseLoss("boundary")(logits, target).item() == 0


@each_expression
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((11, 9), None), ((11, 9), (0.8, 2.5)), ((6, 7, 5), (0.8, 0.8, 2.5))],
    ids=str,
)
def test_equals_the_official_mean(text, shape, spacing):
    """The spacing is 1 by default."""
    logits, labels = given(shape)
    values = official_map(text, labels, spacing or (1.0, 1.0))
    found = value_and_gradient(RegionWiseLoss(text, spacing_mm=spacing), logits, labels)
    wanted = value_and_gradient(official, logits, values)
    assert found[0].shape == ()
    assert_close(found[0], wanted[0])
    assert_close(found[1], wanted[1], 1e-5)


def test_generator_instead_of_its_text():
    logits, labels = given((11, 9))
    by_text = RegionWiseLoss("boundary(convention='valverde')")(logits, labels)
    assert RegionWiseLoss(maps.Boundary("valverde"))(logits, labels) == by_text


# --- Gradient


@each_expression
def test_gradient_is_the_closed_form(text):
    """dL/dlogit_k = p_k (z_k - sum_j p_j z_j) / (B K N), for compact and dense maps."""
    logits, labels = given((11, 9))
    stored = maps.parse(text)(Regions(labels, 4))
    z, p = stored.dense().double(), torch.softmax(logits, dim=1)
    wanted = p * (z - (p * z).sum(dim=1, keepdim=True)) / logits.numel()
    for rwmap in (stored, z):
        _, gradient = value_and_gradient(RegionWiseLoss(text), logits, labels, rwmap)
        assert_close(gradient, wanted, 1e-12)


@pytest.mark.parametrize("text", ["rectified", "boundary", "class_weighted", "active_contour"])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(text, include_background, reduction):
    logits, labels = (tensor[:1].detach() for tensor in given((3, 2)))
    stored = maps.parse(text)(Regions(labels, 4))
    loss = RegionWiseLoss(text, include_background=include_background, reduction=reduction)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, stored), logits.requires_grad_())


@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_constant_added_to_a_voxel_changes_no_gradient(text):
    logits, labels = given((11, 9))
    z = official_map(text, labels, (1.0, 1.0))
    loss = RegionWiseLoss(text)
    _, before = value_and_gradient(loss, logits, labels, z)
    _, after = value_and_gradient(loss, logits, labels, z + normal(3, 1, 11, 9))
    assert_close(after, before, 1e-12)


def test_no_gradient_flows_into_the_map():
    logits, labels = given((11, 9))
    values = uniform(3, 4, 11, 9, dtype=torch.float64).requires_grad_()
    RegionWiseLoss("rectified")(logits, labels, values).backward()
    assert values.grad is None
    assert logits.grad is not None


# --- Reductions and background


@each_expression
@pytest.mark.parametrize("shape", [(11, 9), (6, 7, 5)], ids=str)
@pytest.mark.parametrize("include_background", [True, False])
def test_reductions(text, shape, include_background):
    logits, labels = given(shape)
    cost = torch.softmax(logits, dim=1) * official_map(text, labels, (1.0,) * len(shape))
    if not include_background:
        cost = cost[:, 1:]  # after the softmax, and the mean is over K - 1
    for reduction, wanted in {"none": cost, "sum": cost.sum(), "mean": cost.mean()}.items():
        loss = RegionWiseLoss(text, include_background=include_background, reduction=reduction)
        found = loss(logits, labels)
        assert found.shape == wanted.shape
        assert_close(found, wanted)


# --- Spacing


def test_spacing_of_the_call_goes_before_that_of_the_constructor():
    logits, labels = given((11, 9))
    loss = RegionWiseLoss("boundary", spacing_mm=(1.0, 1.0))
    wanted = RegionWiseLoss("boundary", spacing_mm=(0.8, 2.5))(logits, labels)
    assert loss(logits, labels, spacing_mm=(0.8, 2.5)) == wanted
    assert loss(logits, labels) != wanted
