"""Pull exponents, pull ratios of any expression, effective weights: against autograd by hand."""

import math

import numpy as np
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, maps, stability


def one_sided_hausdorff(probs, truth, distance):
    return ((truth - probs) ** 2 * distance**2).mean()


def generalised_surface(probs, truth, distance):
    return 1 - ((distance * (1 - (truth + probs))) ** 2).sum() / (distance**2).sum()


EXPONENTS = {
    "cross_entropy": 0,
    "focal": 0,
    "dice + cross_entropy": 0,
    "rectified + 0.01 * cross_entropy": 0,
    "rectified.with_link(0)": 0,
    "rectified.with_link(0.3)": 0.3,
    "rectified.with_link(0.7) + boundary": 0.7,
    "rectified": 1,
    "boundary": 1,
    "class_weighted": 1,
    "boundary.stabilized()": 1,
    "dice": 1,
    "generalized_dice": 1,
    "tversky": 1,
    "rectified + dice": 1,
    "blend(generalized_dice, boundary, schedule='rebalance')": 1,
}


@pytest.mark.parametrize("text", EXPONENTS)
def test_exponents_are_the_slope_of_the_gradient_of_the_loss(text):
    """By autograd on logits: the class at p, the background at the rest, everywhere."""
    labels = batch(3, (9, 10), 3)
    report = stability.check_expression(maps.parse(text), Regions(labels, 3))
    loss, target, pulls = RegionWiseLoss(text), torch.as_tensor(labels).long(), []
    for prob in (1e-6, 1e-7):
        probs = torch.full((len(labels), 3, 9, 10), prob, dtype=torch.float64)
        probs[:, 0] = 1 - 2 * prob
        logits = probs.log().requires_grad_()
        loss(logits, target).backward()
        pulls.append([-float(logits.grad[:, k][target == k].sum()) for k in (1, 2)])
    wanted = [math.log10(one / other) for one, other in zip(*pulls, strict=True)]
    assert report.pull_exponent[1:].tolist() == pytest.approx(wanted, abs=2e-3)
    assert wanted == pytest.approx([EXPONENTS[text]] * 2, abs=0.02)
    assert math.isnan(report.pull_exponent[0])


@pytest.mark.parametrize(
    ("formula", "wanted"), [(one_sided_hausdorff, 1), (generalised_surface, 2)]
)
def test_exponents_of_losses_that_are_not_built_in(formula, wanted):
    labels = batch(3, (9, 10), 3)
    distance = torch.rand(3, 3, 9, 10, dtype=torch.float64) + 0.5
    term = maps.from_loss(lambda probs, truth: formula(probs, truth, distance))
    report = stability.check_expression(term, Regions(labels, 3))
    assert report.pull_exponent[1:].tolist() == pytest.approx([wanted] * 2, abs=1e-3)


def test_no_exponent_where_it_is_not_known():
    """Of a map alone, of an absent class, and of a class that is pushed down at its own voxels."""
    labels = batch(3, (9, 10), 3)
    regions = Regions(labels, 4)
    report = stability.check_expression(maps.Rectified(), regions)
    assert np.isnan(report.pull_exponent).tolist() == [True, False, False, True]
    assert np.isnan(stability.check(maps.Rectified()(regions)).pull_exponent).all()
    backwards = stability.check_expression(maps.parse("-rectified"), regions)
    assert np.isnan(backwards.pull_exponent).all()
    assert "pull exponent" not in stability.verdict(backwards)


def plain_ratio(text, labels, k):
    """The pull ratio of a class from the gradient by probabilities, image by image in a loop."""
    up = down = 0.0
    for image in labels:
        own, share = image == k, max((image == k).mean(), 1 / image.size)
        probs = torch.full((1, 3, *image.shape), 1e-6, dtype=torch.float64)
        winner = np.where(own, 0, image)
        for at in np.ndindex(image.shape):
            probs[(0, winner[at], *at)] = 1 - share - 1e-6
            probs[(0, k, *at)] = share
        probs.requires_grad_()
        loss = RegionWiseLoss(text, activation="none")
        (z,) = torch.autograd.grad(loss(probs, torch.as_tensor(image)[None].long()), probs)
        for at in np.ndindex(image.shape):
            gaps = z[(0, k, *at)] - z[(0, int(image[at]), *at)]
            if own[at]:
                up += float(z[(0, 0, *at)] - z[(0, k, *at)])
            else:
                down += max(0.0, float(gaps))
    return up / down


