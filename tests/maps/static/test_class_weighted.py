"""Class weights: of an image, of a whole dataset, and as numbers, in every kind of expression."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RegionWiseLoss, RWLossError, maps
from rwloss.maps.expression import Expression

RULES = plain.WEIGHT_RULES
WEIGHTED = [maps.ClassWeighted, maps.Rectified, maps.UNetBorder]
THREE_TO_ONE = {
    "inverse": (2 / 3, 2),
    "inverse_square": (1 / 3, 3),
    "effective_number": (16 / 19, 28 / 19),
}


def weighted(labels, num_classes, **parameters):
    return maps.ClassWeighted(**parameters)(Regions(labels, num_classes))


# --- Of an image


@pytest.mark.parametrize(
    ("parameters", "weights"),
    [
        *[({"weights": rule, "beta": 0.5}, wanted) for rule, wanted in THREE_TO_ONE.items()],
        ({"weights": "effective_number", "beta": 0.0}, (1, 1)),
        ({"weights": (0.25, 8)}, (0.25, 8)),
        ({}, (2 / 3, 2)),
    ],
    ids=str,
)
def test_weights_of_three_to_one(parameters, weights):
    found = weighted(np.array([[[0, 0], [1, 0]]]), 2, **parameters)
    w0, w1 = np.negative(weights)
    np.testing.assert_allclose(found.true, [[[w0, w0], [w1, w0]]], rtol=1e-6)
    np.testing.assert_array_equal(found.other, 0)


def test_beta_near_one_is_inverse_frequency():
    labels = batch(51, (13, 17))
    found = weighted(labels, 4, weights="effective_number", beta=1 - 1e-12)
    np.testing.assert_allclose(found.true, weighted(labels, 4, weights="inverse").true, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_mean_weight_of_each_image_is_one_whatever_its_batch(rule):
    labels = batch(54, (31, 23))
    found = weighted(labels, 4, weights=rule).true
    np.testing.assert_allclose(found.mean(axis=(1, 2)), -1, rtol=1e-6)
    alone = np.concatenate([weighted(one[None], 4, weights=rule).true for one in labels])
    np.testing.assert_array_equal(found, alone)


# --- Of a dataset


def naive(rule, counts):
    """Weights with a mean over all voxels of 1; 1 for a class that no voxel has."""
    raw = [RULES[rule](n) if n else 0.0 for n in counts]
    mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / sum(counts)
    return [w / mean if n else 1.0 for w, n in zip(raw, counts, strict=True)]


@pytest.mark.parametrize("rule", RULES)
def test_rules_on_a_dataset(rule):
    for generator in WEIGHTED:
        asked = generator(weights=f"dataset_{rule}", beta=0.5)
        assert asked.needs_class_counts
        found = asked.resolved([3, 1])
        assert not found.needs_class_counts
        assert type(found) is generator
        np.testing.assert_allclose(found.weights, THREE_TO_ONE[rule], rtol=5e-6)
        words = rf"{asked.name}\(weights='dataset_{rule}'.* needs all cases.*precompute.*resolved"
        with pytest.raises(RWLossError, match=words):
            asked(Regions(np.array([[[0, 1]]]), 2))
    asked = maps.ClassWeighted(weights=f"dataset_{rule}")
    for counts in [(1, 1), (10**9, 3, 77), (5, 0, 5), (0, 0, 4), (1, 10**6)]:
        np.testing.assert_allclose(asked.resolved(counts).weights, naive(rule, counts), rtol=1e-5)
        for kind in (list, np.array):
            assert asked.resolved(kind(counts)) == asked.resolved(counts)
    found = asked.resolved([10**7 + 3, 12345, 7])
    assert all(float(f"{weight:.6g}") == weight for weight in found.weights)
    assert maps.parse(str(found)) == found
    assert "dataset" not in str(found)


@pytest.mark.parametrize("rule", RULES)
def test_a_dataset_of_three_images(rule):
    labels = batch(62, (31, 23))
    counts = Regions(labels, 4).counts.sum(axis=0)
    found = maps.ClassWeighted(weights=f"dataset_{rule}").resolved(counts)(Regions(labels, 4)).true
    assert -found.mean(dtype=float) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(-found, np.array(naive(rule, counts.tolist()))[labels], rtol=1e-5)


@pytest.mark.parametrize("generator", WEIGHTED)
def test_other_weights_and_parameters_stay(generator):
    for weights in ("inverse", (1.0, 2.0)):
        asked = generator(weights=weights)
        assert not asked.needs_class_counts
        assert asked.resolved([3, 1]) is asked
    with pytest.raises(RWLossError, match="dataset_inverse"):
        generator(weights="dataset_invers")
    asked = maps.Rectified(scope="component", weights="dataset_inverse", beta=0.5)
    weights = asked.resolved([3, 1]).weights
    assert asked.resolved([3, 1]) == maps.Rectified("component", weights=weights, beta=0.5)


# --- Every kind of expression

INNER = maps.ClassWeighted(weights="dataset_inverse")
DONE = INNER.resolved([30, 10])


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "boundary - 0.5 * {} + dice",
        "{}.stabilized()",
        "(2 * {} + rectified).with_link(0)",
        "(boundary - {}).stabilized().with_link(0.3)",
        "blend({}, boundary)",
        "blend(dice + {}, rectified.with_link(0.5) + {})",
        "blend(dice, blend({}, boundary), schedule='increase') + 0.1 * {}.with_link(0.1)",
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
    assert found == maps.parse(wanted) == maps.parse(str(found)) == found.resolved([1, 1])


def test_nothing_to_resolve():
    for text in ("class_weighted(weights='inverse') - boundary", "blend(dice, boundary)"):
        asked = maps.parse(text)
        assert not asked.needs_class_counts
        assert asked.resolved([30, 10]) == asked


def test_equal_terms_become_one():
    """Two rules that give the same numbers, such as those of two equal classes."""
    asked = INNER + maps.ClassWeighted(weights="dataset_inverse_square")
    assert asked.resolved([5, 5]) == 2 * maps.ClassWeighted(weights=(1.0, 1.0))


def test_an_expression_of_ones_own_needs_nothing():
    class Own(Expression):
        def make(self, regions, probs):
            raise NotImplementedError

    own = Own()
    assert not own.needs_class_counts
    assert own.resolved([1, 2]) is own
    assert (INNER + own).resolved([30, 10]) == DONE + own


def test_a_loss_without_the_numbers_says_what_to_do():
    loss = RegionWiseLoss("dice + class_weighted(weights='dataset_inverse')")
    with pytest.raises(RWLossError, match="needs all cases of a dataset: precompute the map"):
        loss(torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 1], [1, 1]]]))


# --- Parameters


@pytest.mark.parametrize("generator", WEIGHTED)
def test_one_weight_for_each_class(generator):
    with pytest.raises(RWLossError, match="2 weights given for 3 classes: give one for each"):
        generator(weights=(1.0, 2.0))(Regions(np.zeros((1, 2, 2), int), 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *[
            ({"weights": weights}, "a tuple of items, each a finite number greater than 0")
            for weights in [(1.0, 0.0), (1, -1), (1, np.nan), (np.inf, 1)]
        ],
        *[
            ({"weights": weights}, r"class_weighted\(weights=")
            for weights in ["inverze", 3, None, ("a", "b"), {"a": 1}]
        ],
        *[
            ({"beta": beta}, "must be a finite number at least 0 and less than 1")
            for beta in [-0.1, 1.0, 2, np.nan]
        ],
        ({"beta": "much"}, r"class_weighted\(beta='much'\): must be a finite number"),
    ],
    ids=str,
)
def test_parameters_out_of_range(wrong, message):
    with pytest.raises(RWLossError, match=message):
        maps.ClassWeighted(**wrong)


def test_list_of_weights_is_a_tuple():
    assert maps.ClassWeighted(weights=[1, 2]) == maps.ClassWeighted(weights=(1.0, 2.0))
