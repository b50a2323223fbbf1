"""The stability principle: which voxels of a map obey it."""

from __future__ import annotations

from dataclasses import dataclass

from rwloss.arrays import Array, namespace
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap

# Differences below this share of the largest absolute value are rounding.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class StabilityReport:
    """Fractions of the voxels that belong to a class; the three add up to 1.

    stable: all wrong classes share one value and the true class is lower. flat: all K values are
    equal, so there is no gradient. violating: anything else; some prediction exists at which a
    wrong class is pushed up or the true class down (or a value is NaN or infinite).
    """

    stable: float
    flat: float
    violating: float


def check(rwmap: RWMap) -> StabilityReport:
    """Fractions of stable, flat and violating voxels of a map.

    Source: the principle of Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405.

    >>> import numpy as np
    >>> labels = np.array([[[0, 1, 1, 2]]])
    >>> true, other = np.array([[[-1.0, -1.0, 0.0, 2.0]]]), np.zeros((1, 1, 4))
    >>> check(RWMap.compact(labels, 3, true, other))
    StabilityReport(stable=0.5, flat=0.25, violating=0.25)
    """
    xp = namespace(rwmap.labels)
    parts = _true_and_range_of_wrong(rwmap)
    counted = rwmap.labels != IGNORED
    finite = xp.isfinite(parts[0]) & xp.isfinite(parts[1]) & xp.isfinite(parts[2])
    # Whatever is not finite is violating, and no measure for the rest.
    true, lowest, highest = (xp.where(finite, part, xp.zeros_like(part)) for part in parts)
    total = int(xp.count_nonzero(counted))
    if total == 0:
        return StabilityReport(0.0, 0.0, 0.0)
    slack = TOLERANCE * max(float(xp.max(xp.abs(part))) for part in (true, lowest, highest))
    one_value = finite & (highest - lowest <= slack)
    stable = counted & one_value & (true < lowest - slack)
    flat = counted & one_value & (xp.abs(true - lowest) <= slack)
    fractions = [int(xp.count_nonzero(kind)) / total for kind in (stable, flat)]
    violating = int(xp.count_nonzero(counted & ~stable & ~flat)) / total
    return StabilityReport(fractions[0], fractions[1], violating)


def _true_and_range_of_wrong(rwmap: RWMap) -> tuple[Array, Array, Array]:
    """Value at the true class, lowest and highest at the others. (b *s) each."""
    if rwmap.values is None:
        return rwmap.true, rwmap.other, rwmap.other
    xp, values = namespace(rwmap.labels), rwmap.values
    true = xp.zeros_like(values[:, 0])
    lowest, highest = xp.full_like(true, xp.inf), xp.full_like(true, -xp.inf)
    for k in range(rwmap.num_classes):
        here = rwmap.labels == k
        true = xp.where(here, values[:, k], true)
        lowest = xp.where(here, lowest, xp.minimum(lowest, values[:, k]))
        highest = xp.where(here, highest, xp.maximum(highest, values[:, k]))
    return true, lowest, highest
