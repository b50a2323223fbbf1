"""Dynamic terms: value and logit gradient against PyTorch, MONAI and plain loops."""

import itertools
import math
from dataclasses import replace

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import anatomy, batch
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, dynamic_generators, few, seeds
from torch.nn import functional
from torch.nn.functional import log_softmax, one_hot, softmax

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.maps import Prediction, from_loss

SHAPES = [((7, 6), (1.0, 1.0)), ((7, 6), (0.8, 2.5)), ((5, 4, 6), (0.8, 1.0, 2.5))]


def brier(probs, truth):
    return ((probs - truth) ** 2).sum(dim=1).mean()


TERMS = {
    "cross_entropy": maps.CrossEntropy(),
    "focal": maps.Focal(),
    "focal 0": maps.Focal(gamma=0.0),
    "focal 0.5": maps.Focal(gamma=0.5),
    "dice": maps.Dice(),
    "dice smooth": maps.Dice(smooth=1.0),
    "generalized_dice": maps.GeneralizedDice(),
    "tversky": maps.Tversky(),
    "tversky 1 0": maps.Tversky(alpha=1.0, beta=0.0),
    "focal_tversky": maps.FocalTversky(),
    "focal_tversky 0.5": maps.FocalTversky(gamma=0.5),
    "hausdorff_dt": maps.HausdorffDT(),
    "hausdorff_dt 1": maps.HausdorffDT(alpha=1.0),
    "active_contour_length": maps.ActiveContourLength(),
    "from_loss": from_loss(brier),
}
each_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)


def drawn_logits(seed, labels, num_classes, scale=1.5):
    shape = (len(labels), num_classes, *labels.shape[1:])
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, dtype=torch.float64, generator=generator)


def one_hot_of(labels, num_classes):
    """(b *s) -> (b k *s), float64; all 0 where the label is -1."""
    labels = torch.as_tensor(np.asarray(labels).astype(np.int64))
    hot = one_hot(labels.clamp_min(0), num_classes) * (labels >= 0)[..., None]
    return hot.movedim(-1, 1).double()


def own_loss(term, logits, regions):
    """The term's loss of logits."""
    prediction = Prediction.of(log_softmax(logits, dim=1), regions.labels, regions.spacings_mm)
    return term.value(prediction)


def gradient(loss, logits):
    (found,) = torch.autograd.grad(loss, logits, materialize_grads=True, allow_unused=True)
    return found


def assert_same_gradient(found, wanted, rtol=1e-10):
    scale = wanted.abs().max().clamp_min(1e-300)
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=rtol)


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


# --- Value and gradient of the losses, against others and against loops


def assert_same_loss(term, reference, labels, device="cpu", spacing=None, rtol=1e-10):
    """reference: a function of logits on the CPU; labels (b *s) of four classes."""
    labels = torch.as_tensor(np.asarray(labels).astype(np.int64))
    ignore = -1 if (labels == -1).any() else None
    logits = drawn_logits(0, labels, 4).requires_grad_()
    wanted = reference(logits)
    loss = RegionWiseLoss(term, spacing_mm=spacing, ignore_index=ignore)
    found = loss(logits.to(device), labels.to(device))
    assert found.item() == pytest.approx(wanted.item(), rel=rtol)
    assert_same_gradient(gradient(found, logits), gradient(wanted, logits), rtol)


LABELS = {"2-D": batch(105, (9, 8)), "3-D": batch(105, (5, 6, 7))}
each_labels = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


def target_of(labels):
    return torch.as_tensor(labels.astype(np.int64))


@each_labels
def test_cross_entropy_is_that_of_torch(labels, device):
    target = target_of(labels)
    reference = lambda logits: functional.cross_entropy(logits, target)  # noqa: E731
    assert_same_loss(maps.CrossEntropy(), reference, labels, device)
    some = target.clone()
    some[:, 2:5] = -1
    ignoring = lambda logits: functional.cross_entropy(logits, some, ignore_index=-1)  # noqa: E731
    assert_same_loss(maps.CrossEntropy(), ignoring, some, device)


