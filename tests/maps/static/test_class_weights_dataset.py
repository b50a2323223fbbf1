"""Weights of a whole dataset become numbers, in every kind of expression."""

from __future__ import annotations

import numpy as np
import plain_formulas as plain
import pytest
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.maps.expression import Expression

RULES = plain.WEIGHT_RULES
WEIGHTED = [maps.ClassWeighted, maps.Rectified, maps.UNetBorder]


def naive(rule, counts):
    """Weights with a mean over all voxels of 1; 1 for a class that no voxel has."""
    raw = [RULES[rule](n) if n else 0.0 for n in counts]
    mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / sum(counts)
    return [w / mean if n else 1.0 for w, n in zip(raw, counts, strict=True)]


# --- One generator


@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        ("inverse", (2 / 3, 2)),
        ("inverse_square", (1 / 3, 3)),
        ("effective_number", (16 / 19, 28 / 19)),
    ],
)
@pytest.mark.parametrize("generator", WEIGHTED)
def test_weights_of_three_to_one(generator, rule, weights):
    asked = generator(weights=f"dataset_{rule}", beta=0.5)
    assert asked.needs_class_counts
    found = asked.resolved([3, 1])
    assert not found.needs_class_counts
    assert type(found) is generator
    np.testing.assert_allclose(found.weights, weights, rtol=5e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("counts", [(1, 1), (10**9, 3, 77), (5, 0, 5), (0, 0, 4), (1, 10**6)])
def test_naive_counting(rule, counts):
    found = maps.ClassWeighted(weights=f"dataset_{rule}").resolved(counts).weights
    np.testing.assert_allclose(found, naive(rule, counts), rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_numbers_have_six_digits_and_read_back_equal(rule):
    found = maps.ClassWeighted(weights=f"dataset_{rule}").resolved([10**7 + 3, 12345, 7])
    assert all(float(f"{weight:.6g}") == weight for weight in found.weights)
    assert maps.parse(str(found)) == found
    assert "dataset" not in str(found)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda n: np.array(n, np.uint8)])
def test_counts_of_any_kind(kind):
    asked = maps.ClassWeighted(weights="dataset_inverse")
    assert asked.resolved(kind([30, 10])) == asked.resolved([30, 10])


@pytest.mark.parametrize("generator", WEIGHTED)
@pytest.mark.parametrize("weights", ["inverse", (1.0, 2.0), None])
def test_other_weights_stay_as_they_are(generator, weights):
    if weights is None and generator is maps.ClassWeighted:
        weights = "effective_number"
    asked = generator(weights=weights)
    assert not asked.needs_class_counts
    assert asked.resolved([3, 1]) is asked


