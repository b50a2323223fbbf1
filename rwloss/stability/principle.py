"""The stability principle, voxel by voxel: stable, flat or violating."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rwloss.arrays import Array, is_torch, namespace
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap

TOLERANCE = 1e-5
"""Differences below this share of a voxel's scale are rounding."""


@dataclass(frozen=True, eq=False)
class Voxels:
    """The kind of each voxel of a map. (b *s) each; true and slack are numbers, the others boolean.

    counted: belongs to a class. usable: counted, and every value is finite. stable: all wrong
    classes share one value and the true class is lower. flat: all K values are equal. Any other
    counted voxel is violating. true: value at the true class, 0 where not usable. slack: the
    rounding at a voxel, TOLERANCE times its scale. The scale is its own largest |z|, or the median
    of that over the map if larger (a voxel may be nothing but rounding).
    """

    counted: Array
    usable: Array
    stable: Array
    flat: Array
    true: Array
    slack: Array

    @property
    def violating(self) -> Array:
        """Neither stable nor flat: some prediction exists at which a push goes the wrong way."""
        return self.counted & ~self.stable & ~self.flat


def voxels(rwmap: RWMap) -> Voxels:
    """What each voxel of a map is. labels (b *s) -> (b *s)."""
    xp = namespace(rwmap.labels)
    parts = _true_and_range_of_wrong(rwmap)
    counted = rwmap.labels != IGNORED
    usable = counted & xp.isfinite(parts[0]) & xp.isfinite(parts[1]) & xp.isfinite(parts[2])
    # A voxel with a value that is not finite is violating, and has no part in the scale.
    true, lowest, highest = (xp.where(usable, part, xp.zeros_like(part)) for part in parts)
    # Never the largest or the mean of the whole map: class weights of 0.0003 and 5000, or the
    # 1 / p of cross-entropy, would make most voxels flat.
    largest = xp.maximum(xp.abs(true), xp.maximum(xp.abs(lowest), xp.abs(highest)))
    slack = TOLERANCE * xp.clip(largest, _median(largest[usable]), None)
    one_value = usable & (highest - lowest <= slack)
    stable = one_value & (true < lowest - slack)
    flat = one_value & (xp.abs(true - lowest) <= slack)
    return Voxels(counted, usable, stable, flat, true, slack)


def channel_of(rwmap: RWMap, usable: Array) -> Callable[[int], Array]:
    """A function that gives the value of class k at each voxel, 0 where not usable. (b *s)."""
    xp = namespace(rwmap.labels)

    def channel(k: int) -> Array:
        if rwmap.is_compact:
            found = xp.where(rwmap.labels == k, _wide(rwmap.true), _wide(rwmap.other))
        else:
            found = _wide(rwmap.values[:, k])
        return xp.where(usable, found, xp.zeros_like(found))

    return channel


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


def _median(values: Array) -> float:
    """The median (the lower of two), 0 without values. The array API has none. (n)."""
    if values.shape[0] == 0:
        return 0.0
    if is_torch(values):
        return float(values.median())
    middle = (values.shape[0] - 1) // 2
    return float(np.partition(values, middle)[middle])


def _wide(values: Array) -> Array:
    """Values in float32 at least: sums and squares of float16 overflow."""
    xp = namespace(values)
    return xp.astype(values, xp.result_type(values.dtype, xp.float32), copy=False)
