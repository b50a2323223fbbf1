"""The loss against torch.mean(softmax * map), its gradient against the closed form."""

import re

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps

SPACING = {2: (0.8, 2.5), 3: (0.8, 0.8, 2.5)}
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
each_shape = pytest.mark.parametrize("shape", [(11, 9), (6, 7, 5)], ids=str)


def given(shape, seed=91, num_classes=4, dtype=torch.float64):
    """Logits (b k *s) and labels (b *s)."""
    labels = batch(seed, shape, num_classes)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, num_classes, *shape, generator=generator, dtype=torch.float64)
    return (2 * logits).to(dtype).requires_grad_(), torch.as_tensor(labels)


def official_map(text, labels, spacing):
    return torch.as_tensor(OFFICIAL[text](labels.numpy(), [spacing] * len(labels)))


def official(logits, values):
    return torch.mean(torch.softmax(logits, dim=1) * values)


def assert_close(found, wanted, relative=2e-6):
    torch.testing.assert_close(
        found.detach().double(),
        wanted.detach().double(),
        rtol=relative,
        atol=relative * wanted.detach().abs().max().item(),
    )


# --- Value


def test_closed_form_of_one_voxel():
    """p = 1/4 for the true class: 3/4 is wrong, over four classes."""
    logits, target = torch.zeros(1, 4, 1, 1), torch.tensor([[[2]]])
    assert RegionWiseLoss("active_contour")(logits, target).item() == pytest.approx(0.75 / 4)
    assert RegionWiseLoss("rectified")(logits, target).item() == pytest.approx((0.75 - 0.25) / 4)
    assert RegionWiseLoss("boundary")(logits, target).item() == 0


@each_expression
@each_shape
def test_equals_the_official_mean(text, shape):
    logits, labels = given(shape)
    spacing = SPACING[len(shape)]
    values = official_map(text, labels, spacing)
    loss = RegionWiseLoss(text, spacing_mm=spacing)(logits, labels)
    assert loss.shape == ()
    assert_close(loss, official(logits, values))
    [gradient] = torch.autograd.grad(loss, logits)
    [wanted] = torch.autograd.grad(official(logits, values), logits)
    assert_close(gradient, wanted, 1e-5)


@each_expression
def test_spacing_is_one_by_default(text):
    logits, labels = given((11, 9))
    wanted = official(logits, official_map(text, labels, (1.0, 1.0)))
    assert_close(RegionWiseLoss(text)(logits, labels), wanted)


def test_generator_instead_of_its_text():
    logits, labels = given((11, 9))
    by_text = RegionWiseLoss("boundary(convention='valverde')")(logits, labels)
    assert RegionWiseLoss(maps.Boundary("valverde"))(logits, labels) == by_text


@each_expression
@each_shape
def test_target_in_every_form(text, shape):
    logits, labels = given(shape)
    loss = RegionWiseLoss(text)
    wanted = loss(logits, labels)
    one_hot = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1)
    forms = [labels[:, None], labels.long(), labels.float()]
    forms += [one_hot, one_hot.float(), one_hot.bool()]
    for target in forms:
        assert loss(logits, target) == wanted


# --- A stored map


@each_expression
@each_shape
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("form", ["own", "dense", "tensor"])
def test_stored_map(text, shape, kind, form):
    logits, labels = given(shape)
    spacing = SPACING[len(shape)]
    stored = maps.parse(text)(Regions(labels.numpy() if kind == "numpy" else labels, 4, spacing))
    if form == "dense":
        stored = RWMap.from_dense(stored.labels, stored.dense())
    elif form == "tensor":
        stored = torch.as_tensor(stored.dense())
    loss = RegionWiseLoss(text, spacing_mm=spacing)
    assert_close(loss(logits, labels, stored), loss(logits, labels), 1e-7)


def test_stored_map_takes_the_place_of_the_expression():
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels, 4))
    found = RegionWiseLoss("boundary")(logits, labels, stored)
    assert found == RegionWiseLoss("rectified")(logits, labels)