def test_map_of_cross_entropy_by_hand():
    """-K / p at the true class."""
    regions = Regions(np.array([[[0, 1]]]), 3)
    probs = np.array([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]]).T.reshape(1, 3, 1, 2)
    found = maps.CrossEntropy()(regions, probs).dense()
    np.testing.assert_allclose(found[0, :, 0].T, [[-6, 0, 0], [0, -6, 0]], rtol=1e-12)


SOFTMAX = {"softmax": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
OF_MONAI = [
    *[(maps.Focal(g), "FocalLoss", {"gamma": g, "use_softmax": True}) for g in (0.5, 1, 2, 3.5)],
    (maps.Dice(), "DiceLoss", SOFTMAX),
    (maps.Dice(1.0), "DiceLoss", {"softmax": True, "smooth_nr": 1.0, "smooth_dr": 1.0}),
    *[
        (maps.Tversky(alpha, beta), "TverskyLoss", {"alpha": alpha, "beta": beta, **SOFTMAX})
        for alpha, beta in [(0.3, 0.7), (0.5, 0.5), (1.0, 0.0)]
    ],
    (
        maps.GeneralizedDice(),
        "GeneralizedDiceLoss",
        {"softmax": True, "smooth_nr": 0.0, "smooth_dr": 0.0},
    ),
    *[
        (maps.HausdorffDT(alpha), "HausdorffDTLoss", {"alpha": alpha, "softmax": True})
        for alpha in (1.0, 2.0)
    ],
]


@each_labels
@pytest.mark.parametrize(("term", "name", "given"), OF_MONAI, ids=[str(row[0]) for row in OF_MONAI])
def test_losses_are_those_of_monai(labels, term, name, given, device):
    """MONAI computes some in float32.

    Its focal loss is the mean over the classes too, where all but the true one are 0. Its
    generalised Dice gives an absent class the largest weight of the others; ours is 0. Its
    Hausdorff distance to a mask that is full is garbage, and its spacing 1.
    """
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    loss = getattr(monai, name)(to_onehot_y=True, include_background=True, **given)
    if name == "GeneralizedDiceLoss":
        labels = np.stack([image for image in labels if len(np.unique(image)) == 4])
    factor = 4 if name == "FocalLoss" else 1
    exact = name in {"DiceLoss", "TverskyLoss"}
    reference = lambda logits: factor * loss(logits, target_of(labels)[:, None])  # noqa: E731
    assert_same_loss(term, reference, labels, device, rtol=1e-10 if exact else 2e-6)


def test_focal_by_hand():
    regions = Regions(np.array([[[0]]]), 2)
    probs = np.array([0.25, 0.75]).reshape(1, 2, 1, 1)
    log_probs = torch.as_tensor(probs).log()
    prediction = Prediction.of(log_probs, torch.as_tensor(regions.labels), regions.spacings_mm)
    assert maps.Focal().value(prediction).item() == pytest.approx(0.75**2 * math.log(4))
    wanted = 2 * (2 * 0.75 * math.log(0.25) - 0.75**2 / 0.25)
    assert maps.Focal()(regions, probs).dense()[0, 0, 0, 0] == pytest.approx(wanted)


def test_focal_with_gamma_zero_is_cross_entropy():
    labels = LABELS["2-D"]
    wanted = lambda logits: functional.cross_entropy(logits, target_of(labels))  # noqa: E731
    assert_same_loss(maps.Focal(gamma=0.0), wanted, labels)


def test_tversky_of_two_halves_is_dice():
    """With smooth once more above and below, as in 2 Σ p y + s."""
    labels = LABELS["2-D"]
    dice = RegionWiseLoss(maps.Dice(smooth=2.0))
    reference = lambda logits: dice(logits, target_of(labels))  # noqa: E731
    assert_same_loss(maps.Tversky(0.5, 0.5, smooth=1.0), reference, labels)


def naive_images(labels, num_classes, probs):
    """(image, class) pairs: probabilities and truth over the voxels that count. 1-D each."""
    for image, prob in zip(labels, probs, strict=True):
        for k in range(num_classes):
            yield prob[k][image >= 0], (image[image >= 0] == k).double()


def naive_tversky(probs, labels, num_classes, alpha, beta, smooth=1e-5):
    """Index of each image and class. (b·k)."""
    indices = []
    for p, y in naive_images(labels, num_classes, probs):
        tp, fp, fn = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
        indices.append((tp + smooth) / (tp + alpha * fp + beta * fn + smooth))
    return torch.stack(indices)


def naive_generalized_dice(probs, labels, num_classes):
    """Kervadec's eq. 1 for each image, absent classes left out."""
    losses = []
    for image, prob in zip(labels, probs, strict=True):
        counted = image >= 0
        above = below = 0.0
        for k in range(num_classes):
            y, p = (image[counted] == k).double(), prob[k][counted]
            if y.sum() > 0:
                above = above + (p * y).sum() / y.sum() ** 2
                below = below + (p + y).sum() / y.sum() ** 2
        losses.append(1 - 2 * above / below if counted.any() else torch.zeros(()))
    return torch.stack(losses).mean()


def naive_hausdorff(probs, labels, spacing, alpha):
    """Karimi & Salcudean's eq. 8 for each image and class, ignored voxels outside every class."""
    total, values = 0.0, probs.detach().numpy()
    for b, image in enumerate(labels.numpy()):
        for k in range(probs.shape[1]):
            far = np.zeros(image.shape)
            for mask in (image == k, (values[b, k] > 0.5) & (image >= 0)):
                far += np.abs(plain.signed_distance(mask, spacing)) ** alpha
            y = torch.as_tensor((image == k).astype(float))
            cost = (probs[b, k] - y) ** 2 * torch.as_tensor(far)
            total = total + cost[labels[b] >= 0].sum()
    return total / ((labels >= 0).sum() * probs.shape[1])


def naive_length(probs, labels, spacing):
    """Voxel by voxel: forward differences, none past the end or towards ignored voxels."""
    total, count = 0.0, 0
    for b in range(len(probs)):
        for place in np.ndindex(*labels.shape[1:]):
            if labels[b, *place] < 0:
                continue
            count += 1
            for k in range(probs.shape[1]):
                square = 0.0
                for axis, mm in enumerate(spacing):
                    ahead = list(place)
                    ahead[axis] += 1
                    if ahead[axis] < labels.shape[axis + 1] and labels[b, *ahead] >= 0:
                        square = square + ((probs[b, k, *ahead] - probs[b, k, *place]) / mm) ** 2
                total = total + (square + 1e-8) ** 0.5 - 1e-4
    return total / (count * probs.shape[1])


def hard_cases():
    """Labels of four classes with an absent one, a full image, and ignored voxels. (b *s)."""
    for shape, spacing in [((6, 5), (1.0, 1.0)), ((6, 5), (0.8, 2.5)), ((4, 3, 5), (0.8, 1, 2.5))]:
        labels = batch(106, shape, 4, size=4).astype(np.int64)
        labels[1][labels[1] == 2] = 0
        labels[2] = 3
        labels[3, 2:] = -1
        yield torch.as_tensor(labels), spacing


@pytest.mark.parametrize("case", list(hard_cases()), ids=["2-D", "2-D spacing", "3-D"])
def test_losses_are_those_of_plain_loops(case, device):
    labels, spacing = case

    def check(term, reference, rtol=1e-10):
        by_probs = lambda logits: reference(softmax(logits, dim=1))  # noqa: E731
        assert_same_loss(term, by_probs, labels, device, spacing, rtol)

    at_true = one_hot_of(labels, 4)
    counted = (labels >= 0).sum()
    check(maps.CrossEntropy(), lambda p: -(p.log() * at_true).sum() / counted)
    check(maps.Focal(1.5), lambda p: -((1 - p) ** 1.5 * p.log() * at_true).sum() / counted)
    check(maps.Dice(), lambda p: 1 - naive_tversky(p, labels, 4, 0.5, 0.5, 5e-6).mean())
    check(maps.Tversky(0.2, 0.9), lambda p: 1 - naive_tversky(p, labels, 4, 0.2, 0.9).mean())
    check(
        maps.FocalTversky(gamma=1.5),
        lambda p: ((1 - naive_tversky(p, labels, 4, 0.3, 0.7)) ** (1 / 1.5)).mean(),
    )
    check(maps.GeneralizedDice(), lambda p: naive_generalized_dice(p, labels, 4))
    for alpha in (1.0, 2.0):
        hausdorff = lambda p, a=alpha: naive_hausdorff(p, labels, spacing, a)  # noqa: E731
        check(maps.HausdorffDT(alpha), hausdorff, rtol=2e-6)
    check(maps.ActiveContourLength(), lambda p: naive_length(p, labels, spacing), rtol=1e-9)


def test_length_of_a_straight_edge():
    """A step from 0 to 1 across 1 of 4 rows: 1 / 2 mm at a quarter of the voxels."""
    probs = np.zeros((1, 2, 4, 5))
    probs[:, 0, :2] = probs[:, 1, 2:] = 1
    log_probs = torch.as_tensor(probs.clip(1e-300)).log()
    prediction = Prediction.of(log_probs, torch.zeros(1, 4, 5).long(), ((2.0, 1.0),))
    assert maps.ActiveContourLength().value(prediction).item() == pytest.approx(0.125, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_length_of_a_flat_prediction(dtype):
    logits = torch.zeros(2, 3, 4, 5, dtype=dtype, requires_grad=True)
    loss = RegionWiseLoss("active_contour_length")(logits, torch.zeros(2, 4, 5).long())
    assert abs(loss.item()) < 1e-10
    assert not gradient(loss, logits).any()


def test_hausdorff_of_a_shifted_half():
    """Truth from row 4, prediction from row 2, rows 3 mm apart: two rows wrong, 3 and 6 mm off."""
    labels = torch.zeros(1, 8, 3, dtype=torch.long)
    labels[:, 4:] = 1
    logits = torch.zeros(1, 2, 8, 3, dtype=torch.float64)
    logits[:, 1, 2:] = 800.0
    logits[:, 0, :2] = 800.0
    found = RegionWiseLoss("hausdorff_dt", spacing_mm=(3.0, 1.0))(logits, labels)
    # rows 2 and 3 are 6 and 3 mm from the true half, and 3 and 6 mm from the other predicted one
    assert found.item() == pytest.approx(2 * (36 + 9) / 8)


# --- At the best and at the worst prediction


@pytest.mark.parametrize("name", [name for name in TERMS if name != "active_contour_length"])
def test_a_perfect_prediction_costs_nothing(name):
    labels = torch.as_tensor(batch(107, (9, 8)).astype(np.int64))
    logits = 1000.0 * one_hot_of(labels, 4).requires_grad_()
    loss = RegionWiseLoss(TERMS[name])(logits, labels)
    best = 1e-7 ** (1 / TERMS[name].gamma) if name.startswith("focal_tversky") else 0.0
    assert loss.item() == pytest.approx(best, abs=1e-12)
    assert gradient(loss, logits).isfinite().all()


def test_generalized_dice_of_nothing():
    labels = torch.full((2, 4, 5), -1)
    logits = drawn_logits(0, labels, 3).requires_grad_()
    loss = RegionWiseLoss("generalized_dice", ignore_index=-1)(logits, labels)
    assert loss.item() == 0
    assert not gradient(loss, logits).any()


def test_generalized_dice_does_not_see_a_class_that_is_absent():
    regions = Regions(torch.zeros(1, 4, 5).long(), 3)
    probs = softmax(drawn_logits(0, regions.labels, 3), dim=1)
    found = maps.GeneralizedDice()(regions, probs).dense()
    assert not found[:, 1:].any()
    assert (found[:, 0] < 0).all()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_cross_entropy_still_pushes_at_a_margin_of_200(dtype):
    """In log-space the gradient is p - y, however small p is."""
    logits = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1).to(dtype).requires_grad_()
    loss = RegionWiseLoss("cross_entropy")(logits, torch.ones(1, 1, 1).long())
    assert loss.item() == 200
    assert gradient(loss, logits).ravel().tolist() == [1, -1]


@each_term
def test_autocast_and_no_grad_change_nothing(term, device):
    regions = Regions(torch.as_tensor(batch(109, (7, 6)).astype(np.int64), device=device), 4)
    probs = softmax(drawn_logits(0, regions.labels, 4).float(), dim=1).to(device)
    wanted = term(regions, probs).dense()
    with torch.autocast(device, dtype=torch.bfloat16):
        torch.testing.assert_close(term(regions, probs).dense(), wanted, rtol=0, atol=0)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = term(Regions(regions.labels.clone(), 4), probs.clone()).dense()
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


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


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.uint32, ">i4", np.float32])
def test_labels_of_any_type(dtype):
    labels = (batch(110, (7, 6)) > 0).astype(dtype)
    probs = np.random.default_rng(0).dirichlet((1, 1), labels.shape).transpose(0, 3, 1, 2)
    found = maps.Dice()(Regions(labels, 2), probs).dense()
    wanted = maps.Dice()(Regions(labels.astype(np.int64), 2), probs).dense()
    np.testing.assert_array_equal(found, wanted)


