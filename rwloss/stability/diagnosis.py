"""Diagnostics of one map, with one pass over its voxels per class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rwloss.arrays import Array, is_torch, namespace, on_device, read_all, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.stability.pull import Terms, dead_pulls, prior_pulls, term_squares
from rwloss.stability.pushes import (
    Probs,
    by_image,
    channel,
    full_probabilities,
    probabilities,
    pushes,
    voxels,
)
from rwloss.stability.report import DEAD, DISTANCES, FloatArray, StabilityReport, ratio

NOTICEABLE = 1e-4
"""Pushes below this share of the mean |gradient| count only in masses."""

_DEPTHS = (1, 2, 5)  # the ends of DISTANCES, in smallest spacings

# Fields of a report: sums over voxels, and over or ends of the values of each channel.
_SUMMED = (
    "voxels",
    "stable_voxels",
    "flat_voxels",
    "raised_pairs",
    "lowered_voxels",
    "push",
    "wrong_push",
    "pull_up",
)
_ENDS = ("lowest", "highest", "positive", "negative")


def check(
    rwmap: RWMap,
    probs: Probs = "uniform",
    *,
    seed: int = 0,
    first_image: int = 0,
    regions: Regions | None = None,
) -> StabilityReport:
    """Diagnostics of a map. labels (b *s) -> a report; see `StabilityReport` for its numbers.

    probs: the probabilities at which the gradient is computed: "uniform" is 1 / K for every class,
    "random" is drawn uniformly from the simplex at each voxel (Dirichlet(1, ..., 1), from the
    seed), or an array (b k *s), such as the softmax of a network's output. Fractions of stable,
    flat and violating voxels, value range and pull ratios do not depend on it.
    first_image: number of the first image in its dataset, so that random probabilities do not
    depend on the batches. regions: of the same labels, for the split by distance to the edge.

    A push counts if its gradient is more than 1e-4 of the mean |gradient|, and more than rounding
    of the map. Voxels with label -1 never count. Works on NumPy arrays and torch tensors on any
    device; the report holds NumPy arrays. Raises RWLossError if probs or regions do not fit the
    map.

    Source: the principle of Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405.

    >>> labels = np.array([[[0, 1, 1, 2]]])
    >>> true, other = np.array([[[-1.0, -1.0, 0.0, 2.0]]]), np.zeros((1, 1, 4))
    >>> report = check(RWMap.compact(labels, 3, true, other))
    >>> report.stable, report.flat, report.violating
    (0.5, 0.25, 0.25)
    >>> report.pushed_up  # both wrong classes of the last voxel: 2 of 8 pairs
    0.25
    """
    labels, k = rwmap.labels, rwmap.num_classes
    if not (
        regions is None
        or regions.labels is labels
        or np.array_equal(to_numpy(regions.labels), to_numpy(labels))
    ):
        raise RWLossError(
            f"regions of labels {tuple(regions.labels.shape)} are not those of the map "
            f"{tuple(labels.shape)}: give the regions that the map was made from"
        )
    given = probabilities(probs, labels, k, seed=seed, first_image=first_image)
    return _report(rwmap, given, regions)


def check_expression(
    expression: Expression,
    regions: Regions,
    probs: Probs = "uniform",
    *,
    seed: int = 0,
    first_image: int = 0,
) -> StabilityReport:
    """Diagnostics of an expression on real labels. labels (b *s) -> a report.

    Unlike the report of a map, it has pull exponents and effective weights, and its pull ratios are
    valid for dynamic terms too. Dynamic terms (Dice, links) get the same probabilities as the
    diagnostics, and import torch. Schedules are at their first epoch. The other arguments are those
    of `check`.

    first_image: as for `check`.

    >>> from rwloss import maps
    >>> regions = Regions(np.array([[[0, 0, 0, 1, 1, 2]]]), num_classes=3)
    >>> check_expression(maps.Boundary(), regions).violating
    1.0
    >>> check_expression(maps.Rectified(), regions).violating
    0.0
    """
    labels, k = regions.labels, regions.num_classes
    given = probabilities(probs, labels, k, seed=seed, first_image=first_image)
    terms = Terms(expression, regions)
    if expression.is_static:
        report = _report(terms(None), given, regions)
        # The push of a fixed map on a class is its probability times a constant.
        dead = np.outer(DEAD, report.pull_up)
    else:
        rwmap = terms(full_probabilities(given, labels, k))
        report = _report(rwmap, given, regions, prior_pulls(terms, labels, k))
        dead = dead_pulls(terms)
    return replace(report, dead_pulls=dead, terms=term_squares(terms))


def _report(
    rwmap: RWMap,
    probs: Array | None,
    regions: Regions | None,
    pulls: tuple[FloatArray, FloatArray] | None = None,
) -> StabilityReport:
    """Sums over one batch. probs (b k *s), None for uniform ones. pulls (b k): as `prior_pulls`."""
    [report] = reports(read_all(stability_sums(rwmap, probs, regions)), pulls)
    return report


def stability_sums(
    rwmap: RWMap, probs: Array | None, regions: Regions | None = None, *, groups: int = 1
) -> dict[str, Array]:
    """What `reports` are made of, not yet read from the device. probs (b k *s), None if uniform.

    groups: of how many maps of equal size the map consists, one after another; each has a report.
    labels (b *s) -> those of _SUMMED (b k d), by image, true class and distance; pull_down (b k);
    squares, not_finite (b); lowest, highest, positive, negative (g k).
    """
    labels, num_classes = rwmap.labels, rwmap.num_classes
    xp, found = namespace(labels), voxels(rwmap, groups)
    shape = (labels.shape[0], num_classes, 1 if regions is None else len(DISTANCES))
    places = _places(shape, labels, found.counted, regions)
    every = tuple(range(1, labels.ndim))

    def sums(values: Array) -> Array:
        """Sums over the voxels of each place. (b *s) -> (b k d), float64."""
        flat = xp.reshape(values, (-1,))
        size = math.prod(shape) + 1
        if is_torch(flat):
            wide = flat.double()
            found = wide.new_zeros(size).scatter_add_(0, places, wide)
        else:
            found = np.asarray(np.bincount(places, flat, minlength=size), dtype=np.float64)
        return xp.reshape(found[:-1], shape)

    def of_group(values: Array) -> Array:
        """Sums over the images of each group. (b) -> (g)."""
        return xp.sum(xp.reshape(values, (groups, -1)), axis=1)

    push = sum(xp.abs(one.gradient) for one in pushes(rwmap, probs, found))
    pairs = of_group(xp.sum(found.counted, axis=every)) * num_classes
    least = NOTICEABLE * of_group(xp.sum(push, axis=every, dtype=xp.float64))
    least = by_image(xp.astype(least / xp.clip(pairs, 1, None), push.dtype), push)

    wrong_push = xp.zeros_like(push)
    raised, lowered = xp.zeros_like(push), xp.zeros_like(push)
    squares, down, ranges = [], [], []
    for one in pushes(rwmap, probs, found):
        size, values = xp.abs(one.gradient), one.values
        wrong_push = wrong_push + xp.where(one.wrong_way, size, xp.zeros_like(size))
        counts = one.wrong_way & one.noticeable & (size > least)
        own = labels == one.k
        raised = raised + xp.astype(counts & ~own, raised.dtype)
        lowered = lowered + xp.astype(counts & own, raised.dtype)
        squares.append(xp.sum(size * size, axis=every, dtype=xp.float64))
        above = xp.where(own, xp.zeros_like(values), xp.clip(values - found.true, 0.0, None))
        down.append(xp.sum(above, axis=every, dtype=xp.float64))
        ranges.append(_ranges(values, found.usable, groups))

    summed = (
        found.counted,
        found.stable,
        found.flat,
        raised,
        lowered,
        push,
        wrong_push,
        channel(rwmap, found.usable, 0) - found.true,
    )
    return {
        **{name: sums(values) for name, values in zip(_SUMMED, summed, strict=True)},
        "pull_down": xp.stack(down, axis=1),
        "squares": sum(squares),
        "not_finite": xp.sum(found.counted & ~found.usable, axis=every),
        **{
            name: xp.stack([of_class[end] for of_class in ranges], axis=1)
            for end, name in enumerate(_ENDS)
        },
    }


def reports(
    sums: Mapping[str, FloatArray], pulls: tuple[FloatArray, FloatArray] | None = None
) -> Iterator[StabilityReport]:
    """The report of each group, from its `stability_sums`. pulls (b k): as `prior_pulls`."""
    groups, num_classes = sums["lowest"].shape
    voxels_of = sums["voxels"].sum(axis=2)  # (b k)
    pull_up, pull_down = pulls or (sums["pull_up"].sum(axis=2), sums["pull_down"])
    pull = np.where(voxels_of > 0, ratio(pull_up, pull_down), np.nan)
    pull[:, 0] = np.nan
    squares = sums["squares"] / np.maximum(1, voxels_of.sum(axis=1) * num_classes)
    images = len(squares) // groups

    def by_group(values: FloatArray) -> FloatArray:
        """The images of each group on an axis of their own. (b ...) -> (g n ...)."""
        return values.reshape(groups, images, *values.shape[1:])

    found: dict[str, Any] = {
        **{name: by_group(sums[name]).sum(axis=1) for name in _SUMMED[:-1]},
        **{name: sums[name] for name in _ENDS},
        "pull_up": by_group(pull_up).sum(axis=1),
        "pull_down": by_group(pull_down).sum(axis=1),
        "least_pull": np.fmin.reduce(by_group(pull), axis=1, initial=np.nan),
        "images_with": by_group(voxels_of > 0).sum(axis=1).astype(np.float64),
        "squares": by_group(squares),
    }
    not_finite = by_group(sums["not_finite"]).sum(axis=1)
    for group in range(groups):
        yield StabilityReport(
            **{name: values[group] for name, values in found.items()},
            dead_pulls=np.full((len(DEAD), num_classes), np.nan),
            not_finite=int(not_finite[group]),
        )


def _places(
    shape: tuple[int, int, int], labels: Array, counted: Array, regions: Regions | None
) -> Array:
    """Number of each voxel's place: its image, true class and distance to the edge. (b·i), int64.

    Voxels that don't count are in one more place, the last.
    """
    xp = namespace(labels)
    image = xp.arange(shape[0], **on_device(labels))
    group = xp.reshape(image, (-1, *[1] * (labels.ndim - 1))) * shape[1]
    group = group + xp.astype(labels, xp.int64)
    if regions is not None:
        group = group * shape[2] + _distances(regions)
    return xp.reshape(xp.where(counted, group, xp.full_like(group, math.prod(shape))), (-1,))


def _distances(regions: Regions) -> Array:
    """Number of each voxel's bin of DISTANCES. (b *s), int64."""
    xp, labels = regions.xp, regions.labels
    # Depths are float32 roots: a depth of 1 spacing may be a little larger.
    steps = regions.depth_mm / (regions.smallest_spacing_mm * (1 + 1e-4))
    found = sum(xp.astype(steps > depth, xp.int64) for depth in _DEPTHS)
    flat = xp.reshape(labels, (labels.shape[0], -1))
    whole = xp.all(flat == flat[:, :1], axis=1) if flat.shape[1] else xp.ones_like(flat[:, 0])
    whole = xp.reshape(whole, (-1, *[1] * (labels.ndim - 1)))
    return xp.where(whole, xp.full_like(found, len(_DEPTHS)), found)


def _ranges(values: Array, usable: Array, groups: int) -> list[Array]:
    """Least and largest usable value, and the sums above and below 0, of each group. (b *s) -> (g).

    In the order of _ENDS. Without any voxel the least value is inf and the largest -inf.
    """
    xp = namespace(values)
    found = []
    for end, bound in ((xp.min, xp.inf), (xp.max, -xp.inf)):
        nothing = xp.full((), bound, dtype=values.dtype, **on_device(values))
        if 0 in values.shape:
            found.append(xp.broadcast_to(nothing, (groups,)))
        else:
            found.append(end(xp.reshape(xp.where(usable, values, nothing), (groups, -1)), axis=1))
    rows = xp.reshape(values, (groups, -1))
    return found + [
        xp.sum(xp.clip(sign * rows, 0.0, None), axis=1, dtype=xp.float64) for sign in (1, -1)
    ]
