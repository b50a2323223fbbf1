"""Statistics against counts that can be written out, and naive references."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import permutation_test, spearmanr

from rwloss import RWLossError
from rwloss.study.statistics import (
    ALPHA,
    compare,
    holm,
    interval,
    rank_correlation,
    seeds_needed,
    sign_flip_p,
    smallest_p,
)


def naive_sign_flip(differences):
    means = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    return np.mean([mean >= abs(sum(differences)) - 1e-12 for mean in means])


def test_the_smallest_p_and_the_seeds_that_it_needs():
    rng = np.random.default_rng(0)
    for n, least in ((4, 0.125), (5, 0.0625), (6, 0.03125)):
        assert sign_flip_p(rng.uniform(0.1, 1, n)) == least
        assert sign_flip_p(-rng.uniform(0.1, 1, n)) == smallest_p(n) == least
    assert (seeds_needed(1), seeds_needed(4)) == (6, 8)
    assert 4 * smallest_p(7) > ALPHA >= 4 * smallest_p(8)


def test_sign_flips_by_counting():
    for seed in range(5):
        differences = np.random.default_rng(seed).normal(0.4, 1, 3 + seed)
        assert sign_flip_p(differences) == pytest.approx(naive_sign_flip(differences))
        found = permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=2 ** (3 + seed)
        )
        assert sign_flip_p(differences) == found.pvalue


def test_differences_that_prove_nothing():
    assert sign_flip_p([]) == sign_flip_p([3.0]) == sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([1.0, -1.0, 1.0, -1.0]) == 1.0
    with pytest.raises(RWLossError, match="finite"):
        sign_flip_p([1.0, float("nan")])
    # Those of many seeds are drawn, and repeatable.
    differences = [1.0] * 20
    assert sign_flip_p(differences) == sign_flip_p(differences)
    assert smallest_p(20) == sign_flip_p(differences) == 2 / 10_000


def naive_holm(p_values):
    ordered = sorted(p_values)
    m = len(ordered)
    return [
        min(1.0, max((m - j) * ordered[j] for j in range(m) if ordered[j] <= p)) for p in p_values
    ]


def test_holm_by_its_definition():
    for seed in range(6):
        p_values = list(np.random.default_rng(seed).uniform(0, 0.3, 6))
        assert holm(p_values) == pytest.approx(naive_holm(p_values))
        assert holm(p_values[:1]) == p_values[:1]


def better_by(amounts, base=0.5):
    reference = dict.fromkeys(range(len(amounts)), base)
    return {"map": {s: base + more for s, more in enumerate(amounts)}, "reference": reference}


def test_nothing_is_claimed_below_the_seeds_needed():
    for n, claims in ((5, False), (6, True)):
        [found] = compare(better_by([0.2] * n), "reference")
        assert found.difference.mean == pytest.approx(0.2)
        assert found.p == smallest_p(n) == found.least_corrected_p
        assert found.can_claim is found.significant is claims
        assert found.seeds_needed == 6
    # A difference that could be claimed, and is not.
    [found] = compare(better_by([0.2, -0.2, 0.3, -0.3, 0.1, -0.1]), "reference")
    assert found.can_claim
    assert not found.significant
    assert found.difference.low < 0 < found.difference.high


def test_maps_of_fewer_seeds():
    values = {"r": {0: 0.5, 1: 0.1, 2: 0.6}, "a": {0: 0.4, 1: 0.9, 2: 0.5}, "b": {7: 0.9}}
    a, b = compare(values, "r")
    assert a.seeds == (0, 1, 2)
    assert a.difference.mean == pytest.approx((-0.1 + 0.8 - 0.1) / 3)
    assert b.seeds == ()
    assert b.difference is None
    assert b.p == b.least_corrected_p == 1.0
    assert compare({"r": {0: 1.0}}, "r") == []
    with pytest.raises(RWLossError, match="'x' is not one of 'r'"):
        compare({"r": {0: 1.0}}, "x")


def test_intervals_hold_the_mean_as_often_as_they_say():
    """Of normal values; the percentile bootstrap of 12 is known to be a little narrow."""
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(size=12)) for _ in range(60)]
    held = sum(each.low <= 0 <= each.high for each in found)
    assert 48 <= held < 60
    assert all(each.low < each.mean < each.high for each in found)
    assert interval([1.0, 2.0, 4.0]) == interval([1.0, 2.0, 4.0])
    assert interval([3.0]).low == interval([3.0]).high == 3.0
    with pytest.raises(RWLossError, match="finite values"):
        interval([])


def test_rank_correlation_by_trying_every_order():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        first, second = rng.integers(0, 4, 5), rng.normal(size=5)
        found = rank_correlation(list(first), list(second))
        expected = spearmanr(first, second).statistic
        assert found.rho == pytest.approx(expected)
        others = np.array([spearmanr(first, order).statistic for order in permutations(second)])
        sides = [np.mean(others >= expected - 1e-9), np.mean(others <= expected + 1e-9)]
        assert found.p == pytest.approx(min(1.0, 2 * min(sides)))


def test_rank_correlation_without_an_answer():
    assert rank_correlation([1, 2], [1, 2]).rho is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]).rho is None
    assert rank_correlation([1, 2, float("inf")], [1, 2, 3]).rho == 1.0
    assert rank_correlation(list(range(12)), list(range(12))).p == pytest.approx(2 / 10_000)
    with pytest.raises(RWLossError, match="as many"):
        rank_correlation([1, 2], [1])