@pytest.mark.parametrize("text", ["rectified", "boundary"])
def test_stored_numpy_map_that_was_turned_with_its_image(text):
    """Views with negative strides, as numpy.flip and numpy.rot90 give them."""
    logits, labels = given((9, 9))
    stored = maps.parse(text)(Regions(labels.numpy(), 4))

    def turn(values, first):
        return np.rot90(np.flip(values, first), axes=(first, first + 1))

    parts = {
        name: turn(getattr(stored, name), 2 if name == "values" else 1)
        for name in ("true", "other", "values")
        if getattr(stored, name) is not None
    }
    turned = RWMap(turn(stored.labels, 1), 4, **parts)
    target = torch.as_tensor(turned.labels.copy())
    wanted = official(logits, torch.as_tensor(turn(stored.dense(), 2).copy()))
    loss = RegionWiseLoss(text)
    assert_close(loss(logits, target, turned), wanted)
    assert_close(loss(logits, target, turn(stored.dense(), 2)), wanted)
    with pytest.raises(RWLossError, match="made from other labels than the target"):
        loss(logits, labels, turned)


@pytest.mark.parametrize("change", ["read-only", "big-endian", "float64", "float16"])
def test_stored_numpy_map_in_other_memory(change):
    logits, labels = given((11, 9))
    stored = maps.ActiveContour()(Regions(labels.numpy(), 4)).dense()
    values = {
        "read-only": stored,
        "big-endian": stored.astype(">f4"),
        "float64": stored.astype(np.float64),
        "float16": stored.astype(np.float16),
    }[change]
    values.flags.writeable = False
    wanted = RegionWiseLoss("active_contour")(logits, labels)
    assert_close(RegionWiseLoss("active_contour")(logits, labels, values), wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", ">i2"])
def test_stored_map_with_labels_of_another_type(dtype):
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels.numpy(), 4))
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
    logits, labels = torch.zeros(1, 300, 2, 2), torch.ones((1, 2, 2), dtype=torch.uint8)
    stored = maps.Rectified()(Regions(labels.long() + 256, 300))
    with pytest.raises(RWLossError, match="made from other labels"):
        RegionWiseLoss("rectified")(logits, labels, stored)


def test_stored_map_of_other_classes_is_refused():
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels, 5))
    with pytest.raises(RWLossError, match=r"map has 5 classes, logits have 4: pass num_classes=4"):
        RegionWiseLoss("rectified")(logits, labels, stored)


def test_stored_map_of_another_shape_is_refused():
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels[:, 1:], 4))
    message = "map is of labels (3, 10, 9), the target has (3, 11, 9): crop or turn the map"
    with pytest.raises(RWLossError, match=re.escape(message)):
        RegionWiseLoss("rectified")(logits, labels, stored)


@pytest.mark.parametrize(
    "shape", [(3, 4, 11, 8), (3, 3, 11, 9), (1, 4, 11, 9), (3, 11, 9), (4, 11, 9)], ids=str
)
def test_tensor_of_another_shape_is_refused(shape):
    """No silent broadcasting."""
    logits, labels = given((11, 9))
    message = f"map {shape} does not fit logits (3, 4, 11, 9)"
    with pytest.raises(RWLossError, match=re.escape(message)):
        RegionWiseLoss("rectified")(logits, labels, torch.zeros(shape))


# --- Gradient


@each_expression
def test_gradient_is_the_closed_form(text):
    """dL/dlogit_k = p_k (z_k - sum_j p_j z_j) / (B K N)."""
    logits, labels = given((11, 9))
    z = official_map(text, labels, (1.0, 1.0))
    p = torch.softmax(logits, dim=1)
    wanted = p * (z - (p * z).sum(dim=1, keepdim=True)) / logits.numel()
    loss = RegionWiseLoss(text)(logits, labels, z)
    [gradient] = torch.autograd.grad(loss, logits)
    assert_close(gradient, wanted, 1e-12)


