"""How certain a difference between two maps is: over seeds and cases, and by chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.study.outcomes import RunOutcome, directions_of
from rwloss.study.statistics import (
    ALPHA,
    Comparison,
    Interval,
    compare_all,
    means_by_unit,
    verdicts,
)

Floats: TypeAlias = NDArray[np.float64]
CaseScores: TypeAlias = Mapping[Any, Mapping[str, float]]
"""seed, or other key of a run -> case -> score."""
CellScores: TypeAlias = Mapping[str, Sequence[float]]
"""cell (a dataset, a learning rate, ...) -> a score per run."""

NULL_STUDIES = 200
"""Studies that `null_certificate` draws."""

RESAMPLES = 9999
"""Of each bootstrap."""


@dataclass(frozen=True)
class Difference:
    """A map against the reference in one metric, map - reference.

    comparison: over seeds, corrected over the maps, per metric. by_seed: the paired differences.
    over_cases: see `over_seeds_and_cases`. improvement: see `probability_of_improvement`.
    false_claim: see `false_claim_probability`, of the claim that the side ahead is really ahead.
    """

    metric: str
    comparison: Comparison
    by_seed: Mapping[Any, float]
    over_cases: Interval | None
    improvement: Interval | None
    false_claim: float | None


@dataclass(frozen=True)
class NullCertificate:
    """How often studies that compare a map with itself claim a difference (an A/A test).

    seeds: of each study. claims: studies with at least one significant comparison.
    """

    studies: int
    seeds: int
    comparisons: int
    claims: int

    @property
    def rate(self) -> Interval:
        """The share of studies that claim a difference, with a Wilson interval."""
        from scipy.stats import binomtest

        low, high = binomtest(self.claims, self.studies).proportion_ci(1 - ALPHA, method="wilson")
        return Interval(self.claims / self.studies, float(low), float(high), self.studies)

    @property
    def holds(self) -> bool:
        """Whether the claims agree with a rate of at most ALPHA, given the number of studies.

        A procedure with a rate just below ALPHA exceeds it in every third sample of 200 studies.
        """
        return self.rate.low <= ALPHA


def differences_in(
    groups: Sequence[Mapping[str, Mapping[Any, RunOutcome]]],
    reference: str,
    *,
    unit_of: Callable[[Any], Any] = lambda key: key,
    metrics: Mapping[str, bool] | None = None,
) -> list[list[Difference]]:
    """Compare every other map with the reference in each metric, in each group.

    Scores other than Dice are left out if no run of the reference has them.

    groups: in each, map -> key of a run -> outcome of a run that is done. All comparisons of one
    score are corrected together; see `statistics.compare_all`. metrics: with whether higher is
    better; by default the tested ones that have a better side.
    """
    if metrics is None:
        every = (run for of_maps in groups for runs in of_maps.values() for run in runs.values())
        metrics = directions_of(every)
    found: list[list[Difference]] = [[] for _ in groups]
    for metric, higher in metrics.items():
        scores = [
            {
                name: {
                    key: value
                    for key, run in runs.items()
                    if (value := run.tested(metric)) is not None
                }
                for name, runs in outcomes.items()
            }
            for outcomes in groups
        ]
        if metric != "dice" and not any(of_group[reference] for of_group in scores):
            continue
        compared = compare_all(scores, reference, unit_of=unit_of)
        for n, comparisons in enumerate(compared):
            found[n] += [
                _difference(metric, higher, each, scores[n], groups[n], unit_of)
                for each in comparisons
            ]
    return found


def _difference(
    metric: str,
    higher: bool,
    comparison: Comparison,
    scores: Mapping[str, Mapping[Any, float]],
    outcomes: Mapping[str, Mapping[Any, RunOutcome]],
    unit_of: Callable[[Any], Any],
) -> Difference:
    sides = comparison.map, comparison.reference
    own, base = (scores[name] for name in sides)
    keys = sorted(own.keys() & base.keys())
    first, second = (
        means_by_unit({key: side[key] for key in keys}, unit_of) for side in (own, base)
    )
    by_seed = {unit: first[unit] - second[unit] for unit in first}
    pair = [*first.values()], [*second.values()]
    cases = (
        {key: run.tested_cases(metric) for key, run in outcomes[name].items()} for name in sides
    )
    return Difference(
        metric=metric,
        comparison=comparison,
        by_seed=by_seed,
        over_cases=over_seeds_and_cases(*cases, unit_of=unit_of),
        improvement=probability_of_improvement(
            {"": [*own.values()]}, {"": [*base.values()]}, higher_is_better=higher
        )
        if own and base
        else None,
        false_claim=false_claim_probability(*(pair if sum(by_seed.values()) > 0 else pair[::-1])),
    )


def over_seeds_and_cases(
    first: CaseScores,
    second: CaseScores,
    *,
    unit_of: Callable[[Any], Any] = lambda key: key,
    seed: int = 0,
) -> Interval | None:
    """Mean of the paired differences first - second, with a bootstrap over seeds and cases.

    A pair is a seed and a case that both have. Seeds and cases are drawn with replacement, each
    separately, because one case is scored in many runs; missing pairs are left out. The interval is
    for new runs on new cases, that of `statistics.interval` for new runs on the same cases.
    unit_of: the independent part of a key, as for `statistics.compare_all`: runs of one unit are
    drawn together. None without a pair; n is the number of units.

    >>> over_seeds_and_cases({0: {"a": 0.9}, 1: {"a": 0.7}}, {0: {"a": 0.5}, 1: {"a": 0.3}})
    Interval(mean=0.4, low=0.4, high=0.4, n=2)
    """
    both = first.keys() & second.keys()
    seeds = sorted(s for s in both if first[s].keys() & second[s].keys())
    cases = sorted({case for s in seeds for case in first[s].keys() & second[s].keys()})
    table = np.full((len(seeds), len(cases)), np.nan)
    for row, s in enumerate(seeds):
        for column, case in enumerate(cases):
            if case in first[s] and case in second[s]:
                table[row, column] = first[s][case] - second[s][case]
    known = ~np.isnan(table)
    if not known.any():
        return None
    units = [*dict.fromkeys(map(unit_of, seeds))]
    of_units, columns = _drawn_units_and_cases(len(units), len(cases), seed)
    rows = of_units[:, [units.index(unit_of(s)) for s in seeds]]
    # Draws of a seed times draws of a case, over pairs that exist.
    total, pairs = (
        np.einsum("rc,rc->r", rows @ each, columns)
        for each in (np.where(known, table, 0.0), known.astype(np.float64))
    )
    means = total[pairs > 0] / pairs[pairs > 0]
    return interval_of(float(table[known].mean()), means, len(units))


@lru_cache(maxsize=2)
def _drawn_units_and_cases(units: int, cases: int, seed: int) -> tuple[Floats, ...]:
    """How often each unit and each case is drawn: (resamples units), (resamples cases)."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64)
        for size in (units, cases)
    )


