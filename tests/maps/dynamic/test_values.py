"""Values and logit gradients of dynamic terms, against PyTorch, MONAI, plain loops and by hand."""

import math

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch
from dynamic_terms import (
    TERMS,
    assert_same_gradient,
    assert_same_loss,
    drawn_logits,
    gradient,
    one_hot_of,
    target_of,
)
from torch.nn import functional
from torch.nn.functional import softmax

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.maps import Prediction

LABELS = {"2-D": batch(105, (9, 8)), "3-D": batch(105, (5, 6, 7))}
each_labels = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


@each_labels
def test_cross_entropy_is_that_of_torch(labels, device):
    target = target_of(labels)
    some = target.clone()
    some[:, 2:5] = -1
    for term in (maps.CrossEntropy(), maps.Focal(gamma=0.0)):
        for given in (target, some):

            def reference(logits, given=given):
                return functional.cross_entropy(logits, given, ignore_index=-1)

            assert_same_loss(term, reference, given, device)


@each_labels
def test_weighted_cross_entropy_is_that_of_torch(labels, device):
    """Also of voxels that are ignored, and where all that count weigh nothing."""
    weight, target = (0.5, 1.0, 0.0, 3.0), target_of(labels)
    some = target.clone()
    some[:, 2:5] = -1
    for given in (target, some):

        def reference(logits, given=given):
            table = torch.tensor(weight, dtype=torch.float64)
            return functional.cross_entropy(logits, given, table, ignore_index=-1)

        assert_same_loss(maps.CrossEntropy(weight=weight), reference, given, device)
        focal = maps.Focal(gamma=0.0, weight=(2.0,) * 4)
        assert_same_loss(
            focal,
            lambda x, y=given: 2 * functional.cross_entropy(x, y, ignore_index=-1),
            given,
            device,
        )
    nothing = RegionWiseLoss("cross_entropy(weight=(0, 1))")
    assert nothing(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long()) == 0


def test_weights_that_do_not_fit_are_refused():
    """Of another number than the classes; and where a class that they weigh is left out."""
    labels, logits = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 3, 4, 4)
    for term in ("dice(weight=(1, 2))", "focal(weight=(1, 2))", "cross_entropy(weight=(1, 2))"):
        with pytest.raises(RWLossError, match="weight has 2 numbers, and there are 3 classes"):
            RegionWiseLoss(term)(logits, labels)
        with pytest.raises(RWLossError, match="weight is 0 for every class that counts"):
            RegionWiseLoss(term.replace("(1, 2)", "(0, 0, 0)"))(logits, labels)
    alone = "cross_entropy(weight=(1, 2, 3), include_background=False)"
    with pytest.raises(RWLossError, match="needs the background, whose weight may be 0"):
        RegionWiseLoss(alone)(logits, labels)
    together = "cross_entropy(weight=(1, 2), masks='together')"
    with pytest.raises(RWLossError, match="which masks together lack"):
        RegionWiseLoss(together, activation="sigmoid")(logits, torch.zeros(1, 3, 4, 4))


# By jocpae/clDice at commit 47d31a6: soft_cldice and soft_dice_cldice, with 10 iterations.
OFFICIAL_CL_DICE = {
    ((12, 14), 2, True): (0.503300109839947, 0.5016860304607735),
    ((12, 14), 2, False): (0.6963278982148725, 0.7027535848911628),
    ((12, 14), 3, True): (0.6629296708096375, 0.6593058232734794),
    ((12, 14), 3, False): (0.8418995008752452, 0.841539820142315),
    ((6, 9, 8), 3, True): (0.6801362076848263, 0.6781953792757256),
    ((6, 9, 8), 3, False): (0.784912709714845, 0.7822028154072275),
}


@pytest.mark.parametrize("case", OFFICIAL_CL_DICE, ids=str)
def test_soft_cl_dice_has_the_numbers_of_the_official_code(case, device):
    shape, num_classes, include_background = case
    number = torch.arange(2 * num_classes * math.prod(shape), dtype=torch.float64)
    logits = 2 * (0.7 * number).sin().reshape(2, num_classes, *shape)
    row, *_, last = np.indices(shape)
    tube = abs(2 * row - np.indices(shape)[1]) < 3
    labels = np.stack([tube, tube]).astype(np.int64)
    if num_classes > 2:
        labels[0][(last == 2) & ~tube] = 2  # absent from the second image
    alone = "soft_cl_dice(iterations=10, classes='together')"
    beside = f"0.5 * generalized_dice(power=0, absent='largest', smooth=1) + 0.5 * {alone}"
    for text, wanted in zip((alone, beside), OFFICIAL_CL_DICE[case], strict=True):
        loss = RegionWiseLoss(text, include_background=include_background, batch=True)
        found = loss(logits.to(device), torch.as_tensor(labels).to(device))
        assert found.item() == pytest.approx(wanted, rel=1e-10)