@pytest.mark.parametrize(
    "text", ["cross_entropy", "dice", "rectified + dice", "rectified.with_link(0.3)", "focal"]
)
def test_pull_ratios_of_dynamic_maps_against_a_plain_loop(text):
    labels = batch(3, (7, 6), 3)
    report = stability.check_expression(maps.parse(text), Regions(labels, 3))
    wanted = [plain_ratio(text, labels, k) for k in (1, 2)]
    assert report.pull[1:].tolist() == pytest.approx(wanted, rel=1e-3)
    if text == "cross_entropy":
        assert wanted == pytest.approx([1, 1], rel=1e-3)


def test_figures_of_cases_add_up():
    labels = batch(3, (9, 10), 3)
    labels[1][labels[1] == 2] = 0
    expression = maps.parse("rectified + dice")
    whole = stability.check_expression(expression, Regions(labels, 3))
    one, other, third = (
        stability.check_expression(expression, Regions(labels[i : i + 1], 3)) for i in range(3)
    )
    parts = one + other + third
    for name in ("pull", "pull_exponent", "least_pull"):
        found, wanted = getattr(parts, name), getattr(whole, name)
        assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4, nan_ok=True), name
    assert parts.effective_weights == pytest.approx(whole.effective_weights, rel=1e-4)


# --- Effective weights


@pytest.mark.parametrize("num_classes", [2, 3, 8])
def test_effective_weights_are_shares_of_gradient_norms(num_classes):
    """Of the loss by the logits, at logits of 0."""
    labels = batch(5, (9, 10), 3) % num_classes
    labels[0, :4] = num_classes - 1
    texts = ["rectified", "0.5 * dice", "cross_entropy"]
    report = stability.check_expression(
        maps.parse(" + ".join(texts)), Regions(labels, num_classes), "random"
    )
    norms = []
    for text in texts:
        logits = torch.zeros(len(labels), num_classes, 9, 10, dtype=torch.float64)
        logits.requires_grad_()
        RegionWiseLoss(text)(logits, torch.as_tensor(labels).long()).backward()
        norms.append(float(logits.grad.norm()))
    wanted = {text: norm / sum(norms) for text, norm in zip(texts, norms, strict=True)}
    assert report.effective_weights == pytest.approx(wanted, rel=1e-4)
    said = stability.verdict(report, is_static=False)
    assert f"has {100 * max(wanted.values()):.1f} % of the gradient norm" in said


def test_effective_weights_of_other_expressions():
    regions = Regions(batch(5, (9, 10), 3), 3)

    def weights(text):
        return stability.check_expression(maps.parse(text), regions).effective_weights

    assert weights("rectified") == weights("(boundary + dice).stabilized()") == {}
    first_epoch = weights("blend(generalized_dice, boundary, schedule='rebalance')")
    assert first_epoch == {"boundary": 0.0, "generalized_dice": 1.0}
    both = weights("blend(dice, dice + boundary, schedule='constant', alpha=0.5)")
    assert list(both) == ["1.5 * dice", "0.5 * boundary"]


@pytest.mark.parametrize("sides", ["dice, boundary", "2 * rectified + dice, rectified"])
def test_a_kept_share_counts_as_the_loss_measures_it(sides):
    """The loss at logits of 0, so at uniform probabilities, measures the weight."""
    labels = batch(3, (9, 10), 3)
    regions, target = Regions(labels, 3), torch.as_tensor(labels).long()
    loss = RegionWiseLoss(f"blend({sides}, schedule='gradient_share', share=0.3)")
    loss(torch.zeros(len(labels), 3, 9, 10, dtype=torch.float64).requires_grad_(), target)
    region, boundary = sides.split(", ")
    plain = maps.parse(f"{region} + {loss.share.weight!r} * {boundary}")
    found = stability.check_expression(loss.expression, regions)
    wanted = stability.check_expression(plain, regions)
    for name in ("pull", "wrong_way_mass", "pushed_up", "gradient_norms"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-5, nan_ok=True)
    if region == "dice":
        assert found.effective_weights == pytest.approx({"dice": 0.7, "boundary": 0.3})


def test_a_share_of_nothing_counts_as_it_stands():
    regions = Regions(np.zeros((1, 4, 4), dtype=np.int64), 3)  # no boundary: no gradient
    text = "blend(dice, boundary, schedule='gradient_share')"
    weights = stability.check_expression(maps.parse(text), regions).effective_weights
    assert weights["boundary"] == 0
