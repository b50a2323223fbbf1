"""What docs/stability.md says of the map with the largest pull ratio, by linear programs."""

import numpy as np
import pytest
from anatomy import batch
from scipy.optimize import linprog

from rwloss import Regions, RWMap, maps, stability


def least_pull(rwmap):
    """The least pull ratio of the classes besides the background, as `rwloss check` finds it."""
    return stability.check(rwmap).pull[1:].min()


def of_weights(labels, num_classes, weights):
    """The map with these weights (*s) and values from -w / 2 to w / 2."""
    half = weights[None].astype(np.float32) / 2
    return RWMap.compact(labels[None], num_classes, true=-half, other=half)


def largest_by_programs(labels, num_classes, low, high):
    """The largest least Q of all weights from low to high, one per voxel, by bisection.

    Q_c >= t for all c is W_c - t (W - W_c) >= 0: a linear program for each t.
    """
    inside = np.stack([labels.ravel() == c for c in range(1, num_classes)]).astype(float)
    least, most = 0.0, 2.0 * high * labels.size / low
    while most - least > 1e-7 * max(most, 1e-3):
        t = (least + most) / 2
        rows = t * (1 - inside) - inside
        found = linprog(
            np.zeros(labels.size), rows, np.zeros(len(rows)), bounds=[(low, high)] * labels.size
        )
        least, most = (t, most) if found.status == 0 else (least, t)
    return least


def largest_by_formula(labels, num_classes, low, high):
    """Weights (*s) of the page."""
    counts = np.bincount(labels.ravel(), minlength=num_classes).astype(float)
    by_class = np.maximum(high * counts[1:].min() / counts, low)
    by_class[0] = low
    return by_class[labels]


@pytest.mark.parametrize(("num_classes", "low", "high"), [(2, 0.5, 2), (3, 0.1, 2), (4, 0.4, 1)])
def test_no_weights_have_a_larger_least_pull_ratio(num_classes, low, high):
    rng = np.random.default_rng(num_classes)
    for sizes in rng.integers(1, 12, size=(6, num_classes)):
        labels = np.repeat(np.arange(num_classes), sizes)[None]
        weights = largest_by_formula(labels, num_classes, low, high)
        assert low <= weights.min() <= weights.max() <= high
        found = least_pull(of_weights(labels, num_classes, weights))
        best = largest_by_programs(labels, num_classes, low, high)
        assert found == pytest.approx(best, rel=1e-4)
        other = rng.uniform(low, high, size=labels.shape)
        assert least_pull(of_weights(labels, num_classes, other)) <= best * (1 + 1e-5)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_class_weighted_is_the_largest_where_the_background_weighs_as_much(num_classes):
    labels = batch(3, (17, 21), num_classes)
    for image in labels:
        present = Regions(image[None], num_classes)
        assert len(np.unique(image)) == num_classes
        equal = stability.check(maps.get("class_weighted")(present)).pull[1:]
        assert equal == pytest.approx(1 / (num_classes - 1))
        deep = least_pull(maps.get("rectified", weights="inverse")(present))
        assert 1 / (2 * (num_classes - 1)) <= deep <= 2 / (num_classes - 1)


def test_rectified_has_at_most_twice_the_odds_of_a_class():
    labels = batch(4, (17, 21), 4)
    for image in labels:
        counts = np.bincount(image.ravel(), minlength=4)
        odds = counts[1:] / (image.size - counts[1:])
        pull = stability.check(maps.get("rectified")(Regions(image[None], 4))).pull[1:]
        assert (odds / 2 <= pull).all()
        assert (pull <= 2 * odds).all()