def test_arrays_in_any_memory_order():
    labels = batch(110, (7, 6))
    probs = np.random.default_rng(0).dirichlet(np.ones(4), labels.shape).transpose(0, 3, 1, 2)
    wanted = maps.Dice()(Regions(labels, 4), np.ascontiguousarray(probs)).dense()
    turned = maps.Dice()(Regions(labels[:, ::-1], 4), probs[:, :, ::-1]).dense()
    np.testing.assert_allclose(turned[:, :, ::-1], wanted, rtol=1e-12)
    swapped = maps.Dice()(Regions(labels, 4), probs.astype(">f8")).dense()
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
        (maps.Focal, "gamma", "greater than or equal to 0"),
        (maps.Tversky, "alpha", "greater than or equal to 0"),
        (maps.Tversky, "beta", "greater than or equal to 0"),
        (maps.Tversky, "smooth", "greater than 0"),
        (maps.FocalTversky, "gamma", "greater than 0"),
        (maps.FocalTversky, "alpha", "greater than or equal to 0"),
        (maps.HausdorffDT, "alpha", "greater than 0"),
    ],
)
def test_parameters_out_of_range(generator, name, lowest):
    for bad in (-0.1, *[0.0] * (lowest == "greater than 0")):
        with pytest.raises(RWLossError, match=rf"\({name}={bad}\): .*should be {lowest}"):
            generator(**{name: bad})
    for bad in (math.nan, math.inf):
        with pytest.raises(RWLossError, match="Input should be a finite number"):
            generator(**{name: bad})


