"""The tags of the built-ins, on realistic labels."""

from functools import cache, partial
from itertools import combinations

import numpy as np
import pytest
from anatomy import batch
from built_ins import TEXTS

from rwloss import Regions, RWMap, maps, moves

SHAPES = [((13, 17), (0.8, 2.5)), ((9, 12, 11), (0.8, 1.0, 2.5))]
MOVES = ["flip", "rot90", "crop"]
PROMISED = [(t, move) for t in TEXTS for move in MOVES if move in maps.parse(t).tags.commutes_with]

# With given weights a crop commutes; the tags are those of the default, which takes the weights
# from the image.
MORE_THAN_PROMISED = {("class_weighted(weights=(1.0, 2.0, 3.0, 4.0))", "crop")}
NOT_PROMISED = [
    (t, move)
    for t in TEXTS
    for move in MOVES
    if (t, move) not in PROMISED and (t, move) not in MORE_THAN_PROMISED
]


def probabilities(given, seed=62):
    """Any prediction. (b k *s), float64."""
    drawn = np.random.default_rng(seed).dirichlet(np.ones(4), given.labels.shape)
    return np.ascontiguousarray(np.moveaxis(drawn, -1, 1))


@cache
def regions(shape, spacing):
    labels = batch(61, shape, 4, size=4)
    labels[2] = 1  # fills the image
    labels[3][labels[3] == 2] = 0  # absent
    labels[0, 3:6, 2:7] = 255  # ignored
    return Regions(labels, 4, [spacing, spacing[::-1]] * 2, ignore_label=255)


def some(move, shape):
    """Moves of one kind: each takes a map or regions. They generate all flips and all turns."""
    axes = range(len(shape))
    if move == "flip":
        return [partial(moves.flip, axes=chosen) for chosen in (*axes, tuple(axes))]
    if move == "rot90":
        return [
            partial(moves.rot90, times=times, axes=pair)
            for pair in combinations(axes, 2)
            for times in (1, 3)
        ]
    return [partial(moves.crop, region=[slice(2, side - 3) for side in shape])]


def both_ways(text, given, move):
    """Values of the moved map, and of the map of what was moved; so for dynamic terms too."""
    generator, probs = maps.parse(text), RWMap.from_dense(given.labels, probabilities(given))
    moved_map = move(generator(given, probs.values))
    map_of_moved = generator(move(given), move(probs).values)
    assert (moved_map.labels == map_of_moved.labels).all()
    return moved_map.dense(), map_of_moved.dense()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_stable_means_no_violating_voxel(text, shape, spacing):
    """All wrong classes share one value, and the true class has no higher one."""
    given = regions(shape, spacing)
    generator = maps.parse(text)
    values = generator(given, probabilities(given)).dense()
    is_true = np.arange(4).reshape(1, 4, *[1] * len(shape)) == given.labels[:, None]
    highest = np.where(is_true, -np.inf, values).max(axis=1)
    lowest = np.where(is_true, np.inf, values).min(axis=1)
    true = np.where(is_true, values, 0).sum(axis=1)
    violating = (highest != lowest) | (true > lowest)
    assert violating.any() != generator.tags.stable


@pytest.mark.parametrize("text", TEXTS)
def test_signed_means_values_below_zero(text):
    generator, given = maps.parse(text), regions(*SHAPES[0])
    assert (generator(given, probabilities(given)).dense() < 0).any() == generator.tags.signed


@pytest.mark.parametrize(("text", "move"), PROMISED)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_a_promised_move_commutes(text, move, shape, spacing):
    for one in some(move, shape):
        moved_map, map_of_moved = both_ways(text, regions(shape, spacing), one)
        scale = np.abs(moved_map).max()
        np.testing.assert_allclose(map_of_moved, moved_map, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize(("text", "move"), NOT_PROMISED)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_a_move_that_is_not_promised_does_not_commute(text, move, shape, spacing):
    def difference(one):
        moved_map, map_of_moved = both_ways(text, regions(shape, spacing), one)
        return np.abs(map_of_moved - moved_map).max()

    assert max(map(difference, some(move, shape))) > 0.01


@pytest.mark.parametrize(("text", "move"), sorted(MORE_THAN_PROMISED))
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_the_exceptions_commute_with_more_than_is_promised(text, move, shape, spacing):
    for one in some(move, shape):
        np.testing.assert_array_equal(*both_ways(text, regions(shape, spacing), one))
