"""Every figure of a page against SciPy, statsmodels and plain loops."""

import numpy as np
import pytest
from scipy import stats
from scores_of_others import CASES, METHODS, SEEDS, long_rows, made_scores, write
from statsmodels.stats.multitest import multipletests

from rwloss.study.score_tables.unpaired import smallest_unpaired_p, unpaired_seeds_needed

SCORES = made_scores()
RUNS = {metric: of.mean(axis=2) for metric, of in SCORES.items()}
"""metric -> (method seed)."""
PAIRS = [(metric, m) for metric in SCORES for m in (1, 2)]


def rank(name):
    return METHODS.index(name)


def drawn(rng, values):
    return values[rng.integers(0, len(values), len(values))]


def close(found, draws):
    """Near the ends, by a few standard errors, of an interval from 2,000 draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.25 * np.std(draws))


def by_pair(differences):
    found = {(each.metric, rank(each.comparison.map)): each for each in differences}
    assert found.keys() == {*PAIRS}
    return found


def sign_flips(values):
    test = stats.permutation_test((values,), np.mean, permutation_type="samples")
    return test.pvalue


def check_holm(found, p_of):
    for metric in SCORES:
        p = [p_of[metric, m] for m in (1, 2)]
        corrected = multipletests(p, method="holm")[1]
        for m, wanted in zip((1, 2), corrected, strict=True):
            comparison = found[metric, m].comparison
            assert comparison.p == pytest.approx(p_of[metric, m])
            assert comparison.corrected_p == pytest.approx(wanted)
            assert comparison.comparisons == 2


def test_means_of_runs(collect):
    found = collect()
    rng = np.random.default_rng(3)
    assert [each.map for each in found.whole.maps] == [*found.study.maps]
    for each in found.whole.maps:
        assert each.done == SEEDS
        for metric, runs in RUNS.items():
            own = runs[rank(each.map)]
            assert each.test[metric].mean == pytest.approx(own.mean())
            draws = [drawn(rng, own).mean() for _ in range(2000)]
            close(each.test[metric], draws)
    for row in found.runs:
        assert row.outcome.tested("HD95") == pytest.approx(RUNS["HD95"][rank(row.map), row.seed])
        cases = [*row.outcome.tested_cases("Dice").values()]
        assert cases == SCORES["Dice"][rank(row.map), row.seed].tolist()


def test_paired_differences(collect):
    found = by_pair(collect().whole.differences)
    rng = np.random.default_rng(4)
    for (metric, m), each in found.items():
        base, own = RUNS[metric][0], RUNS[metric][m]
        gaps = own - base
        assert each.by_seed == pytest.approx(dict(enumerate(gaps)))
        assert each.comparison.difference.mean == pytest.approx(gaps.mean())
        draws = [drawn(rng, gaps).mean() for _ in range(2000)]
        close(each.comparison.difference, draws)
        table = SCORES[metric][m] - SCORES[metric][0]
        both = []
        for _ in range(2000):
            rows, columns = rng.integers(0, SEEDS, SEEDS), rng.integers(0, CASES, CASES)
            both.append(table[rows][:, columns].mean())
        assert each.over_cases.mean == pytest.approx(table.mean())
        close(each.over_cases, both)
        better = "greater" if own.mean() > base.mean() else "less"
        false = stats.ttest_rel(own, base, alternative=better).pvalue
        assert each.false_claim == pytest.approx(false)
        u = stats.mannwhitneyu(own, base).statistic / SEEDS**2
        assert each.improvement.mean == pytest.approx(u if metric == "Dice" else 1 - u)
    check_holm(found, {key: sign_flips(RUNS[key[0]][key[1]] - RUNS[key[0]][0]) for key in PAIRS})
    least = multipletests([2 / 2**SEEDS] * 2, method="holm")[1]
    assert found["Dice", 1].comparison.least_corrected_p == pytest.approx(least[0])


def test_differences_over_cases(collect):
    found = by_pair(collect().of_cases)
    of_cases = {metric: of.mean(axis=1) for metric, of in SCORES.items()}
    for (metric, m), each in found.items():
        gaps = of_cases[metric][m] - of_cases[metric][0]
        assert each.comparison.difference.mean == pytest.approx(gaps.mean())
        assert len(each.comparison.seeds) == CASES
    check_holm(
        found, {key: sign_flips(of_cases[key[0]][key[1]] - of_cases[key[0]][0]) for key in PAIRS}
    )


def test_unpaired_differences(options, tmp_path):
    from rwloss.study.score_tables.results import collect_table

    # Two runs of the reference are left out: 5 against 7 runs.
    rows = [row for row in long_rows(SCORES) if not row.startswith(("dice_ce,5", "dice_ce,6"))]
    path = write(tmp_path / "t.csv", *rows)
    found = by_pair(collect_table(options(path, unpaired=True)).whole.differences)
    rng, p = np.random.default_rng(5), {}
    for (metric, m), each in found.items():
        base, own = RUNS[metric][0][:5], RUNS[metric][m]
        gap = own.mean() - base.mean()
        assert each.comparison.difference.mean == pytest.approx(gap)
        assert each.by_seed == pytest.approx(dict(enumerate(own - base.mean())))
        draws = [drawn(rng, own).mean() - drawn(rng, base).mean() for _ in range(2000)]
        close(each.comparison.difference, draws)
        tables = SCORES[metric][m], SCORES[metric][0][:5]
        both = []
        for _ in range(2000):
            columns = rng.integers(0, CASES, CASES)
            one, other = (drawn(rng, table)[:, columns].mean() for table in tables)
            both.append(one - other)
        close(each.over_cases, both)
        better = "greater" if gap > 0 else "less"
        false = stats.ttest_ind(own, base, equal_var=False, alternative=better).pvalue
        assert each.false_claim == pytest.approx(false)
        u = stats.mannwhitneyu(own, base).statistic / (SEEDS * 5)
        assert each.improvement.mean == pytest.approx(u if metric == "Dice" else 1 - u)
        # All 792 ways to split 12 runs.
        test = stats.permutation_test((own, base), lambda x, y: x.mean() - y.mean())
        p[metric, m] = test.pvalue
    check_holm(found, p)
    least = found["HD95", 2].comparison.least_corrected_p
    assert least == pytest.approx(2 * smallest_unpaired_p(5, 7)) == pytest.approx(4 / 792)


def test_the_smallest_unpaired_p_can_be_reached():
    for one, other in ((2, 2), (3, 3), (4, 3)):
        far = stats.permutation_test(
            (np.arange(one) + 9.0, np.arange(other)), lambda x, y: x.mean() - y.mean()
        )
        assert far.pvalue == pytest.approx(smallest_unpaired_p(one, other))
    for comparisons in (1, 2, 3, 10, 100):
        n = unpaired_seeds_needed(comparisons)
        assert comparisons * smallest_unpaired_p(n, n) <= 0.05
        assert comparisons * smallest_unpaired_p(n - 1, n - 1) > 0.05


def test_p_is_corrected_within_settings_or_over_all(collect, tmp_path):
    rows = [f"{row},{size}" for size in (10, 50) for row in long_rows(SCORES)[1:]]
    path = write(tmp_path / "t.csv", "loss,seed,case,Dice,HD95,size", *rows)
    apart = collect(path, groups=("size",))
    alone = by_pair(collect().whole.differences)
    for part in apart.conditions:
        for key, each in by_pair(part.whole.differences).items():
            assert each.comparison == alone[key].comparison
        assert len(part.of_cases) == len(PAIRS)
        assert len(part.runs) == len(METHODS) * SEEDS
    together = collect(path, groups=("size",), correct="all")
    for metric in SCORES:
        own = [each.comparison for each in together.whole.differences if each.metric == metric]
        corrected = multipletests([each.p for each in own], method="holm")[1]
        assert [each.corrected_p for each in own] == pytest.approx(corrected)
        least = multipletests([2 / 2**SEEDS] * 4, method="holm")[1]
        assert [each.least_corrected_p for each in own] == pytest.approx(least)
        # 4 * 2 / 2**8 is the first below 0.05.
        assert {(each.comparisons, each.seeds_needed) for each in own} == {(4, 8)}
        of_cases = [each.comparison for each in together.of_cases if each.metric == metric]
        corrected = multipletests([each.p for each in of_cases], method="holm")[1]
        assert [each.corrected_p for each in of_cases] == pytest.approx(corrected)
    # Splits are no axes of their own in tables: each fold is a setting here.
    folds = collect(
        write(tmp_path / "f.csv", "loss,seed,case,Dice,HD95,fold", *rows), groups=("fold",)
    )
    assert [part.values for part in folds.conditions] == [
        *({"setting fold": "10"}, {"setting fold": "50"})
    ]


def test_seeds_that_are_no_numbers_are_numbered(collect, tmp_path):
    rows = [f"a,run{n},x,.{n}5,1" for n in (10, 9)] + [f"b,run{n},x,.5,1" for n in (10, 9)]
    path = write(tmp_path / "t.csv", "method,seed,case,Dice,HD95", *rows)
    found = collect(path, reference="a", columns_of={})
    assert found.seed_names == {1: "run9", 2: "run10"}
    assert found.whole.differences[0].by_seed == pytest.approx({1: 0.5 - 0.95, 2: 0.5 - 0.105})


def test_one_run_per_method_and_means_alone(collect, tmp_path):
    rows = [row for row in long_rows(SCORES) if ",3,case" in row]
    path = write(tmp_path / "t.csv", "loss,unused,case,Dice,HD95", *rows)
    found = collect(path)
    assert not found.has_seeds
    assert not any(each.comparison.can_claim for each in found.whole.differences)
    for each in found.of_cases:
        m = rank(each.comparison.map)
        gaps = SCORES[each.metric][m, 3] - SCORES[each.metric][0, 3]
        assert each.comparison.p == pytest.approx(sign_flips(gaps))
    rows = [
        f"{name},{s},{RUNS['Dice'][m, s]},{RUNS['HD95'][m, s]}"
        for m, name in enumerate(METHODS)
        for s in range(SEEDS)
    ]
    means = collect(write(tmp_path / "m.csv", "loss,seed,Dice,HD95", *rows))
    assert (means.of_cases, means.table.has_cases) == ((), False)
    whole = by_pair(collect().whole.differences)
    for key, each in by_pair(means.whole.differences).items():
        assert each.comparison.p == whole[key].comparison.p
        assert each.over_cases is None


def test_folds_have_cases_of_their_own(collect, tmp_path):
    """As in a cross-validation: each case is in one fold, for every method."""
    rows = [row for row in long_rows(SCORES)[1:] if row.split(",")[1] == str(case_of(row) % SEEDS)]
    found = collect(write(tmp_path / "t.csv", "loss,seed,case,Dice,HD95", *rows))
    for (metric, m), each in by_pair(found.whole.differences).items():
        gaps = SCORES[metric][m] - SCORES[metric][0]
        of_folds = [
            np.mean([gaps[fold, case] for case in range(CASES) if case % SEEDS == fold])
            for fold in range(SEEDS)
        ]
        assert each.by_seed == pytest.approx(dict(enumerate(of_folds)))
        assert each.comparison.p == pytest.approx(sign_flips(np.array(of_folds)))
        all_cases = np.array([gaps[case % SEEDS, case] for case in range(CASES)])
        assert each.over_cases.mean == pytest.approx(all_cases.mean())
        of_cases = by_pair(found.of_cases)[metric, m]
        assert of_cases.comparison.p == pytest.approx(sign_flips(all_cases))
        assert of_cases.comparison.difference.mean == pytest.approx(all_cases.mean())


def case_of(row):
    return int(row.split(",")[2].removeprefix("case"))


def test_a_metric_that_some_runs_lack(collect, tmp_path):
    """Without pairs, each metric has the runs that it has."""
    _, *rows = long_rows(SCORES)
    lines = [
        f"{','.join(row.split(',')[:3])},{name},{row.split(',')[place]}"
        for row in rows
        for name, place in (("Dice", 3), ("HD95", 4))
        if (name, row.split(",")[:2]) != ("HD95", ["rw", "6"])
    ]
    path = write(tmp_path / "t.csv", "loss,seed,case,name,value", *lines)
    found = by_pair(collect(path, long=("name", "value"), unpaired=True).whole.differences)
    assert [len(found[metric, 1].comparison.seeds) for metric in ("Dice", "HD95")] == [7, 6]
    gap = RUNS["HD95"][1][:6].mean() - RUNS["HD95"][0].mean()
    assert found["HD95", 1].comparison.difference.mean == pytest.approx(gap)
