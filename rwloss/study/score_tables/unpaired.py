"""Compare methods with the reference without pairing runs by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.study.differences import Difference, probability_of_improvement
from rwloss.study.outcomes import RunOutcome
from rwloss.study.statistics import ALPHA, Comparison, Interval, holm

_RESAMPLES = 9999

Runs = Mapping[Any, RunOutcome]
Floats = NDArray[np.float64]


def smallest_unpaired_p(one: int, other: int) -> float:
    """The smallest p that the test can give for these numbers of runs.

    >>> [smallest_unpaired_p(n, n) for n in (1, 3, 5, 10)]
    [1.0, 0.1, 0.007936507936507936, 0.0002]
    """
    return min(1.0, 2 / min(math.comb(one + other, one), _RESAMPLES + 1))


def unpaired_seeds_needed(comparisons: int) -> int | None:
    """Smallest number of seeds per method with which comparisons can be significant.

    >>> unpaired_seeds_needed(1), unpaired_seeds_needed(3), unpaired_seeds_needed(1000)
    (4, 5, None)
    """
    enough = (n for n in range(2, 9) if comparisons * smallest_unpaired_p(n, n) <= ALPHA)
    return next(enough, None)


def unpaired_differences(
    outcomes: Mapping[str, Runs], reference: str, metrics: Mapping[str, bool], *, seed: int = 0
) -> list[Difference]:
    """Compare every other method with the reference in each metric, without pairing runs.

    p: two-sided, from SciPy's permutation test of independent samples on the means of runs; exact
    for up to 9,999 possible splits. by_seed: the score of each run - the mean of the reference.
    Intervals resample the runs of each side separately; over cases, the cases of both together.
    false_claim: by Welch's t. All comparisons of a metric are corrected together.
    """
    found: list[Difference] = []
    for metric, higher in metrics.items():
        scored = {
            name: {key: run for key, run in runs.items() if run.tested(metric) is not None}
            for name, runs in outcomes.items()
        }
        base = _scores(scored[reference], metric)
        own = {
            name: _scores(runs, metric)
            for name, runs in scored.items()
            if name != reference and runs and base.size
        }
        p = {name: _p(values, base, seed) for name, values in own.items()}
        corrected = dict(zip(own, holm([*p.values()]), strict=True))
        least = dict(
            zip(
                own,
                holm([smallest_unpaired_p(len(v), len(base)) for v in own.values()]),
                strict=True,
            )
        )
        for name, values in own.items():
            comparison = Comparison(
                map=name,
                reference=reference,
                seeds=tuple(scored[name]),
                difference=_over_runs(values, base, seed),
                p=p[name],
                corrected_p=corrected[name],
                least_corrected_p=least[name],
                seeds_needed=unpaired_seeds_needed(len(own)),
                comparisons=len(own),
            )
            found.append(
                Difference(
                    metric=metric,
                    comparison=comparison,
                    by_seed=dict(zip(scored[name], (values - base.mean()).tolist(), strict=True)),
                    over_cases=_over_cases(scored[name], scored[reference], metric, seed),
                    improvement=probability_of_improvement(
                        {"": values.tolist()}, {"": base.tolist()}, higher_is_better=higher
                    ),
                    false_claim=_false_claim(values, base),
                )
            )
    return found


def _scores(runs: Runs, metric: str) -> Floats:
    return np.array([run.tested(metric) for run in runs.values()], dtype=np.float64)


def _p(own: Floats, base: Floats, seed: int) -> float:
    from scipy.stats import permutation_test

    if min(own.size, base.size) < 2:
        return 1.0

    def gap(x: Floats, y: Floats, axis: int) -> Floats:
        return np.asarray(x.mean(axis=axis) - y.mean(axis=axis))

    test = permutation_test(
        (own, base), gap, n_resamples=_RESAMPLES, vectorized=True, rng=np.random.default_rng(seed)
    )
    return min(1.0, float(test.pvalue))


def _false_claim(own: Floats, base: Floats) -> float | None:
    """Probability that the side with the higher mean is not truly higher."""
    from scipy.stats import ttest_ind

    if min(own.size, base.size) < 2:
        return None
    if np.ptp(own) == np.ptp(base) == 0:
        return 0.5 if own[0] == base[0] else 0.0
    return float(ttest_ind(own, base, equal_var=False).pvalue) / 2


@lru_cache(maxsize=8)
def _shares(n: int, seed: int, stream: int) -> Floats:
    """How often each of n is drawn with replacement, as shares: (resamples n)."""
    rng = np.random.default_rng([seed, stream])
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n


def _over_runs(own: Floats, base: Floats, seed: int) -> Interval:
    drawn = _shares(own.size, seed, 0) @ own - _shares(base.size, seed, 1) @ base
    return _interval(float(own.mean() - base.mean()), drawn, min(own.size, base.size))


def _over_cases(own: Runs, base: Runs, metric: str, seed: int) -> Interval | None:
    """The mean difference for resampled runs of each side and cases of both."""
    tables = []
    cases = next(iter(own.values())).tested_cases(metric)
    if not cases:
        return None
    for runs in (own, base):
        of_runs = [run.tested_cases(metric) for run in runs.values()]
        tables.append(np.array([[of[case] for case in cases] for of in of_runs]))  # (runs cases)
    sides = [_shares(len(table), seed, stream) @ table for stream, table in enumerate(tables)]
    drawn = np.einsum("rc,rc->r", sides[0] - sides[1], _shares(len(cases), seed, 2))
    gap = float(tables[0].mean() - tables[1].mean())
    return _interval(gap, drawn, min(map(len, tables)))


def _interval(mean: float, drawn: Floats, n: int) -> Interval:
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(round(mean, 12), round(float(low), 12), round(float(high), 12), n)
