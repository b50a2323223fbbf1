"""What hypothesis draws: labels, maps and expressions, all small and from one seed each."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from rwloss import RWMap, maps

few = settings(max_examples=20, deadline=None, derandomize=True, database=None)
many = settings(max_examples=60, deadline=None, derandomize=True, database=None)

KINDS = {"numpy": np.asarray, "torch": torch.as_tensor}


def one_row(kind, values, labels, dtype=np.float64):
    """A dense map of one row of voxels; values: K numbers for each."""
    dense = np.array(values, dtype=dtype).T[None, :, None, :]
    return RWMap.from_dense(kind(np.array([[labels]])), kind(dense))


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
shapes = st.one_of(st.tuples(*[st.integers(1, 5)] * 2), st.tuples(*[st.integers(1, 4)] * 3))
dtypes = st.sampled_from([np.float32, np.float64])
kinds = st.sampled_from([np.asarray, torch.as_tensor])


@st.composite
def some_labels(draw, least_classes=2):
    """Labels (b *s) in which -1 may stand, the number of classes, and a random generator."""
    num_classes, rng = draw(st.integers(least_classes, 8)), draw(seeds)
    lowest = draw(st.sampled_from([0, -1]))
    shape = (draw(st.integers(1, 2)), *draw(shapes))
    return rng.integers(lowest, num_classes, shape), num_classes, rng


def random_map(labels, num_classes, form, rng, dtype, kind=np.asarray):
    """A map of random values, 0 at ignored voxels."""
    ignored = labels == -1
    given = kind(labels)
    if form == "compact":
        true, other = rng.normal(0, 3, (2, *labels.shape)).astype(dtype)
        true[ignored] = other[ignored] = 0
        return RWMap.compact(given, num_classes, true=kind(true), other=kind(other))
    values = rng.normal(0, 3, (len(labels), num_classes, *labels.shape[1:])).astype(dtype)
    values[np.broadcast_to(ignored[:, None], values.shape)] = 0
    return RWMap.from_dense(given, kind(values))


# --- Expressions

numbers = st.one_of(
    st.floats(-10, 10),
    st.integers(-3, 3).map(float),
    st.sampled_from([0.1 + 0.2, 1e-300, -5e-324, 1e15, -1e30, 1 / 3, 0.01]),
)
above_zero = st.floats(1e-9, 100)
class_weights = st.one_of(
    st.sampled_from(["inverse", "inverse_square", "effective_number"]),
    st.tuples(above_zero, above_zero, above_zero),
)
betas = st.floats(0, 1, exclude_max=True)
stable_generators = st.one_of(
    st.just(maps.ActiveContour()),
    st.builds(maps.ClassWeighted, class_weights, betas),
    st.builds(
        maps.Rectified,
        st.sampled_from(["image", "component"]),
        st.none() | above_zero,
        st.none() | class_weights,
        betas,
    ),
    st.builds(maps.UNetBorder, st.floats(0, 100), above_zero, st.none() | class_weights, betas),
    st.builds(maps.SkeletonRecall, st.integers(0, 4)),
    st.builds(maps.ContourWeighted, st.floats(0, 100)),
    st.builds(maps.DistancePenalty, st.floats(0, 100)),
)
static_generators = st.one_of(
    stable_generators,
    st.builds(
        maps.Boundary,
        st.sampled_from(["kervadec", "valverde", "edge", "maurer"]),
        st.sampled_from(["none", "max", "sides"]),
    ),
    st.just(maps.ClassCost()),
)
dynamic_generators = st.one_of(
    st.just(maps.CrossEntropy()),
    st.just(maps.GeneralizedDice()),
    st.just(maps.ActiveContourLength()),
    st.builds(maps.Dice, above_zero, st.none() | above_zero, st.booleans(), st.booleans()),
    st.builds(maps.Focal, st.floats(0, 5)),
    st.builds(maps.Tversky, st.floats(0, 2), st.floats(0, 2), above_zero),
    st.builds(maps.FocalTversky, st.floats(0, 2), st.floats(0, 2), above_zero, above_zero),
    st.builds(maps.HausdorffDT, st.floats(0.1, 4)),
    st.builds(maps.LogHausdorffDT, st.floats(0.1, 4)),
    st.builds(
        maps.SoftClDice, st.integers(0, 3), above_zero, st.sampled_from(["apart", "together"])
    ),
    st.builds(maps.GeneralizedSurface, st.floats(0.1, 4)),
    st.builds(maps.BoundaryDoU, st.floats(-2, 0.99), above_zero),
    st.builds(maps.LovaszSoftmax, st.sampled_from(["present", "all"])),
    st.builds(maps.UnifiedFocal, st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.99)),
    st.builds(maps.Poly, st.floats(0, 5), st.floats(-1, 5)),
    st.just(maps.MCC()),
    st.builds(maps.TvMFDice, st.floats(0, 256)),
    st.builds(maps.SVLS, st.floats(0.1, 4)),
)
generators = static_generators | dynamic_generators


def weighted_sums(terms, weights=numbers):
    """Sums of one to three terms, made with Python's operators."""
    pairs = st.lists(st.tuples(weights, terms), min_size=1, max_size=3)
    return pairs.map(lambda given: sum_of([weight * term for weight, term in given]))


def sum_of(terms):
    total, *more = terms
    for term in more:
        total = total + term
    return total


linked = st.builds(
    lambda inner, q: inner.with_link(q),
    weighted_sums(stable_generators, st.floats(1e-3, 10)) | stable_generators,
    st.floats(0, 1),
)
stabilized = (generators | weighted_sums(generators)).map(lambda inner: inner.stabilized())


def _blends(sides):
    return st.builds(
        maps.blend,
        sides,
        sides,
        st.sampled_from(["rebalance", "constant", "increase", "steal"]),
        st.floats(0, 3),
        st.none() | st.floats(0, 1),
    )


terms = generators | stabilized | linked
expressions = st.recursive(terms, lambda inner: weighted_sums(inner) | _blends(inner), max_leaves=6)
