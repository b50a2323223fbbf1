"""A sum of losses is the loss of the summed expression, whose map has its gradient."""

import loss_batches
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from loss_batches import here, value_and_gradient

from rwloss import Regions, RegionWiseLoss, maps

STATIC = [
    "rectified",
    "boundary",
    "boundary(normalize='max')",
    "active_contour",
    "class_weighted",
    "boundary.stabilized()",
    "(rectified - 0.5 * boundary).stabilized()",
]
LINKED = ["rectified.with_link(0.5)", "active_contour.with_link(0)", "rectified.with_link(1)"]
DYNAMIC = [*loss_batches.DYNAMIC, "(dice + 0.1 * boundary).stabilized()"]
weights = st.sampled_from([0.01, 0.3, 1.0, 2.0])
signed = st.builds(lambda weight, sign: weight * sign, weights, st.sampled_from([1.0, -1.0]))
terms = st.one_of(
    st.tuples(signed, st.sampled_from(STATIC + DYNAMIC)),
    st.tuples(weights, st.sampled_from(LINKED)),
)


@st.composite
def batches(draw):
    """Logits (b k *s) and labels (b *s) of any sizes."""
    axes = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(2, 6 if axes == 2 else 4)] * axes))
    num_classes, size = draw(st.integers(2, 8)), draw(st.integers(1, 2))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = 3 * torch.randn(size, num_classes, *shape, generator=generator, dtype=dtype)
    labels = torch.randint(0, num_classes, (size, *shape), generator=generator)
    return here(logits), here(labels)


def expression_of(pairs):
    total = None
    for weight, text in pairs:
        term = weight * maps.parse(text)
        total = term if total is None else total + term
    return total


def push(expression, logits, labels):
    """Largest |p z| / (b k i): how large a gradient is before its parts cancel."""
    probs = torch.softmax(logits.double(), dim=1)
    z = expression(Regions(labels, logits.shape[1]), probs).dense()
    return (probs * z).abs().max() / logits.numel()


@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@drawn(pairs=st.lists(terms, min_size=1, max_size=4), batch=batches())
def test_a_sum_of_losses_is_the_loss_of_the_sum(pairs, batch):
    logits, labels = batch
    alone = [
        value_and_gradient(RegionWiseLoss(weight * maps.parse(text)), logits, labels)
        for weight, text in pairs
    ]
    value, gradient = value_and_gradient(RegionWiseLoss(expression_of(pairs)), logits, labels)
    assert value.dtype == gradient.dtype == logits.dtype
    # Relative to what is added: the sum itself may cancel. Maps are added in float32.
    wanted = sum(each.double() for each, _ in alone)
    assert abs(value.double() - wanted) <= 1e-5 * sum(abs(each.double()) for each, _ in alone)
    sums = torch.stack([each for _, each in alone]).double().sum(dim=0)
    assert (gradient - sums).abs().max() <= 1e-5 * sum(
        push(weight * maps.parse(text), logits, labels) for weight, text in pairs
    )


@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@drawn(pairs=st.lists(terms, min_size=1, max_size=4), batch=batches())
def test_the_gradient_is_that_of_probabilities_times_the_map(pairs, batch):
    """The core claim: for every expression, static and dynamic, the map has the gradient."""
    logits, labels = batch[0].double(), batch[1]
    expression = expression_of(pairs)
    _, gradient = value_and_gradient(RegionWiseLoss(expression), logits, labels)
    probs = torch.softmax(logits, dim=1)
    z = expression(Regions(labels, logits.shape[1]), probs).dense().double()
    wanted = probs * (z - (probs * z).sum(dim=1, keepdim=True)) / logits.numel()
    bound = sum(push(weight * maps.parse(text), logits, labels) for weight, text in pairs)
    assert (gradient - wanted).abs().max() <= 1e-5 * bound


@settings(deadline=None, max_examples=15, derandomize=True, database=None)
@drawn(
    pairs=st.lists(st.tuples(signed, st.sampled_from(STATIC)), min_size=1, max_size=4),
    batch=batches(),
)
def test_static_terms_are_the_official_mean_of_their_summed_map(pairs, batch):
    logits, labels = batch
    z = expression_of(pairs)(Regions(labels, logits.shape[1])).dense()
    found = RegionWiseLoss(expression_of(pairs))(logits, labels)
    cost = torch.softmax(logits.double(), dim=1) * z
    # Stored and made on the fly are the same map.
    assert RegionWiseLoss(expression_of(pairs))(logits, labels, z).item() == pytest.approx(
        float(found), rel=1e-5, abs=1e-6 * float(cost.abs().mean())
    )
    assert abs(found.double() - cost.mean()) <= 2e-6 * cost.abs().mean()