def test_gradient_of_a_compact_map_is_its_closed_form():
    """With a at the wrong classes and b at the true one: -(a - b) p_t ([k = t] - p_k) / (B K N)."""
    logits, labels = given((11, 9))
    stored = maps.Rectified()(Regions(labels, 4))
    p = torch.softmax(logits, dim=1)
    is_true = labels[:, None] == torch.arange(4).reshape(1, 4, 1, 1)
    p_true = (p * is_true).sum(dim=1, keepdim=True)
    gap = (stored.other.double() - stored.true.double())[:, None]
    wanted = -gap * p_true * (is_true.double() - p) / logits.numel()
    [gradient] = torch.autograd.grad(RegionWiseLoss("rectified")(logits, labels, stored), logits)
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
    [before] = torch.autograd.grad(loss(logits, labels, z), logits)
    moved = z + torch.randn(3, 1, 11, 9, generator=torch.Generator().manual_seed(0))
    [after] = torch.autograd.grad(loss(logits, labels, moved), logits)
    assert_close(after, before, 1e-12)


def test_no_gradient_flows_into_the_map():
    logits, labels = given((11, 9))
    values = torch.rand(3, 4, 11, 9, dtype=torch.float64, requires_grad=True)
    RegionWiseLoss("rectified")(logits, labels, values).backward()
    assert values.grad is None
    assert logits.grad is not None


# --- Reductions and background


@each_expression
@pytest.mark.parametrize("include_background", [True, False])
def test_reductions(text, include_background):
    logits, labels = given((11, 9))
    cost = torch.softmax(logits, dim=1) * official_map(text, labels, (1.0, 1.0))
    if not include_background:
        cost = cost[:, 1:]  # after the softmax, and the mean is over K - 1
    for reduction, wanted in {"none": cost, "sum": cost.sum(), "mean": cost.mean()}.items():
        loss = RegionWiseLoss(text, include_background=include_background, reduction=reduction)
        found = loss(logits, labels)
        assert found.shape == wanted.shape
        assert_close(found, wanted)


def test_unknown_reduction():
    with pytest.raises(
        RWLossError, match=r"unknown reduction 'max'.*expected one of mean, sum, none"
    ):
        RegionWiseLoss("rectified", reduction="max")


# --- Spacing


def test_spacing_of_the_call_goes_before_that_of_the_constructor():
    logits, labels = given((11, 9))
    loss = RegionWiseLoss("boundary", spacing_mm=(1.0, 1.0))
    wanted = RegionWiseLoss("boundary", spacing_mm=(0.8, 2.5))(logits, labels)
    assert loss(logits, labels, spacing_mm=(0.8, 2.5)) == wanted
    assert loss(logits, labels) != wanted


def test_spacing_of_each_image():
    logits, labels = given((11, 9))
    spacings = [(1.0, 1.0), (0.8, 2.5), (3.0, 0.5)]
    values = torch.as_tensor(plain.boundary(labels.numpy(), 4, spacings))
    loss = RegionWiseLoss("boundary")
    assert_close(loss(logits, labels, spacing_mm=spacings), official(logits, values))
    by_tensor = loss(logits, labels, spacing_mm=torch.tensor(spacings, dtype=torch.float64))
    assert_close(by_tensor, official(logits, values))


def test_spacing_that_does_not_fit():
    logits, labels = given((11, 9))
    with pytest.raises(RWLossError, match="expected a spacing for each of 2 axes"):
        RegionWiseLoss("boundary", spacing_mm=(1, 1, 1))(logits, labels)


# --- Ignored voxels


@each_expression
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_ignored_voxels_cost_nothing_and_do_not_count(text, dtype):
    logits, labels = given((11, 9))
    labels = labels.to(dtype)
    labels[:, :, 6:] = 255 if dtype == torch.uint8 else -1
    ignore_label = int(labels[0, 0, -1])
    plain_labels = torch.where(labels == ignore_label, -1, labels.int())
    values = official_map(text, plain_labels, (1.0, 1.0))
    assert not values[:, :, :, 6:].any()
    loss = RegionWiseLoss(text, ignore_index=ignore_label)
    found = loss(logits, labels)
    wanted = official(logits[..., :6], values[..., :6])  # the official mean over what is left
    assert_close(found, wanted)
    [gradient] = torch.autograd.grad(found, logits)
    assert not gradient[..., 6:].any()
    for kind in (labels.numpy(), labels):
        stored = maps.parse(text)(Regions(kind, 4, ignore_label=ignore_label))
        assert_close(loss(logits, labels, stored), wanted)


