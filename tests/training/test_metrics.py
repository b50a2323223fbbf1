import itertools

import numpy as np
import pytest

from rwloss import RWLossError
from rwloss.training import by_class, dice


def naive_dice(predicted, labels, k):
    """2 |A and B| / (|A| + |B|), voxel by voxel; None where both are empty."""
    both = only = 0
    for found, truth in zip(predicted.ravel(), labels.ravel(), strict=True):
        if truth < 0:
            continue
        both += found == k and truth == k
        only += (found == k) != (truth == k)
    return 2 * both / (2 * both + only) if both + only else None


@pytest.mark.parametrize("shape", [(7, 6), (5, 4, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_against_counting(seed, shape):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(-1, 3, shape), rng.integers(0, 4, shape)
    found = dice(predicted, labels, 4)
    assert found == pytest.approx([naive_dice(predicted, labels, k) for k in range(4)])


def test_against_counting_on_every_small_pair():
    """All pairs of label maps of three voxels with three classes: every kind of empty class."""
    for truth, found in itertools.product(itertools.product(range(3), repeat=3), repeat=2):
        labels, predicted = np.array([truth]), np.array([found])
        expected = [naive_dice(predicted, labels, k) for k in range(3)]
        assert dice(predicted, labels, 3) == pytest.approx(expected), (truth, found)


def test_empty_classes_are_counted_and_never_nan():
    truths = [np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 0]]), np.array([[0, 0, 0, 1]])]
    predictions = [np.array([[0, 0, 1, 0]]), np.array([[0, 0, 1, 0]]), np.array([[0, 0, 0, 0]])]
    background, first, second = by_class(predictions, truths, 3)
    assert background.absent == background.missed == background.invented == 0
    assert first.cases == pytest.approx((2 / 3, 0.0, 0.0))
    assert (first.missed, first.invented, first.absent, first.measured) == (1, 1, 0, 3)
    assert first.mean == pytest.approx(2 / 9)
    assert second.cases == (None, None, None)
    assert (second.missed, second.invented, second.absent, second.measured) == (0, 0, 3, 0)
    assert second.mean is None


def test_absent_cases_have_no_part_in_the_mean():
    labels = [np.array([[0, 1]]), np.array([[0, 0]])]
    [_, first] = by_class(labels, labels, 2)
    assert first.cases == (1.0, None)
    assert first.mean == 1.0


def test_ignored_voxels_count_nowhere():
    labels, predicted = np.array([[0, 1, -1, -1]]), np.array([[0, 1, 1, 2]])
    assert dice(predicted, labels, 3) == (1.0, 1.0, None)
    [_, _, second] = by_class([predicted], [labels], 3)
    assert (second.invented, second.absent) == (0, 1)


def test_shapes_must_agree():
    with pytest.raises(RWLossError, match=r"prediction \(2, 3\) and labels \(3, 2\)"):
        dice(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
