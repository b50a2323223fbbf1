"""Statistics of differences between maps: permutation tests paired by seed, Holm, intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError

ALPHA = 0.05
"""Significance level of all tests; intervals are at 1 - ALPHA."""

_EXACT_UP_TO = 13  # seeds: all 8,192 flips; beyond, as many are drawn
_RESAMPLES = 9999
_EXACT_ORDERS_UP_TO = 7  # pairs of a rank correlation: 5,040 orders


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval (percentile, at 1 - ALPHA). low is mean for one value."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Verdict:
    """The result of a sign-flip test of paired differences, one comparison of several.

    p: two-sided, of the mean. corrected_p: by Holm's step-down over all comparisons.
    least_corrected_p: the smallest possible for this number of pairs; above ALPHA nothing can be
    claimed.
    """

    p: float
    corrected_p: float
    least_corrected_p: float

    @property
    def can_claim(self) -> bool:
        """Whether this number of seeds can show a difference at all."""
        return self.least_corrected_p <= ALPHA

    @property
    def significant(self) -> bool:
        """Whether the difference is significant; never if nothing can be claimed."""
        return self.can_claim and self.corrected_p <= ALPHA


@dataclass(frozen=True)
class Comparison(Verdict):
    """One map against the reference, paired by the seeds that both have, or by splits.

    seeds: those that both have; if splits differ too, the splits, over whose runs differences are
    averaged. difference: map - reference, mean over seeds; None without a common seed.
    seeds_needed: the smallest number with which something could be claimed; None if none is enough.
    comparisons: their number, for which p is corrected. values: of the study's axes.
    """

    map: str
    reference: str
    seeds: tuple[Any, ...]
    difference: Interval | None
    seeds_needed: int | None
    comparisons: int
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of n pairs, with the p of a permutation test.

    rho and p are None if one side has fewer than two distinct values, or n is below 3.
    """

    n: int
    rho: float | None = None
    p: float | None = None


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean and bootstrap interval of one or more values. Raises RWLossError for none.

    >>> interval([0.5, 0.5, 0.5])
    Interval(mean=0.5, low=0.5, high=0.5, n=3)
    """
    found = np.asarray(values, dtype=np.float64)
    if not found.size or not np.isfinite(found).all():
        raise RWLossError(f"expected finite values to average, got {list(values)}")
    mean = float(found.mean())
    if np.ptp(found) == 0:
        return Interval(mean, mean, mean, found.size)
    means = found[_drawn_places(found.size, seed)].mean(axis=1)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(mean, float(low), float(high), found.size)


@lru_cache(maxsize=2)
def _drawn_places(n: int, seed: int) -> NDArray[np.int64]:
    """Indices of n values in each resample, drawn with replacement. (resamples n)."""
    return np.random.default_rng(seed).integers(0, n, (_RESAMPLES, n))


def sign_flip_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p of the mean of paired differences, under random signs.

    Exact up to 13 differences; with more, from 9,999 random flips. 1 for none.

    >>> [sign_flip_p([1.0] * n) for n in (4, 5, 6)]
    [0.125, 0.0625, 0.03125]
    """
    found = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(found).all():
        raise RWLossError(f"expected finite differences, got {list(differences)}")
    if found.size < 2 or not found.any():
        return 1.0
    total, sums = found.sum(), _signs(found.size, seed) @ found
    rounding = 1e-13 * np.abs(found).sum()
    tails = (sums <= total + rounding).sum(), (sums >= total - rounding).sum()
    own = int(found.size > _EXACT_UP_TO)  # all flips hold the differences as they are
    return min(1.0, 2 * (int(min(tails)) + own) / (len(sums) + own))


@lru_cache(maxsize=16)
def _signs(n: int, seed: int) -> NDArray[np.float64]:
    """-1 or 1 for each of n values, in all flips or in random ones. (flips n)."""
    if n > _EXACT_UP_TO:
        return np.random.default_rng(seed).choice([-1.0, 1.0], (_RESAMPLES, n))
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def smallest_p(n: int) -> float:
    """The smallest p that `sign_flip_p` can give for n differences.

    >>> [smallest_p(n) for n in (1, 4, 5, 6)]
    [1.0, 0.125, 0.0625, 0.03125]
    """
    if n < 1:
        return 1.0
    return 2 / (2**n if n <= _EXACT_UP_TO else _RESAMPLES + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order, m = np.argsort(p_values, kind="stable"), len(p_values)
    corrected = np.zeros(m)
    scaled = np.arange(m, 0, -1) * np.asarray(p_values)[order]
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, scaled))
    return corrected.tolist()