def test_log_hausdorff_is_the_logarithm_of_each_image(device):
    """Also where voxels are ignored; with `batch` of all images together."""
    labels = target_of(LABELS["2-D"])
    labels[0, 2:5] = -1
    logits = drawn_logits(0, labels, 4).to(device)
    plain = RegionWiseLoss("hausdorff_dt", ignore_index=-1)
    alone = [plain(logits[i : i + 1], labels[i : i + 1].to(device)) for i in range(len(labels))]
    settings = {"expression": "log_hausdorff_dt", "ignore_index": -1}
    found = RegionWiseLoss(**settings)(logits, labels.to(device))
    torch.testing.assert_close(found, torch.stack(alone).log1p().mean())
    pooled = RegionWiseLoss(**settings, batch=True)(logits, labels.to(device))
    torch.testing.assert_close(pooled, plain(logits, labels.to(device)).log1p())


def test_map_of_cross_entropy_by_hand():
    """-K / p at the true class."""
    regions = Regions(np.array([[[0, 1]]]), 3)
    probs = np.array([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]]).T.reshape(1, 3, 1, 2)
    found = maps.CrossEntropy()(regions, probs).dense()
    np.testing.assert_allclose(found[0, :, 0].T, [[-6, 0, 0], [0, -6, 0]], rtol=1e-12)


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


# What `RegionWiseLoss` takes for each loss of MONAI, and the options that differ from its defaults.
ALL = {"include_background": True}
SAME_AS_MONAI = [
    ("dice", "DiceLoss", {}),
    ("dice(smooth=1.0)", "DiceLoss", {"smooth_nr": 1.0, "smooth_dr": 1.0}),
    ("dice(include_background=False)", "DiceLoss", {"include_background": False}),
    ("dice(jaccard=True, squared_pred=True)", "DiceLoss", {"jaccard": True, "squared_pred": True}),
    ("dice(smooth_nr=0)", "DiceLoss", {"smooth_nr": 0}),
    ("dice(weight=(0.5, 1, 2, 3))", "DiceLoss", {"weight": [0.5, 1, 2, 3]}),
    ("tversky(alpha=0.5, beta=0.5)", "TverskyLoss", {}),
    ("tversky", "TverskyLoss", {"alpha": 0.3, "beta": 0.7}),
    ("tversky(alpha=1.0, beta=0.0)", "TverskyLoss", {"alpha": 1.0, "beta": 0.0}),
    ("focal(mean_over='classes')", "FocalLoss", {"use_softmax": True}),
    ("focal(gamma=0.5, mean_over='classes')", "FocalLoss", {"use_softmax": True, "gamma": 0.5}),
    (
        "focal(mean_over='classes', renormalize=True, include_background=False)",
        "FocalLoss",
        {"use_softmax": True, "include_background": False},
    ),
    ("generalized_dice(absent='largest', smooth=1e-5)", "GeneralizedDiceLoss", {}),
    (
        "generalized_dice(power=1, absent='largest', smooth=1e-5, include_background=False)",
        "GeneralizedDiceLoss",
        {"w_type": "simple", "include_background": False},
    ),
    (
        "generalized_dice(power=0, absent='largest', smooth=1e-5)",
        "GeneralizedDiceLoss",
        {"w_type": "uniform"},
    ),
    ("hausdorff_dt(include_background=False)", "HausdorffDTLoss", {}),
    ("hausdorff_dt", "HausdorffDTLoss", ALL),
    ("hausdorff_dt(alpha=1.0)", "HausdorffDTLoss", {"alpha": 1.0, **ALL}),
    (
        "soft_cl_dice(classes='together', harmonic_smooth=1e-4, include_background=False)",
        "SoftclDiceLoss",
        {"include_background": False},
    ),
]
SAME_AS_MONAI_OF_MASKS = [
    ("dice(include_background=False)", "DiceLoss", {"sigmoid": True}),
    ("focal", "FocalLoss", {}),
    (
        "generalized_dice(include_background=False, absent='largest', smooth=1e-5, "
        "masks='together')",
        "GeneralizedDiceLoss",
        {"sigmoid": True},
    ),
    (
        "hausdorff_dt(include_background=False)",
        "HausdorffDTLoss",
        {"sigmoid": True, **ALL},
    ),
    ("dice(include_background=False) + cross_entropy", "DiceCELoss", {"sigmoid": True}),
    (
        "dice(include_background=False) + cross_entropy(masks='together')",
        "DiceCELoss",
        {"sigmoid": True},
    ),
    ("dice(include_background=False) + focal", "DiceFocalLoss", {"sigmoid": True}),
]


@pytest.mark.parametrize(("text", "name", "options"), SAME_AS_MONAI, ids=lambda v: str(v)[:30])
def test_options_make_a_loss_that_of_monai(text, name, options, device):
    """Also where a class is absent from an image.

    MONAI computes some in float32. Its Hausdorff distance to a mask that is full is garbage.
    """
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    activation = {} if name == "FocalLoss" else {"softmax": True}
    loss = getattr(monai, name)(to_onehot_y=True, **activation, **options)
    for labels in LABELS.values():
        target = target_of(labels)
        target[0][target[0] == 2] = 0
        reference = lambda logits, y=target: loss(logits, y[:, None])  # noqa: E731
        assert_same_loss(maps.parse(text), reference, target, device, rtol=2e-6)