def probability_of_improvement(
    first: CellScores, second: CellScores, *, higher_is_better: bool = True, seed: int = 0
) -> Interval:
    """Probability that a run of the first is better than one of the second; ties count half.

    Mean over the cells that both have of the Mann-Whitney statistic U / (n m), with a bootstrap
    over runs within each cell. Source: Agarwal et al., NeurIPS 2021 (arXiv 2108.13264).
    Raises RWLossError if they have no cell in common.

    >>> probability_of_improvement({"": [0.8, 0.9]}, {"": [0.1, 0.2]}).mean
    1.0
    """
    sign = 1.0 if higher_is_better else -1.0
    cells = [name for name in first if name in second and first[name] and second[name]]
    if not cells:
        raise RWLossError("expected runs of both maps in one cell or more")

    means, drawn = [], []
    for place, cell in enumerate(cells):
        one, other = (np.asarray(side[cell], dtype=np.float64) for side in (first, second))
        gap = sign * np.subtract.outer(one, other)
        wins = (gap > 0) + 0.5 * (gap == 0)  # (n m)
        means.append(wins.mean())
        times, others = (
            times_drawn(len(runs), seed, 2 * place + side) for side, runs in enumerate((one, other))
        )
        drawn.append((times @ wins * others).sum(axis=1) / wins.size)
    return interval_of(
        float(np.mean(means)), np.mean(drawn, axis=0), sum(len(first[cell]) for cell in cells)
    )


def false_claim_probability(
    better: Sequence[float], worse: Sequence[float], *, correlation: float | None = None
) -> float | None:
    """Probability that the claim "the first has the higher mean" is false, from paired values.

    P(T <= sqrt(n) (mean_B - mean_A) / sqrt(s_A^2 + s_B^2 - 2 s_A s_B r)), T with n - 1 degrees of
    freedom: the posterior under a flat prior. better, worse: n values each, of the same seeds or
    cases. correlation r: by default that of the values. None for fewer than two values.
    Source: Christodoulou et al., arXiv 2505.04720. Raises RWLossError for unequal lengths.

    >>> round(false_claim_probability([0.8, 0.9, 0.85], [0.7, 0.6, 0.75]), 3)
    0.065
    """
    from scipy.stats import t

    a, b = (np.asarray(side, dtype=np.float64) for side in (better, worse))
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise RWLossError("expected as many finite values on both sides")
    if a.size < 2:
        return None
    s_a, s_b = a.std(ddof=1), b.std(ddof=1)
    if correlation is None:
        correlation = float(np.corrcoef(a, b)[0, 1]) if s_a and s_b else 0.0
    gap, spread = b.mean() - a.mean(), s_a**2 + s_b**2 - 2 * s_a * s_b * correlation
    if spread <= 1e-14:  # every seed has the same difference, to rounding
        return 0.5 if math.isclose(gap, 0, abs_tol=1e-12) else float(gap > 0)
    return float(t.cdf(math.sqrt(a.size) * gap / math.sqrt(spread), df=a.size - 1))


def null_certificate(
    scores: Sequence[float],
    *,
    comparisons: int = 1,
    studies: int = NULL_STUDIES,
    seed: int = 0,
) -> NullCertificate | None:
    """How often a study of one map under several names claims a difference: an A/A test.

    scores: of runs of one map with different seeds. Each study draws half of them, without
    replacement, as its reference, and for each of `comparisons` names as many of the other half in
    random order. It tests them with the code that tests maps, `statistics.verdicts`. None for fewer
    than two scores.
    """
    n, rng, claims = len(scores) // 2, np.random.default_rng(seed), 0
    if n < 1:
        return None
    for _ in range(studies):
        drawn = rng.permutation(np.asarray(scores, dtype=np.float64))
        others = [rng.permutation(drawn[n:])[:n] for _ in range(comparisons)]
        claims += any(each.significant for each in verdicts([o - drawn[:n] for o in others]))
    return NullCertificate(studies, n, comparisons, claims)


@lru_cache(maxsize=32)
def times_drawn(n: int, seed: int, stream: int) -> NDArray[np.int64]:
    """How often each of n runs is drawn, (resamples n); the same for every pair of maps."""
    rng = np.random.default_rng([seed, stream])
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def interval_of(mean: float, drawn: Floats, n: int) -> Interval:
    """The percentile interval of bootstrap samples."""
    low, high = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(round(mean, 12), round(float(low), 12), round(float(high), 12), n)
