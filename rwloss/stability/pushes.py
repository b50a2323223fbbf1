"""How gradient descent pushes each logit, and which of these pushes go the wrong way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from rwloss.arrays import Array, from_numpy, is_torch, namespace, on_device, to_numpy
from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap
from rwloss.stability.principle import Voxels, channel_of, voxels

# The probabilities of the diagnostics: a rule, or an array (b k *s).
Probs: TypeAlias = Literal["uniform", "random"] | Array


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


def pushes(
    rwmap: RWMap, probs: Callable[[int], Any], found: Voxels | None = None
) -> Iterator[Push]:
    """The push on each class in turn. labels (b *s), probs(k) a number or (b *s).

    By the principle, nothing is pushed the wrong way at stable and flat voxels, so pushes that
    come from rounding are ignored there.
    """
    found = voxels(rwmap) if found is None else found
    xp, labels, violating = namespace(rwmap.labels), rwmap.labels, found.violating
    channel = channel_of(rwmap, found.usable)
    expected: Any = 0.0
    for k in range(rwmap.num_classes):
        expected = expected + probs(k) * channel(k)
    for k in range(rwmap.num_classes):
        values, prob = channel(k), probs(k)
        above = values - expected
        gradient = prob * above
        wrong_way = violating & xp.where(labels == k, gradient > 0, gradient < 0)
        yield Push(k, values, gradient, wrong_way, xp.abs(above) > found.slack)


def probabilities(
    probs: Probs, labels: Array, num_classes: int, *, seed: int = 0, first_image: int = 0
) -> Array | None:
    """Probabilities (b k *s) of a rule, or those given, checked; None for "uniform".

    "random" are uniform over the simplex, Dirichlet(1, ..., 1), independent at each voxel; they
    depend only on the seed and the number of the image, not on the batches.
    """
    if isinstance(probs, str):
        if probs == "uniform":
            return None
        if probs == "random":
            return _random(labels, num_classes, seed, first_image)
        raise RWLossError(f'expected probs "uniform", "random" or (b k *s), got {probs!r}')
    return _given(probs, labels, num_classes)


def full_probabilities(given: Array | None, labels: Array, num_classes: int) -> Array:
    """The same with uniform ones as an array, which dynamic terms need. (b k *s)."""
    if given is not None:
        return given
    xp = namespace(labels)
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    return xp.full(shape, 1.0 / num_classes, dtype=xp.float32, **on_device(labels))


def by_class(given: Array | None, num_classes: int) -> Callable[[int], Any]:
    """A function that gives the probability of class k: a number if all are equal."""
    if given is None:
        return lambda k: 1.0 / num_classes
    return lambda k: given[:, k]


def _random(labels: Array, num_classes: int, seed: int, first_image: int) -> Array:
    shape = (num_classes, *labels.shape[1:])
    drawn = np.empty((labels.shape[0], *shape), dtype=np.float32)
    for number, image in enumerate(drawn, first_image):
        # In float64: float32 sometimes draws a 0, and dynamic maps divide by probabilities.
        weights = np.random.default_rng([seed, number]).standard_exponential(shape)
        np.divide(weights, weights.sum(axis=0), out=image, casting="same_kind")
    return from_numpy(drawn, labels)


def _given(probs: Array, labels: Array, num_classes: int) -> Array:
    namespace(probs)  # refuses lists and the like
    expected = (labels.shape[0], num_classes, *labels.shape[1:])
    if tuple(probs.shape) != tuple(expected):
        raise RWLossError(
            f"expected probs {tuple(expected)} like the map, got {tuple(probs.shape)}"
        )
    if is_torch(probs) and is_torch(labels):
        probs = probs.detach().to(labels.device)
    else:
        probs = from_numpy(to_numpy(probs), labels)
    xp = namespace(probs)
    if not xp.isdtype(probs.dtype, "real floating"):
        raise RWLossError(f"expected floating probs, got dtype {probs.dtype}")
    probs = xp.astype(probs, xp.result_type(probs.dtype, xp.float32), copy=False)
    if 0 not in probs.shape and not (
        xp.min(probs) >= -_ROUNDING and xp.max(probs) <= 1 + _ROUNDING
    ):
        raise RWLossError(
            f"expected probs of 0 to 1, got {float(xp.min(probs)):g} to {float(xp.max(probs)):g}: "
            "take the softmax of the logits over their class axis first"
        )
    return probs


_ROUNDING = 1e-2  # of bfloat16