def verdicts(differences: Sequence[Sequence[float]], *, seed: int = 0) -> list[Verdict]:
    """The verdicts of several comparisons: paired sign flips, and Holm's correction.

    >>> [found.significant for found in verdicts([[0.1] * 7, [0.1, -0.1] * 4])]
    [True, False]
    """
    p = [sign_flip_p(each, seed=seed) for each in differences]
    least = holm([smallest_p(len(each)) for each in differences])
    return [Verdict(*each) for each in zip(p, holm(p), least, strict=True)]


def seeds_needed(comparisons: int) -> int | None:
    """Smallest number of seeds with which comparisons can be significant after Holm's correction.

    None if no number is enough, because p of many seeds comes from a limited number of flips.

    >>> seeds_needed(1), seeds_needed(4), seeds_needed(300)
    (6, 8, None)
    """
    if comparisons < 1:
        raise RWLossError(f"expected 1 comparison or more, got {comparisons}")
    enough = (n for n in range(1, _EXACT_UP_TO + 1) if comparisons * smallest_p(n) <= ALPHA)
    return next(enough, None)


def compare(
    values: Mapping[str, Mapping[int, float]], reference: str, *, seed: int = 0
) -> list[Comparison]:
    """Compare every other map with the reference. values: a number for each map and seed.

    Raises RWLossError if the reference has no values.
    """
    return compare_all([values], reference, seed=seed)[0]


def compare_all(
    groups: Sequence[Mapping[str, Mapping[Any, float]]],
    reference: str,
    *,
    unit_of: Callable[[Any], Any] = lambda key: key,
    seed: int = 0,
) -> list[list[Comparison]]:
    """Compare in each of several groups of runs, corrected for the comparisons of all groups.

    groups: each has a number for each map and run, by a key that pairs runs, such as the seed.
    unit_of: the independent part of a key: the differences of its runs are averaged.
    Raises RWLossError if the reference has no values.
    """
    paired: list[tuple[int, str, dict[Any, float]]] = []
    for group, values in enumerate(groups):
        if reference not in values:
            known = ", ".join(map(repr, values))
            raise RWLossError(f"the reference {reference!r} is not one of {known}")
        base = values[reference]
        for name in values:
            if name != reference:
                keys = sorted(values[name].keys() & base.keys())
                differences = {key: values[name][key] - base[key] for key in keys}
                paired.append((group, name, means_by_unit(differences, unit_of)))
    tested = verdicts([[*found.values()] for _, _, found in paired], seed=seed)
    compared: list[list[Comparison]] = [[] for _ in groups]
    for (group, name, found), verdict in zip(paired, tested, strict=True):
        compared[group].append(
            Comparison(
                map=name,
                reference=reference,
                seeds=tuple(found),
                difference=interval([*found.values()], seed=seed) if found else None,
                **vars(verdict),
                seeds_needed=seeds_needed(len(paired)),
                comparisons=len(paired),
            )
        )
    return compared


def means_by_unit(values: Mapping[Any, float], unit_of: Callable[[Any], Any]) -> dict[Any, float]:
    """The mean of the values of each unit.

    >>> means_by_unit({("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 5.0}, lambda key: key[0])
    {'a': 1.5, 'b': 5.0}
    """
    found: dict[Any, list[float]] = {}
    for key, value in values.items():
        found.setdefault(unit_of(key), []).append(value)
    return {unit: sum(own) / len(own) for unit, own in found.items()}


def rank_correlation(
    indicator: Sequence[float], outcome: Sequence[float], *, seed: int = 0
) -> Correlation:
    """Spearman's rank correlation; the p is exact up to 7 pairs. Infinity is the largest rank.

    >>> rank_correlation([1, 2, 3, 4], [10, 20, 30, 25]).rho
    0.8
    """
    from scipy.stats import permutation_test, rankdata

    if len(indicator) != len(outcome) or any(map(math.isnan, (*indicator, *outcome))):
        raise RWLossError("expected as many indicators as outcomes, none of them NaN")
    n = len(indicator)
    if n < 3 or len(set(indicator)) < 2 or len(set(outcome)) < 2:
        return Correlation(n)
    first, second = (rankdata(side) for side in (indicator, outcome))

    def rho(x: np.ndarray) -> float:
        return float(np.corrcoef(x, second)[0, 1])

    exact = n <= _EXACT_ORDERS_UP_TO
    result = permutation_test(
        (first,),
        rho,
        permutation_type="pairings",
        n_resamples=math.factorial(n) if exact else _RESAMPLES,
        vectorized=False,
        rng=np.random.default_rng(seed),
    )
    return Correlation(n, round(float(result.statistic), 12), min(1.0, float(result.pvalue)))