@pytest.mark.parametrize(
    ("text", "name", "options"), SAME_AS_MONAI_OF_MASKS, ids=lambda v: str(v)[:30]
)
def test_options_make_a_loss_of_masks_that_of_monai(text, name, options, device):
    """Masks overlap, and one is empty."""
    monai = pytest.importorskip("monai.losses", reason="the extra `train` brings MONAI")
    masks = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(3)) < 0.3
    masks[1, 2] = False
    if text.endswith(
        "+ cross_entropy"
    ):  # of several channels it takes the cross-entropy of a softmax
        masks = masks[:, :1]
    logits = drawn_logits(0, masks[:, 0], masks.shape[1]).requires_grad_()
    wanted = getattr(monai, name)(**options)(logits, masks.double())
    loss = RegionWiseLoss(text, activation="sigmoid")
    found = loss(logits.to(device), masks.double().to(device))
    assert found.item() == pytest.approx(wanted.item(), rel=2e-6)
    assert_same_gradient(gradient(found, logits), gradient(wanted, logits), 2e-6)


def test_cross_entropy_of_masks_together(device):
    """-Σ y log softmax over the masks, the mean over voxels that count; some masks ignore some."""
    target = (torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(3)) < 0.3).long()
    target[0, 1, 2:5] = 255
    logits = drawn_logits(0, target[:, 0], 3).requires_grad_()
    settings = {"activation": "sigmoid", "ignore_index": 255}
    term = "cross_entropy(masks='together')"
    for mask in (torch.ones(2, 9, 8, dtype=torch.bool), torch.rand(2, 9, 8) < 0.5):
        counted = (target != 255) & mask[:, None]
        costs = -logits.log_softmax(dim=1) * (target == 1)
        wanted = 3 * (costs * counted).sum() / counted.sum()
        given = (logits.to(device), target.to(device))
        found = RegionWiseLoss(term, **settings)(*given, mask=mask.to(device))
        assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
        assert_same_gradient(gradient(found, logits), gradient(wanted, logits), 1e-12)
        spoilt = given[0].detach().where(mask[:, None].to(device), math.nan)  # where no mask counts
        found = RegionWiseLoss(term, **settings)(spoilt, given[1], mask=mask.to(device))
        assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
        unreduced = RegionWiseLoss(term, reduction="none", **settings)(*given, mask=mask.to(device))
        assert unreduced.shape == (2, 3, 2)
        assert unreduced.mean().item() == pytest.approx(wanted.item(), rel=1e-12)
    with pytest.raises(RWLossError, match="needs the outside of each mask too"):
        RegionWiseLoss(term, include_background=False, **settings)(*given)


def test_focal_loss_of_one_class_is_refused():
    """Its share would always be 1, and its loss 0."""
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    loss = RegionWiseLoss("focal(renormalize=True)", include_background=False)
    with pytest.raises(RWLossError, match=r"focal\(renormalize=True\) has one class left"):
        loss(torch.zeros(1, 2, 4, 4), labels)
    assert loss(torch.zeros(1, 3, 4, 4), labels + 1) > 0


def test_focal_by_hand():
    regions = Regions(np.array([[[0]]]), 2)
    probs = np.array([0.25, 0.75]).reshape(1, 2, 1, 1)
    log_probs = torch.as_tensor(probs).log()
    prediction = Prediction.of(log_probs, torch.as_tensor(regions.labels), regions.spacings_mm)
    assert maps.Focal().value(prediction).item() == pytest.approx(0.75**2 * math.log(4))
    wanted = 2 * (2 * 0.75 * math.log(0.25) - 0.75**2 / 0.25)
    assert maps.Focal()(regions, probs).dense()[0, 0, 0, 0] == pytest.approx(wanted)


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


def test_length_of_a_flat_prediction():
    for dtype in (torch.float32, torch.float64):
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

ABOVE_0 = {"active_contour_length", "svls"}  # one knows no truth, the targets of one are soft


@pytest.mark.parametrize("name", [name for name in TERMS if name not in ABOVE_0])
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


@pytest.mark.parametrize("options", ["", "gamma=0.5", "include_background=False"])
def test_focal_of_a_logit_of_minus_infinity_at_the_true_class(options, device):
    """Its gradient is that of a very small logit."""
    labels = torch.as_tensor(batch(119, (4, 5)).astype(np.int64), device=device)
    labels[0, 0, 0] = 1
    gradients = []
    for lowest in (-math.inf, -1e5):
        logits = drawn_logits(0, labels.cpu(), 4)
        logits[0, 1, 0, 0] = lowest
        logits = logits.to(device).requires_grad_()
        loss = RegionWiseLoss(f"focal({options})")(logits, labels)
        assert loss.isfinite() == (lowest > -math.inf)
        gradients.append(gradient(loss, logits))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
