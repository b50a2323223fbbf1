"""The stability principle voxel by voxel, and how gradient descent pushes each logit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from rwloss.arrays import Array, from_numpy, is_torch, namespace, on_device, to_numpy
from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap

# The probabilities of the diagnostics: a rule, or an array (b k *s).
Probs: TypeAlias = Literal["uniform", "random"] | Array

TOLERANCE = 1e-5
"""Differences below this share of a voxel's scale are rounding."""

_ROUNDING = 1e-2  # of probabilities in bfloat16


@dataclass(frozen=True, eq=False)
class Voxels:
    """The kind of each voxel of a map. (b *s) each; true and slack are numbers, the others boolean.

    counted: belongs to a class. usable: counted, and every value is finite. stable: all wrong
    classes share one value and the true class is lower. flat: all K values are equal. Any other
    counted voxel is violating. true: value at the true class, 0 where not usable. slack: the
    rounding at a voxel, TOLERANCE times its scale. The scale is its own largest |z|, or the median
    of that over the map if larger (a voxel may be nothing but rounding). With several groups of
    images, the median is that of each group.
    """

    counted: Array
    usable: Array
    stable: Array
    flat: Array
    true: Array
    slack: Array


@dataclass(frozen=True, eq=False)
class Push:
    """What a map does to the logit of one class k. (b *s) each.

    values: z_k. gradient: p_k (z_k - sum_j p_j z_j), which is dL/dlogit_k times B·K·N; descent
    goes against it, so below 0 the logit is pushed up. wrong_way: boolean, where the class is
    wrong and pushed up, or true and pushed down. noticeable: where the gradient is more than the
    rounding of the map can explain. All are 0 at voxels that don't count.
    """

    k: int
    values: Array
    gradient: Array
    wrong_way: Array
    noticeable: Array


def voxels(rwmap: RWMap, groups: int = 1) -> Voxels:
    """The kind of each voxel of a map. labels (b *s) -> (b *s).

    groups: of how many maps of equal size it consists, one after another.
    """
    xp = namespace(rwmap.labels)
    parts = _true_and_range_of_wrong(rwmap)
    counted = rwmap.labels != IGNORED
    usable = counted & xp.isfinite(parts[0]) & xp.isfinite(parts[1]) & xp.isfinite(parts[2])
    # A voxel with a value that is not finite is violating, and is excluded from the scale.
    true, lowest, highest = (xp.where(usable, part, xp.zeros_like(part)) for part in parts)
    # Never the largest or the mean of the whole map: class weights of 0.0003 and 5000, or the
    # 1 / p of cross-entropy, would make most voxels flat.
    largest = xp.maximum(xp.abs(true), xp.maximum(xp.abs(lowest), xp.abs(highest)))
    slack = TOLERANCE * xp.maximum(largest, by_image(_medians(largest, usable, groups), largest))
    one_value = usable & (highest - lowest <= slack)
    stable = one_value & (true < lowest - slack)
    flat = one_value & (xp.abs(true - lowest) <= slack)
    return Voxels(counted, usable, stable, flat, true, slack)


