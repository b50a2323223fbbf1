"""Links: w (1 - p_t^q) / q, its map and its gradient, against the formula written out."""

import itertools

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from strategies import KINDS, few, some_labels, stable_generators
from torch.nn.functional import log_softmax, softmax

from rwloss import Regions, RegionWiseLoss, RWLossError, maps, stability
from rwloss.maps import ActiveContour, Boundary, Dice, Rectified

QS = [0.0, 0.3, 0.5, 1.0]


def true_probs(probs, labels):
    """Probability of the true class, voxel by voxel; 1 where ignored. (b *s)."""
    found = np.ones(labels.shape)
    for place in np.ndindex(labels.shape):
        if labels[place] >= 0:
            found[place] = probs[place[0], labels[place], *place[1:]]
    return found


def linked_loss(weight, p, q):
    """Zhang & Sabuncu's eq. 6 times w; its limit for q = 0."""
    return weight * -np.log(p) if q == 0 else weight * (1 - p**q) / q


def weight_of(expression, regions):
    """other - true of a torch map, in float64."""
    rwmap = expression(regions)
    return rwmap.other.double() - rwmap.true.double()


def drawn(case):
    labels, num_classes, rng = case
    probs = rng.dirichlet(np.ones(num_classes), size=labels.shape)
    return Regions(labels, num_classes, ignore_label=-1), np.moveaxis(probs, -1, 1)


# --- The map


@pytest.mark.parametrize(("q", "wanted"), [(0, -8), (0.5, -4), (1, -2)])
def test_one_voxel(kind, q, wanted):
    """Rectified has w = 2 in a class of one voxel; p_t = 1/4."""
    regions = Regions(kind(np.array([[[1]]])), 3)
    probs = kind(np.array([0.5, 0.25, 0.25]).reshape(1, 3, 1, 1))
    found = Rectified().with_link(q)(regions, probs)
    assert found.is_compact
    assert found.dense().ravel().tolist() == [0, wanted, 0]


@few
@given(some_labels(), stable_generators, st.sampled_from(QS) | st.floats(0, 1))
def test_map_is_minus_w_times_a_power(case, generator, q):
    regions, probs = drawn(case)
    if isinstance(getattr(generator, "weights", None), tuple):
        generator = Rectified()
    rwmap = generator(regions)
    found = generator.with_link(q)(regions, probs)
    labels = np.asarray(regions.labels)
    wanted = -(rwmap.other.astype(float) - rwmap.true) * true_probs(probs, labels) ** (q - 1)
    np.testing.assert_allclose(found.true, wanted, rtol=1e-6)
    np.testing.assert_array_equal(found.other, 0)
    assert not np.asarray(found.dense())[np.broadcast_to((labels < 0)[:, None], probs.shape)].any()
    assert stability.check(found).violating == 0


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("q", QS)
def test_logit_gradient_of_the_map_is_that_of_the_loss(shape, q, device):
    """Of the mean over batch, classes and voxels, as for every map."""
    labels = torch.as_tensor(batch(83, shape).astype(int), device=device)
    regions = Regions(labels, 4, (0.8, 2.5, 1.0)[: len(shape)])
    logits = torch.randn(3, 4, *shape, dtype=torch.float64, device=device, requires_grad=True)
    probs = softmax(logits, dim=1)
    rwmap = Rectified().with_link(q)(regions, probs.detach())
    (found,) = torch.autograd.grad((probs * rwmap.dense()).mean(), logits)

    weight = weight_of(Rectified(), regions)
    log_p = log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    loss = (weight * (-log_p if q == 0 else (1 - (q * log_p).exp()) / q)).mean() / 4
    (wanted,) = torch.autograd.grad(loss, logits)
    scale = wanted.abs().max()
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=1e-10)

    own = RegionWiseLoss(Rectified().with_link(q), spacing_mm=regions.spacings_mm[0])
    value = own(logits, labels)
    assert value.item() == pytest.approx(loss.item(), rel=1e-10)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient / scale, wanted / scale, rtol=0, atol=1e-10)


# --- What it takes


def test_dead_probabilities_make_a_finite_map():
    regions = Regions(torch.tensor([[[0, 1, 2]]]), 3)
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for dtype, q in itertools.product(dtypes, QS):
        probs = torch.zeros(1, 3, 1, 3, dtype=dtype)
        probs[0, [1, 2, 0], 0, [0, 1, 2]] = 1.0  # sure of what is wrong
        found = Rectified().with_link(q)(regions, probs).dense()
        assert found.dtype in {torch.float32, torch.float64}
        assert found.isfinite().all()
        assert (found.diagonal(dim1=1, dim2=3) < 0).all()


def test_numpy_and_torch_may_meet():
    labels = batch(87, (6, 7))
    probs = np.random.default_rng(0).dirichlet(np.ones(4), size=labels.shape).transpose(0, 3, 1, 2)
    wanted = Rectified().with_link(0.3)(Regions(labels, 4), probs)
    for kind, probs_kind in itertools.product(KINDS.values(), KINDS.values()):
        found = Rectified().with_link(0.3)(Regions(kind(labels), 4), probs_kind(probs))
        assert isinstance(found.true, type(kind(labels)))
        np.testing.assert_allclose(found.true, wanted.true, rtol=1e-12)


def test_probabilities_are_missing_or_of_another_shape():
    linked, regions = Rectified().with_link(0.5), Regions(batch(88, (6, 7)), 4)
    with pytest.raises(RWLossError, match=r"rectified.with_link\(0.5\) depends on the prediction"):
        linked(regions)
    for shape in [(3, 5, 6, 7), (3, 4, 7, 6), (2, 4, 6, 7), (3, 6, 7)]:
        message = r"rectified.with_link\(0.5\): probs \(.*\), expected \(3, 4, 6, 7\)"
        with pytest.raises(RWLossError, match=message):
            linked(regions, np.ones(shape))


def test_q_is_a_number_from_0_to_1():
    for q in [-0.1, 1.1, 2, np.nan, np.inf, True, "0.5", None, 1j, [0.5], 10**400]:
        with pytest.raises(RWLossError, match="with_link: expected 0 <= q <= 1, got"):
            Rectified().with_link(q)
    assert type(Rectified().with_link(np.float32(0.5)).q) is float
    assert Rectified().with_link(1) == Rectified().with_link(1.0)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Dice(), "dice is not static"),
        (Rectified() + Dice(), "dice is not static"),
        (Dice().stabilized(), r"dice.stabilized\(\) is not static"),
        (Rectified().with_link(0.5), "already has a link or schedule"),
        (maps.blend(Rectified(), ActiveContour()), "already has a link or schedule"),
        (Boundary(), "boundary is not always stable"),
        (Rectified() + Boundary(), r"boundary is not always stable.* write .stabilized\(\)"),
        (-Rectified(), "rectified is not always stable, .* below 0"),
        (ActiveContour() - 0.1 * Rectified(), "below 0"),
    ],
    ids=str,
)
def test_links_are_for_static_stable_terms(inner, message):
    with pytest.raises(RWLossError, match=message):
        inner.with_link(0.5)


def test_links_of_sums_and_stabilized_terms():
    inner = 2 * Rectified() + Boundary().stabilized()
    linked = inner.with_link(0.5)
    assert not linked.is_static
    assert linked.static_part == inner
    assert (Rectified() - 0.5 * Boundary()).stabilized().with_link(0.5).static_part.is_static
