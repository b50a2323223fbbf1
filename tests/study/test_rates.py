"""Rates and birth curves against statsmodels; stability profiles against plain loops."""

import itertools
import math

import numpy as np
import pytest
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from strange_studies import write_run

from rwloss.study.plan import make, runs
from rwloss.study.rates import birth_curve, compare_losses, rate
from rwloss.study.results import collect
from rwloss.study.stability_profile import decades_kept
from rwloss.study.wording import lead, sentences


def test_rates_against_statsmodels():
    """Wilson inside; the open side of all and none is Clopper and Pearson's, one-sided."""
    for of in (1, 2, 3, 7, 20):
        for count in range(of + 1):
            found = rate(count, of)
            inside = 0 < count < of
            method, alpha = ("wilson", 0.05) if inside else ("beta", 0.1)
            wanted = proportion_confint(count, of, alpha=alpha, method=method)
            assert (found.low, found.high) == pytest.approx(wanted, abs=1e-9)
            assert found.low <= found.share <= found.high
    assert rate(0, 3).high == pytest.approx(1 - 0.05 ** (1 / 3))
    assert rate(0, 20).high == pytest.approx(0.139, abs=1e-3)
    assert rate(0, 0) is None


CENSORED = (
    ([100, 100, 200, 350, 400], [500, 500]),
    ([10, 20, 30, 40], []),
    ([50, 60, 80], [70, 90]),
    ([250], [250, 250]),
    ([100, 100], []),
)


@pytest.mark.parametrize(("births", "censored"), CENSORED)
def test_birth_curves_against_statsmodels(births, censored):
    """Kaplan and Meier's share, and its band by Greenwood's variance on the log-log scale."""
    times = [*births, *censored]
    reference = SurvfuncRight(times, [1] * len(births) + [0] * len(censored))
    curve = birth_curve(births, censored)
    own = dict(zip(curve.steps, zip(curve.share, curve.low, curve.high, strict=True), strict=True))
    assert own[0] == (1, 1, 1)
    assert curve.steps[-1] == max(times)
    wanted = zip(reference.surv_times, reference.surv_prob, reference.surv_prob_se, strict=True)
    for step, share, error in wanted:
        if step not in births:
            continue
        assert own[step][0] == pytest.approx(share)
        if 0 < share < 1:
            width = 1.959964 * error / abs(share * math.log(share))
            band = [share ** math.exp(sign * width) for sign in (1, -1)]
            assert own[step][1:] == pytest.approx(band, rel=1e-5)
        else:
            assert own[step][1] == 0
            assert 0 < own[step][2] <= rate(0, len(times)).high
    assert np.all(np.diff(curve.share) <= 0)


def test_medians_are_those_of_all_runs_where_all_are_seen_to_the_end():
    for births in itertools.combinations_with_replacement([10, 20, 30, math.inf], 4):
        seen = [step for step in births if step < math.inf]
        curve = birth_curve(seen, [30] * (4 - len(seen)))
        median = float(np.median(births))
        assert curve.median == (median if median < math.inf else None)
        assert (curve.median_low or 30) <= (curve.median or math.inf)
    assert birth_curve([], []) is None
    curve = birth_curve([10] * 9 + [20], [])
    assert (curve.median_low, curve.median, curve.median_high) == (10, 10, 10)
    assert birth_curve([10], [30] * 9).median_high is None


def test_a_class_that_no_run_bore_may_be_born_in_others():
    curve = birth_curve([], [20] * 3)
    assert (curve.steps, curve.share, curve.high) == ((0, 20), (1, 1), (1, 1))
    assert curve.low == pytest.approx((1, 0.05 ** (1 / 3)))  # as in `rate`: 3 of 3
    assert (curve.median_low, curve.median, curve.median_high) == (20, None, None)
    assert birth_curve([], [20] * 5).median_low is None


def test_decades_against_a_fine_grid():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rates = np.sort(10 ** rng.uniform(-4, -1, 5))
        shares = rng.choice([0.0, 0.5, 0.9, 0.95, 1.0], 5)
        fine = np.linspace(*np.log10(rates[[0, -1]]), 400_001)
        share = np.interp(fine, np.log10(rates), shares)
        wanted = (share >= 0.95 - 1e-9).mean() * (fine[-1] - fine[0])
        assert decades_kept(rates, shares) == pytest.approx(wanted, abs=1e-4)


RATES = (1e-4, 1e-3, 1e-2)