def by_image(values: Array, like: Array) -> Array:
    """A number of each group as that of its images, for voxels like (b *s). (g) -> (b 1 ...)."""
    xp, images = namespace(values), like.shape[0]
    rows = xp.broadcast_to(values[:, None], (values.shape[0], images // values.shape[0]))
    return xp.reshape(rows, (images, *[1] * (like.ndim - 1)))


def channel(rwmap: RWMap, usable: Array, k: int) -> Array:
    """Value of class k at each voxel, 0 where not usable. (b *s)."""
    xp = namespace(rwmap.labels)
    if rwmap.is_compact:
        found = xp.where(rwmap.labels == k, _wide(rwmap.true), _wide(rwmap.other))
    else:
        found = _wide(rwmap.values[:, k])
    return xp.where(usable, found, xp.zeros_like(found))


def pushes(rwmap: RWMap, probs: Array | None, found: Voxels | None = None) -> Iterator[Push]:
    """The push on each class in turn. labels (b *s), probs (b k *s) or None for 1 / K.

    By the principle, nothing is pushed the wrong way at stable and flat voxels, so pushes that
    come from rounding are ignored there.
    """
    found = voxels(rwmap) if found is None else found
    xp, labels, num_classes = namespace(rwmap.labels), rwmap.labels, rwmap.num_classes
    violating = found.counted & ~found.stable & ~found.flat

    def prob(k: int) -> Any:
        return 1.0 / num_classes if probs is None else probs[:, k]

    expected: Any = 0.0
    for k in range(num_classes):
        expected = expected + prob(k) * channel(rwmap, found.usable, k)
    for k in range(num_classes):
        values = channel(rwmap, found.usable, k)
        above = values - expected
        gradient = prob(k) * above
        wrong_way = violating & xp.where(labels == k, gradient > 0, gradient < 0)
        yield Push(k, values, gradient, wrong_way, xp.abs(above) > found.slack)


def probabilities(
    probs: Probs, labels: Array, num_classes: int, *, seed: int = 0, first_image: int = 0
) -> Array | None:
    """Probabilities (b k *s) from a rule, or the given ones, checked; None for "uniform".

    "random" are uniform over the simplex, Dirichlet(1, ..., 1), independent at each voxel; they
    depend only on the seed and the number of the image, not on the batches.
    """
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    if not isinstance(probs, str):
        return _checked(probs, labels, shape)
    if probs == "uniform":
        return None
    if probs != "random":
        raise RWLossError(f'expected probs "uniform", "random" or (b k *s), got {probs!r}')
    drawn = np.empty(shape, dtype=np.float32)
    for number, image in enumerate(drawn, first_image):
        # In float64: float32 sometimes draws a 0, and dynamic maps divide by probabilities.
        weights = np.random.default_rng([seed, number]).standard_exponential(shape[1:])
        np.divide(weights, weights.sum(axis=0), out=image, casting="same_kind")
    return from_numpy(drawn, labels)


def full_probabilities(given: Array | None, labels: Array, num_classes: int) -> Array:
    """Probabilities as an array even if uniform, which dynamic terms need. (b k *s)."""
    if given is not None:
        return given
    xp = namespace(labels)
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    return xp.full(shape, 1.0 / num_classes, dtype=xp.float32, **on_device(labels))


def _checked(probs: Array, labels: Array, shape: tuple[int, ...]) -> Array:
    """The given probabilities in the labels' array type, float32 at least. (b k *s)."""
    namespace(probs)  # refuses lists and the like
    if tuple(probs.shape) != shape:
        raise RWLossError(f"expected probs {shape} like the map, got {tuple(probs.shape)}")
    if is_torch(probs) and is_torch(labels):
        probs = probs.detach().to(labels.device)
    else:
        probs = from_numpy(to_numpy(probs), labels)
    xp = namespace(probs)
    if not xp.isdtype(probs.dtype, "real floating"):
        raise RWLossError(f"expected floating probs, got dtype {probs.dtype}")
    probs = _wide(probs)
    if 0 in shape or (xp.min(probs) >= -_ROUNDING and xp.max(probs) <= 1 + _ROUNDING):
        return probs
    raise RWLossError(
        f"expected probs of 0 to 1, got {float(xp.min(probs)):g} to {float(xp.max(probs)):g}: "
        "take the softmax of the logits over their class axis first"
    )


def _true_and_range_of_wrong(rwmap: RWMap) -> tuple[Array, Array, Array]:
    """Value at the true class, lowest and highest at the others. (b *s) each."""
    if rwmap.is_compact:
        true, other = _wide(rwmap.true), _wide(rwmap.other)
        return true, other, other
    xp, values = namespace(rwmap.labels), rwmap.values
    true = xp.zeros_like(_wide(values[:, 0]))
    lowest, highest = xp.full_like(true, xp.inf), xp.full_like(true, -xp.inf)
    for k in range(rwmap.num_classes):
        here, value = rwmap.labels == k, _wide(values[:, k])
        true = xp.where(here, value, true)
        lowest = xp.where(here, lowest, xp.minimum(lowest, value))
        highest = xp.where(here, highest, xp.maximum(highest, value))
    return true, lowest, highest


def _medians(values: Array, usable: Array, groups: int) -> Array:
    """The median of the usable values of each group (the lower of two), 0 without any. (g).

    The array API has none. values, usable (b *s).
    """
    xp = namespace(values)
    if 0 in values.shape:
        return xp.zeros((groups,), dtype=values.dtype, **on_device(values))
    rows, usable = (xp.reshape(each, (groups, -1)) for each in (values, usable))
    if is_torch(values) and values.device.type == "cpu":
        return rows.where(usable, xp.nan).nanmedian(dim=1).values.nan_to_num(0.0)
    if is_torch(values):  # there torch has no deterministic median; this does not wait either
        last = (usable.sum(dim=1, keepdim=True) - 1).clamp_min(0)
        middle = rows.where(usable, xp.inf).sort(dim=1).values.gather(1, last // 2)[:, 0]
        return middle.where(usable.any(dim=1), 0.0)
    found = [
        np.quantile(row[here], 0.5, method="lower") if here.any() else 0.0
        for row, here in zip(rows, usable, strict=True)
    ]
    return np.asarray(found, dtype=values.dtype)


def _wide(values: Array) -> Array:
    """Values in float32 at least: sums and squares of float16 overflow."""
    xp = namespace(values)
    return xp.astype(values, xp.result_type(values.dtype, xp.float32), copy=False)
