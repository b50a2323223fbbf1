"""Class-weighted map: closed forms, then naive counting."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RWLossError, maps

RULES = plain.WEIGHT_RULES


def weighted(labels, num_classes, **parameters):
    return maps.ClassWeighted(**parameters)(Regions(labels, num_classes))


# --- Closed forms: three voxels of class 0, one of class 1


@pytest.mark.parametrize(
    ("parameters", "weights"),
    [
        ({"weights": "inverse"}, (2 / 3, 2)),
        ({"weights": "inverse_square"}, (1 / 3, 3)),
        ({"weights": "effective_number", "beta": 0.5}, (16 / 19, 28 / 19)),
        ({"weights": "effective_number", "beta": 0.0}, (1, 1)),
        ({"weights": (0.25, 8)}, (0.25, 8)),
        ({}, (2 / 3, 2)),
    ],
    ids=str,
)
def test_weights_of_three_to_one(parameters, weights):
    found = weighted(np.array([[[0, 0], [1, 0]]]), 2, **parameters)
    assert found.is_compact
    w0, w1 = np.negative(weights)
    np.testing.assert_allclose(found.true, [[[w0, w0], [w1, w0]]], rtol=1e-6)
    np.testing.assert_array_equal(found.other, 0)


def test_beta_near_one_is_inverse_frequency():
    labels = batch(51, (13, 17))
    found = weighted(labels, 4, weights="effective_number", beta=1 - 1e-12)
    wanted = weighted(labels, 4, weights="inverse")
    np.testing.assert_allclose(found.true, wanted.true, rtol=1e-6)


# --- Naive counting


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [(31, 23), (9, 8, 7)], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_anatomy(kind, shape, rule):
    labels = batch(52, shape)
    found = np.asarray(weighted(kind(labels), 5, weights=rule).dense())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain.class_weighted(labels, 5, RULES[rule]), rtol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_given_weights_are_used_as_given(kind):
    labels, weights = batch(53, (13, 17)), (0.5, 1.0, 7.25, 3.0)
    found = weighted(kind(labels), 4, weights=weights).dense()
    np.testing.assert_array_equal(found, plain.class_weighted(labels, 4, weights))


@pytest.mark.parametrize("rule", RULES)
def test_every_label_map_of_three_classes(rule):
    labels = plain.every_label_map((2, 3), 3)
    found = weighted(labels, 3, weights=rule).dense()
    np.testing.assert_allclose(found, plain.class_weighted(labels, 3, RULES[rule]), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_mean_weight_over_the_voxels_of_each_image_is_one(rule):
    found = weighted(batch(54, (31, 23)), 4, weights=rule)
    np.testing.assert_allclose(found.true.mean(axis=(1, 2)), -1, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_statistics_are_of_the_image_not_of_its_batch(rule):
    labels = batch(55, (13, 17))
    together = weighted(labels, 4, weights=rule).true
    alone = np.concatenate([weighted(one[None], 4, weights=rule).true for one in labels])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("rule", RULES)
def test_ignored_voxels_are_not_counted(rule):
    labels = batch(56, (15, 12)).astype(int)
    labels[:, :, 8:] = 9
    regions = Regions(labels, 4, ignore_label=9)
    found = maps.ClassWeighted(weights=rule)(regions).dense()
    wanted = plain.class_weighted(np.where(labels == 9, -1, labels), 4, RULES[rule])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


# --- Parameters


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1, -1), (1, np.nan), (np.inf, 1)], ids=str)
def test_weights_that_are_not_above_zero(weights):
    with pytest.raises(RWLossError, match=r"should be (greater than 0|a finite number)"):
        maps.ClassWeighted(weights=weights)


@pytest.mark.parametrize("weights", ["inverze", 3, None, ("a", "b"), {"a": 1}], ids=str)
def test_weights_of_the_wrong_type(weights):
    with pytest.raises(RWLossError, match=r"class_weighted\(weights="):
        maps.ClassWeighted(weights=weights)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2, np.nan])
def test_beta_out_of_range(beta):
    with pytest.raises(RWLossError, match=r"should be (less than 1|greater than|a finite)"):
        maps.ClassWeighted(beta=beta)


def test_beta_of_the_wrong_type():
    with pytest.raises(RWLossError, match=r"class_weighted\(beta='much'\): Input should"):
        maps.ClassWeighted(beta="much")


def test_one_weight_for_each_class():
    with pytest.raises(RWLossError, match="2 weights given for 3 classes: give one for each"):
        weighted(np.zeros((1, 2, 2), int), 3, weights=(1, 2))


def test_list_of_weights_is_a_tuple():
    assert maps.ClassWeighted(weights=[1, 2]) == maps.ClassWeighted(weights=(1.0, 2.0))
