"""Differences between maps against naive loops, SciPy and an independent simulation."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from rwloss import RWLossError
from rwloss.study.differences import (
    NullCertificate,
    differences_in,
    false_claim_probability,
    null_certificate,
    over_seeds_and_cases,
    probability_of_improvement,
)
from rwloss.study.outcomes import outcome_of
from rwloss.study.over_cells import interquartile_mean, performance_profile
from rwloss.study.statistics import ALPHA


def scores_of(table):
    """(seeds cases) -> seed -> case -> score, without the NaN."""
    return {
        seed: {f"case {c}": float(value) for c, value in enumerate(row) if not np.isnan(value)}
        for seed, row in enumerate(table)
    }


def outcome(dice, hd95_mm):
    """A run with one class and two test cases."""
    cases = [
        {"name": name, "classes": [{"state": "both", "dice": dice + shift, "hd95_mm": hd95_mm}]}
        for name, shift in (("a", 0.05), ("b", -0.05))
    ]
    return outcome_of([], {"summary": [{"name": "x", "dice": {"mean": dice}}], "cases": cases})


def test_every_score_of_the_test_is_compared():
    runs = {
        "mine": {0: outcome(0.8, 3.0), 1: outcome(0.9, 2.0), 2: outcome(0.0, 9.0)},
        "base": {0: outcome(0.7, 4.0), 1: outcome(0.6, 5.0)},
    }
    [[dice, hd95]] = differences_in([runs], "base")
    assert (dice.metric, hd95.metric) == ("dice", "hd95_mm")  # not tested: assd_mm, nsd
    assert dice.by_seed == pytest.approx({0: 0.1, 1: 0.3})
    assert hd95.by_seed == {0: -1, 1: -3}
    assert dice.over_cases.mean == pytest.approx(dice.comparison.difference.mean)
    assert dice.improvement.mean == hd95.improvement.mean == pytest.approx(2 / 3)
    expected = stats.ttest_rel([0.8, 0.9], [0.7, 0.6], alternative="greater").pvalue
    assert dice.false_claim == pytest.approx(expected)
    expected = stats.ttest_rel([4.0, 5.0], [3.0, 2.0], alternative="greater").pvalue
    assert hd95.false_claim == pytest.approx(expected)
    [[alone, _]] = differences_in([{"base": runs["base"], "mine": {}}], "base")
    assert alone.improvement is None
    [[untested]] = differences_in([{"base": {}, "mine": runs["mine"]}], "base")
    assert (untested.metric, untested.comparison.difference) == ("dice", None)


def test_the_bootstrap_over_seeds_and_cases_draws_both():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.1, 0.2, (4, 6)), rng.normal(0, 0.2, (4, 6))
    first[2, 3] = np.nan  # this run has no score of this case
    difference = first - second
    means = []
    for _ in range(3000):
        seeds, cases = rng.integers(0, 4, 4), rng.integers(0, 6, 6)
        means.append(np.nanmean([difference[s, c] for s, c in product(seeds, cases)]))
    found = over_seeds_and_cases(scores_of(first), scores_of(second))
    assert found.mean == pytest.approx(np.nanmean(difference))
    assert found.n == 4
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_runs_of_one_split_are_drawn_together():
    first = {(split, seed): {"a": 0.1 * split} for split in (1, 3) for seed in range(6)}
    second = {key: {"a": 0.0} for key in first}
    found = over_seeds_and_cases(first, second, unit_of=lambda key: key[0])
    assert (found.mean, found.n) == (pytest.approx(0.2), 2)
    # Both draws are the same split in half of the resamples.
    assert (found.low, found.high) == pytest.approx((0.1, 0.3))
    # A run without scores, as of a metric that an earlier version did not test, is no seed.
    alone = over_seeds_and_cases({**first, (9, 9): {}}, {**second, (9, 9): {"a": 0.0}})
    assert alone.n == 12
    assert 0.1 < alone.low < alone.high < 0.3


def test_cases_of_their_own_per_seed_and_no_pairs():
    first = {0: {"a": 0.5, "b": 0.7}, 1: {"c": 0.9}, 2: {"d": 1.0}}
    second = {0: {"a": 0.4, "b": 0.6}, 1: {"c": 0.8}, 3: {"d": 0.0}}
    found = over_seeds_and_cases(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.n == 2
    assert over_seeds_and_cases({0: {"a": 1.0}}, {0: {"b": 1.0}}) is None


def test_the_probability_of_improvement_is_that_of_mann_whitney():
    rng = np.random.default_rng(1)
    first = {"x": rng.integers(0, 5, 6).tolist(), "y": rng.integers(0, 5, 4).tolist()}
    second = {"x": rng.integers(0, 5, 5).tolist(), "y": rng.integers(0, 5, 4).tolist(), "z": [1]}
    expected = np.mean(
        [
            stats.mannwhitneyu(first[c], second[c]).statistic / (len(first[c]) * len(second[c]))
            for c in ("x", "y")
        ]
    )
    found = probability_of_improvement(first, second)
    assert found.mean == pytest.approx(expected)
    assert found.low < found.mean < found.high
    other = probability_of_improvement(first, second, higher_is_better=False)
    assert other.mean == pytest.approx(1 - expected)
    with pytest.raises(RWLossError, match="one cell"):
        probability_of_improvement({"x": [1.0]}, {"y": [1.0]})


def test_interquartile_mean_and_profile():
    scores = {"x": [0.0, 0.8, 0.7, 0.9], "y": [0.6, 0.5, 0.75, 0.85]}
    pooled = np.concatenate([*scores.values()])
    found = interquartile_mean(scores)
    assert found.mean == pytest.approx(np.sort(pooled)[2:-2].mean())
    rng = np.random.default_rng(2)
    drawn = [
        np.sort(np.concatenate([rng.choice(each, 4) for each in scores.values()]))[2:-2].mean()
        for _ in range(4000)
    ]
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    points = performance_profile(scores, [0.0, 0.65, 0.9])
    assert [point.share.mean for point in points] == [7 / 8, 5 / 8, 0.0]
    above = [
        np.mean([(rng.choice(each, 4) > 0.65).mean() for each in scores.values()])
        for _ in range(4000)
    ]
    assert (points[1].share.low, points[1].share.high) == tuple(np.quantile(above, [0.025, 0.975]))
    with pytest.raises(RWLossError, match="one run"):
        interquartile_mean({"x": []})


def test_the_probability_of_a_false_claim():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.82, 0.05, 12), rng.normal(0.8, 0.05, 12)
    # That of one side of Student's paired test.
    assert false_claim_probability(a, b) == pytest.approx(
        stats.ttest_rel(a, b, alternative="greater").pvalue
    )
    # With an assumed correlation, by the formula.
    spread = np.sqrt(a.var(ddof=1) + b.var(ddof=1) - 2 * 0.8 * a.std(ddof=1) * b.std(ddof=1))
    expected = stats.t.cdf(np.sqrt(12) * (b.mean() - a.mean()) / spread, df=11)
    assert false_claim_probability(a, b, correlation=0.8) == pytest.approx(expected)
    assert false_claim_probability([0.8], [0.7]) is None
    assert false_claim_probability([0.8, 0.7], [0.7, 0.6]) == 0.0
    assert false_claim_probability([0.7, 0.6], [0.8, 0.7]) == 1.0
    assert false_claim_probability([0.5, 0.5], [0.5, 0.5]) == 0.5
    with pytest.raises(RWLossError, match="as many"):
        false_claim_probability([0.5], [0.5, 0.6])


def test_a_map_against_itself_rarely_claims_a_difference():
    scores = np.random.default_rng(4).normal(0.8, 0.05, 14)
    found = null_certificate(scores, comparisons=2)
    assert (found.studies, found.seeds, found.comparisons) == (200, 7, 2)
    assert found.rate.mean == found.claims / 200
    assert found.rate.low < found.rate.mean < found.rate.high
    assert found.holds
    assert null_certificate([0.5]) is None
    # 11 of 200 are no proof of more than 5 %: a rate of 6 / 128 gives as many in 34 % of draws.
    assert NullCertificate(200, 7, 1, 11).holds
    assert not NullCertificate(200, 7, 1, 21).holds
    interval = stats.binomtest(21, 200).proportion_ci(method="wilson")
    found = NullCertificate(200, 7, 1, 21).rate
    assert (found.mean, found.low, found.high) == pytest.approx((0.105, *interval))
    # Where nothing can be claimed, nothing is.
    assert null_certificate(scores[:10]).claims == 0


def test_a_certificate_fails_where_names_are_not_exchangeable(monkeypatch):
    monkeypatch.setattr("rwloss.study.statistics.sign_flip_p", lambda differences, seed: 0.04)
    found = null_certificate(range(12), studies=20)
    assert found.claims == 20
    assert found.rate.mean > ALPHA
    assert not found.holds
