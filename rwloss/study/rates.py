"""How often runs lose a class, with intervals for few runs, and when a class is born."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.study.statistics import ALPHA, holm


@dataclass(frozen=True)
class Rate:
    """A share of runs, count of `of`, with an interval at 1 - ALPHA: see `rate`."""

    count: int
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """count / of."""
        return self.count / self.of


def rate(count: int, of: int) -> Rate | None:
    """A share with its interval: Wilson's score interval; None without runs.

    If all runs or none count, the open bound is the exact one-sided one of Clopper and Pearson, 1 -
    ALPHA^(1/n) for none: "0 of 3" is compatible with a share of up to 63 %. Wilson's bound would be
    56 %, whose coverage at the ends is below its nominal level.
    Sources: Wilson, JASA 22, 1927; Clopper and Pearson, Biometrika 26, 1934.

    >>> round(rate(0, 3).high, 3), round(rate(3, 3).low, 3), round(rate(1, 3).low, 3)
    (0.632, 0.368, 0.061)
    """
    from scipy.stats import binomtest

    if not of:
        return None
    if 0 < count < of:
        found = binomtest(count, of).proportion_ci(1 - ALPHA, method="wilson")
    else:
        test = binomtest(count, of, alternative="greater" if count else "less")
        found = test.proportion_ci(1 - ALPHA, method="exact")
    return Rate(count, of, float(found.low), float(found.high))


@dataclass(frozen=True)
class LossComparison:
    """How often a map and the reference lose a class, in pairs of runs with the same seed.

    more: pairs in which only the map did; fewer: only the reference. p: exact McNemar test,
    two-sided: the probability of counts at least as uneven if both are equally likely.
    corrected_p: by Holm's step-down over all comparisons of a study.
    Source: McNemar, Psychometrika 12, 1947.
    """

    map: str
    values: Mapping[str, Any]
    pairs: int
    more: int
    fewer: int
    p: float
    corrected_p: float = 1.0

    @property
    def significant(self) -> bool:
        """Whether the shares differ."""
        return self.corrected_p <= ALPHA


def compare_losses(
    pairs_of: Sequence[tuple[str, Mapping[str, Any], Sequence[tuple[bool, bool]]]],
) -> list[LossComparison]:
    """Compare each map with the reference. pairs_of: map, values of axes, and whether (map,
    reference) lost a class, for each pair.

    >>> [found] = compare_losses([("boundary", {}, [(True, False)] * 6 + [(True, True)])])
    >>> found.more, found.fewer, found.p
    (6, 0, 0.03125)
    """
    from scipy.stats import binomtest

    found = []
    for name, values, pairs in pairs_of:
        more = sum(here and not there for here, there in pairs)
        fewer = sum(there and not here for here, there in pairs)
        p = float(binomtest(more, more + fewer).pvalue) if more + fewer else 1.0
        found.append(LossComparison(name, values, len(pairs), more, fewer, p))
    corrected = holm([each.p for each in found])
    return [replace(each, corrected_p=p) for each, p in zip(found, corrected, strict=True)]


@dataclass(frozen=True)
class BirthCurve:
    """Share of runs in which a class is not born yet, after each of `steps`: Kaplan and Meier.

    low, high: pointwise band at 1 - ALPHA, from Greenwood's variance of the log-log share. Where
    that is undefined, because the class was born in every run or in none, the open end is that of
    `rate` at the last step. median: the first step with a share below 1/2, or the middle of the
    steps where it is 1/2; None if it stays at 1/2 or above. median_low, median_high: where the band
    meets 1/2.
    Sources: Kaplan and Meier, JASA 53, 1958; Brookmeyer and Crowley, Biometrics 38, 1982.
    """

    steps: tuple[int, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    median: float | None
    median_low: float | None
    median_high: float | None


def birth_curve(births: Sequence[int], censored: Sequence[int]) -> BirthCurve | None:
    """The curve from birth steps, and from runs in which the class was never born.

    births: steps. censored: last steps of runs in which it was never born. None without runs.

    >>> curve = birth_curve([100, 300], censored=[500, 500])
    >>> curve.steps, curve.share, curve.median
    ((0, 100, 300, 500), (1.0, 0.75, 0.5, 0.5), None)
    """
    from scipy.stats import CensoredData, ecdf

    if not (births or censored):
        return None
    last = max((*births, *censored))
    if not births:
        none_born = rate(len(censored), len(censored))
        assert none_born is not None
        low_end = float(last) if none_born.low <= 0.5 else None
        return BirthCurve(
            (0, last), (1.0, 1.0), (1.0, none_born.low), (1.0, 1.0), None, low_end, None
        )
    times = np.array([*births, *censored], dtype=np.float64)
    is_censored = np.arange(len(times)) >= len(births)
    found: Any = ecdf(CensoredData.right_censored(times, is_censored)).sf
    with warnings.catch_warnings():  # SciPy warns where the band is undefined
        warnings.simplefilter("ignore", RuntimeWarning)
        band = found.confidence_interval(1 - ALPHA, method="log-log")
    at = np.isin(found.quantiles, births)
    steps, share, low, high = (
        np.concatenate([[first], each[at]])
        for first, each in (
            (0.0, found.quantiles),
            (1.0, found.probabilities),
            (1.0, band.low.probabilities),
            (1.0, band.high.probabilities),
        )
    )
    if share[-1] == 0:
        none_left = rate(0, len(times))
        assert none_left is not None
        low[-1], high[-1] = 0.0, min(none_left.high, high[-2])
    if last > steps[-1]:
        steps, share, low, high = (
            np.append(each, end)
            for each, end in ((steps, last), (share, share[-1]), (low, low[-1]), (high, high[-1]))
        )
    return BirthCurve(
        steps=tuple(map(int, steps)),
        share=tuple(share.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        median=_median(steps, share),
        median_low=_meets_half(steps, low),
        median_high=_meets_half(steps, high),
    )


def _median(steps: NDArray[np.float64], share: NDArray[np.float64]) -> float | None:
    below = np.flatnonzero(share < 0.5 - 1e-9)
    if not len(below):
        return None
    half = np.flatnonzero(abs(share - 0.5) < 1e-9)
    first = float(steps[below[0]])
    return (float(steps[half[0]]) + first) / 2 if len(half) else first


def _meets_half(steps: NDArray[np.float64], bound: NDArray[np.float64]) -> float | None:
    found = np.flatnonzero(bound <= 0.5)
    return float(steps[found[0]]) if len(found) else None