def test_losses_in_pairs_against_statsmodels():
    counts = [(0, 0, 5), (7, 0, 1), (3, 2, 4), (14, 2, 6)]
    pairs_of = [
        (name, {}, [(True, False)] * more + [(False, True)] * fewer + [(True, True)] * both)
        for name, (more, fewer, both) in zip("abcd", counts, strict=True)
    ]
    found = compare_losses(pairs_of)
    wanted = [
        mcnemar([[both, more], [fewer, 9]], exact=True).pvalue if more + fewer else 1
        for more, fewer, both in counts
    ]
    assert [each.p for each in found] == pytest.approx(wanted)
    corrected = multipletests(wanted, method="holm")[1]
    assert [each.corrected_p for each in found] == pytest.approx(corrected)
    assert [each.significant for each in found] == [False, True, False, True]
    assert [(each.pairs, each.more, each.fewer) for each in found][1] == (8, 7, 0)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """rw loses a class on seed 0 at the highest rate and diverges on seed 1 there; dice never."""
    folder = tmp_path_factory.mktemp("profiled")
    one = make(
        data="D", maps={"rw": "rectified", "dice_ce": "dice + cross_entropy"}, seeds=range(4),
        steps=20, axes={"learning_rate": RATES},
    )  # fmt: skip
    for run in runs(one, folder):
        lost = run.map == "rw" and run.settings.learning_rate == 1e-2
        if lost and run.seed == 1:
            run.folder.mkdir(parents=True)
            text = '{"kind": "diverged", "step": 7, "reason": "the loss is nan"}\n'
            (run.folder / "metrics.jsonl").write_text(text)
            continue
        if (run.map, run.seed) == ("dice_ce", 3) and run.settings.learning_rate == 1e-4:
            run.failure.parent.mkdir(parents=True, exist_ok=True)
            run.failure.write_text("no space left")
            continue
        end = (0.8, 0.0) if lost and run.seed == 0 else (0.8, 0.7)
        write_run(run, ((0.4, 0.05), end), 0.0, names="ab")
    return collect(one, folder)


def test_profiles(profiled):
    rw, dice = profiled.profiles
    assert [(each.count, each.of) for each in rw.kept] == [(4, 4), (4, 4), (2, 4)]
    assert [(each.count, each.of) for each in dice.kept] == [(3, 3), (4, 4), (4, 4)]
    assert rw.learning_rates == RATES
    assert (dice.decades.mean, dice.decades.low, dice.decades.high) == (2, 2, 2)
    assert rw.decades.mean == pytest.approx(1 + 0.1)
    # All resamples of four seeds by hand: k of them keep the classes at the highest rate.
    rng = np.random.default_rng(1)
    kept = np.array([0, 0, 1, 1])[rng.integers(0, 4, (20_000, 4))].mean(axis=1)
    drawn = 1 + np.where(kept == 1, 1, 0.05 / (1 - np.minimum(kept, 0.99)))
    assert [rw.decades.low, rw.decades.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
    assert profiled.conditions[0].profiles == ()


def test_seeds_to_come_are_not_counted_in_a_profile(tmp_path):
    one = make(data="D", maps={"rw": "rectified"}, seeds=range(6), steps=20,
               axes={"learning_rate": RATES})  # fmt: skip
    for run in runs(one, tmp_path):
        if run.seed < 2:
            write_run(run, ((0.4, 0.3), (0.8, 0.7)), 0.0, names="ab")
    results = collect(one, tmp_path)
    assert results.profiles[0].decades.n == 2


def test_tallies_have_rates_and_birth_curves(profiled):
    found = {each.name: each for each in profiled.whole.maps}
    b = found["rw (learning_rate 0.01)"].classes[1]
    assert (b.rate.count, b.rate.of) == (1, 3)
    assert b.births.steps == (0, 20)
    assert b.births.share == pytest.approx((1, 1 / 3))
    assert b.births.median == 20
    assert found["rw (learning_rate 0.01)"].lost_rate == b.rate


def test_a_run_that_diverged_keeps_no_class_and_a_run_that_failed_is_no_pair(profiled):
    """The pair of the run of dice_ce with a full disk, at 1e-4, is left out."""
    found = {each.values["learning_rate"]: each for each in profiled.whole.losses}
    assert {rate: (e.pairs, e.more, e.fewer) for rate, e in found.items()} == {
        1e-4: (3, 0, 0),
        1e-3: (4, 0, 0),
        1e-2: (4, 2, 0),
    }
    assert found[1e-2].p == 0.5
    assert profiled.conditions[2].whole.losses == (found[1e-2],)


def test_profiles_in_words(profiled):
    assert (
        "At least 95 % of runs keep every class over 2.00 of 2.00 decades of learning rate with "
        "dice_ce, and over the least, 1.10, with rw." in sentences(profiled)
    )
    assert lead(profiled)[:2] == [
        "rw diverged in 1 of 12 runs (first at step 7).",
        "rw lost a class in 1 of 11 runs that are done.",
    ]