def test_the_other_parameters_stay():
    asked = maps.Rectified(scope="component", weights="dataset_inverse", beta=0.5)
    assert asked.resolved([3, 1]) == maps.Rectified(
        scope="component", weights=asked.resolved([3, 1]).weights, beta=0.5
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("generator", [maps.ClassWeighted, maps.Rectified])
def test_a_dataset_of_one_image(generator, rule):
    labels = batch(61, (21, 17), size=1)
    regions = Regions(labels, 4)
    asked = generator(weights=f"dataset_{rule}")
    found = asked.resolved(regions.counts[0].tolist())(regions).dense()
    np.testing.assert_allclose(found, generator(weights=rule)(regions).dense(), rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_the_mean_weight_over_all_voxels_is_one(rule):
    labels = batch(62, (31, 23))
    regions = Regions(labels, 4)
    counts = regions.counts.sum(axis=0)
    found = maps.ClassWeighted(weights=f"dataset_{rule}").resolved(counts)(regions)
    assert -found.true.mean(dtype=float) == pytest.approx(1, rel=1e-5)
    weights = naive(rule, counts.tolist())
    np.testing.assert_allclose(-found.true, np.array(weights)[labels], rtol=1e-5)


# --- Every kind of expression

INNER = maps.ClassWeighted(weights="dataset_inverse")
DONE = INNER.resolved([30, 10])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "2 * {} + boundary",
        "boundary - 0.5 * {} + dice",
        "{}.stabilized()",
        "(boundary + {}).stabilized()",
        "{}.with_link(0.5)",
        "(2 * {} + rectified).with_link(0)",
        "(boundary - {}).stabilized().with_link(0.3)",
        "blend({}, boundary)",
        "blend(dice, {}, schedule='increase', alpha=0.2)",
        "blend(dice + {}, rectified.with_link(0.5) + {})",
        "blend(dice, blend({}, boundary)) + 0.1 * {}.with_link(0.1) + focal(gamma=1.0)",
        "rectified(weights='dataset_inverse') + {}",
        "unet_border(weights='dataset_inverse_square', w0=3.0) + {}",
    ],
)
def test_every_kind_of_expression_is_resolved(text):
    asked = maps.parse(text.replace("{}", str(INNER)))
    assert asked.needs_class_counts
    found = asked.resolved([30, 10])
    assert not found.needs_class_counts
    assert "dataset" not in str(found)
    wanted = text.replace("{}", str(DONE))
    for name, generator in (("rectified", maps.Rectified), ("unet_border", maps.UNetBorder)):
        for rule in RULES:
            done = generator(weights=f"dataset_{rule}").resolved([30, 10]).weights
            wanted = wanted.replace(f"{name}(weights='dataset_{rule}'", f"{name}(weights={done}")
    assert found == maps.parse(wanted)
    assert maps.parse(str(found)) == found
    assert found.resolved([1, 1]) == found


@pytest.mark.parametrize(
    "text",
    [
        "rectified",
        "boundary + dice",
        "class_weighted(weights='inverse') - boundary",
        "(boundary + rectified).stabilized().with_link(0.5)",
        "blend(dice, boundary)",
    ],
)
def test_nothing_to_resolve(text):
    asked = maps.parse(text)
    assert not asked.needs_class_counts
    assert asked.resolved([30, 10]) == asked


def test_equal_terms_become_one():
    """Two rules that give the same numbers, such as those of two equal classes."""
    asked = INNER + maps.ClassWeighted(weights="dataset_inverse_square")
    assert asked.resolved([5, 5]) == 2 * maps.ClassWeighted(weights=(1.0, 1.0))


def test_an_expression_of_ones_own_needs_nothing():
    class Own(Expression):
        is_static = True

        def make(self, regions, probs):
            raise NotImplementedError

    own = Own()
    assert not own.needs_class_counts
    assert own.resolved([1, 2]) is own
    assert (INNER + own).resolved([30, 10]) == DONE + own


# --- Without the numbers


@pytest.mark.parametrize("generator", WEIGHTED)
@pytest.mark.parametrize("rule", RULES)
def test_a_map_without_the_numbers_says_what_to_do(generator, rule):
    asked = generator(weights=f"dataset_{rule}")
    words = rf"{asked.name}\(weights='dataset_{rule}'\) needs all cases.*precompute.*resolved"
    with pytest.raises(RWLossError, match=words):
        asked(Regions(np.array([[[0, 1]]]), 2))


def test_a_loss_without_the_numbers_says_what_to_do():
    import torch

    loss = RegionWiseLoss("dice + class_weighted(weights='dataset_inverse')")
    with pytest.raises(RWLossError, match="needs all cases of a dataset: precompute the map"):
        loss(torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 1]]]))


@pytest.mark.parametrize("generator", WEIGHTED)
def test_an_unknown_rule(generator):
    with pytest.raises(RWLossError, match="dataset_inverse"):
        generator(weights="dataset_invers")


def test_as_many_numbers_as_classes():
    found = INNER.resolved([30, 10])
    with pytest.raises(RWLossError, match="2 weights given for 3 classes: give one for each"):
        found(Regions(np.array([[[0, 1]]]), 3))