# --- from_loss


@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_any_loss_of_probabilities(shape, spacing):
    labels = batch(112, shape)
    truth = one_hot_of(labels, 4)
    reference = lambda logits: brier(softmax(logits, dim=1), truth)  # noqa: E731
    assert_same_loss(from_loss(brier), reference, labels, spacing=spacing)


def test_map_of_a_loss_by_hand():
    """d/dp of the mean over voxels of Σ (p - y)², times the number of classes and voxels."""
    labels = batch(112, (7, 6))
    probs = softmax(drawn_logits(0, labels, 4), dim=1)
    found = from_loss(brier)(Regions(labels, 4), probs).dense()
    wanted = 2 * 4 * (probs - one_hot_of(labels, 4))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_loss_of_monai():
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    labels = LABELS["2-D"]
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


def test_a_compound_is_the_sum():
    labels = LABELS["2-D"]
    both = 0.5 * from_loss(brier) + 2 * maps.Dice()
    parts = [RegionWiseLoss(from_loss(brier)), RegionWiseLoss("dice")]
    target = target_of(labels)
    reference = lambda z: 0.5 * parts[0](z, target) + 2 * parts[1](z, target)  # noqa: E731
    assert_same_loss(both, reference, labels)


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
        rwmap = maps.get(name)(Regions(labels, 4), softmax(logits, dim=1))
        assert rwmap.dense().shape == logits.shape
        loss = RegionWiseLoss(name)(logits, labels)
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


def test_each_term_of_a_sum_has_its_own_background(device):
    """As in MONAI, where it leaves the background out of Dice and keeps it in cross-entropy."""
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    options = {"softmax": True, "to_onehot_y": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    both = monai.DiceCELoss(include_background=False, **options)
    term = maps.parse("dice(include_background=False) + cross_entropy")
    assert str(term) == "dice(include_background=False) + cross_entropy"
    labels = LABELS["3-D"]
    target = target_of(labels)
    assert_same_loss(term, lambda logits: both(logits, target[:, None]), labels, device)
    unreduced = RegionWiseLoss(term, reduction="none")(drawn_logits(0, target, 4), target)
    assert unreduced.mean().item() == pytest.approx(
        RegionWiseLoss(term)(drawn_logits(0, target, 4), target).item(), rel=1e-12
    )