def test_ignored_voxels_of_a_dense_tensor():
    """The values don't know, the target does."""
    logits, labels = given((11, 9))
    labels[:, :, 6:] = 255
    values = torch.ones(3, 4, 11, 9)
    cost = RegionWiseLoss("boundary", ignore_index=255, reduction="none")(logits, labels, values)
    assert_close(cost, torch.softmax(logits, dim=1) * (labels != 255)[:, None])
    assert (values == 1).all()


def test_ignored_label_without_saying_so():
    logits, labels = given((11, 9))
    labels[0, 0, 0] = 255
    with pytest.raises(RWLossError, match="label 255 found, but num_classes=4 allows"):
        RegionWiseLoss("rectified")(logits, labels)


# --- Precision


@each_expression
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(text, dtype):
    logits, labels = given((11, 9), dtype=dtype)
    wide = logits.detach().float().requires_grad_()
    loss = RegionWiseLoss(text)
    found, wanted = loss(logits, labels), loss(wide, labels)
    assert found.dtype == torch.float32
    assert found == wanted
    [gradient] = torch.autograd.grad(found, logits)
    [wide_gradient] = torch.autograd.grad(wanted, wide)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, wide_gradient.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_off_inside(dtype):
    logits, labels = given((11, 9), dtype=torch.float32)
    wanted = RegionWiseLoss("boundary")(logits, labels)
    with torch.autocast("cpu", dtype=dtype):
        found = RegionWiseLoss("boundary")(logits, labels)
    assert found.dtype == torch.float32
    assert found == wanted


def test_double_precision_is_kept():
    logits, labels = given((11, 9))
    values = official_map("rectified", labels, (1.0, 1.0))
    found = RegionWiseLoss("rectified")(logits, labels, values)
    assert found.dtype == torch.float64
    assert_close(found, official(logits, values), 1e-14)


# --- Wrong use


def test_one_channel_of_logits():
    with pytest.raises(RWLossError, match=r"expected logits with 2 classes or more .* got 1"):
        RegionWiseLoss("rectified")(torch.zeros(2, 1, 4, 5), torch.zeros(2, 4, 5))


def test_shapes_that_do_not_fit_are_named():
    message = "target (2, 5, 4) does not fit logits (2, 3, 4, 5)"
    with pytest.raises(RWLossError, match=re.escape(message)):
        RegionWiseLoss("rectified")(torch.zeros(2, 3, 4, 5), torch.zeros(2, 5, 4))


def test_channels_that_are_not_one_hot():
    logits, _ = given((11, 9))
    soft = torch.softmax(logits.detach(), dim=1)
    with pytest.raises(RWLossError, match="is not one-hot"):
        RegionWiseLoss("rectified")(logits, soft)


@pytest.mark.parametrize("label", [-1, 4])
def test_label_that_is_no_class(label):
    logits, labels = given((11, 9))
    labels = labels.long()
    labels[0, 0, 0] = label
    with pytest.raises(RWLossError, match=rf"label {label} found, but num_classes=4 allows 0\.\.3"):
        RegionWiseLoss("rectified")(logits, labels)


def test_unknown_map_names_the_nearest():
    with pytest.raises(RWLossError, match="unknown map 'rectifed': did you mean 'rectified'"):
        RegionWiseLoss("rectifed")


@pytest.mark.parametrize("expression", [None, maps.Rectified, 1.0], ids=str)
def test_expression_that_is_no_generator(expression):
    with pytest.raises(RWLossError, match="expected an expression or its text, got"):
        RegionWiseLoss(expression)


def test_printing_names_the_expression():
    text = repr(RegionWiseLoss("boundary(convention='valverde')"))
    assert "boundary(convention='valverde')" in text
