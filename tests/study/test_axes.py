"""Axes of a study: what may be one, where its runs are, and what comes later."""

import csv
import io

import pytest
from strange_studies import MAPS, write_run

from rwloss import RWLossError
from rwloss.study import axes, plan
from rwloss.study.figures import MINUS
from rwloss.study.plan import joined, make, runs
from rwloss.study.results import as_csv, as_fields, collect
from rwloss.study.statistics import compare, compare_all, sign_flip_p
from rwloss.study.wording import lead, sentences


def study(**changes):
    given = {"data": "D", "maps": {"rw": "rectified"}, "seeds": [0], "steps": 20}
    return make(**{**given, **changes})


RATES = {"learning_rate": [1e-3, 4e-3]}


def test_each_combination_has_a_run_with_its_settings(tmp_path):
    shared = {"validate_every": 5, "patch_size": [16, 16]}
    given = {**RATES, "train_cases": [10, "all"], "split_seed": [0, 7]}
    found = list(runs(study(axes=given, training=shared, seeds=[0, 1]), tmp_path))
    assert len({run.folder for run in found}) == len({(r.name, r.seed) for r in found}) == 16
    assert all(run.settings.validate_every == 5 for run in found)
    for run in found:
        assert {**run.values, "train_cases": None} == {
            name: getattr(run.settings, name) for name in ("learning_rate", "split_seed")
        } | {"train_cases": None}
        assert run.settings.train_cases == (10 if run.values["train_cases"] == 10 else None)
    first = found[0]
    assert first.name == "rw (learning_rate 0.001, train_cases 10, split_seed 0)"
    # A folder says what differs from a run without axes, in the order of names.
    assert first.folder == tmp_path / "runs/rw/learning_rate_0.001/train_cases_10/seed_0"
    assert found[3].folder == tmp_path / "runs/rw/seed_0"
    assert found[7].folder == tmp_path / "runs/rw/split_seed_7/seed_0"
    # An interrupted study has all cells of the first seed and split.
    assert [(run.seed, run.values["split_seed"]) for run in found[:5]] == [(0, 0)] * 4 + [(0, 7)]


def test_a_file_holds_axes(tmp_path):
    given = {"train_cases": [10, "all"], "patch_size": [[16, 16], "none"], "balanced": [True]}
    one = study(axes=given)
    one.write(tmp_path / "study.toml")
    assert plan.Study.read(tmp_path / "study.toml") == one
    assert "axes" not in study().as_toml()


def test_an_axis_or_a_value_that_comes_later_keeps_the_runs(tmp_path):
    before = study(training={"learning_rate": 2e-3})
    [old] = runs(before, tmp_path)
    later = joined(
        before, before.model_copy(update={"axes": {"learning_rate": (1e-3,)}}), begun=True
    )
    assert later.axes == {"learning_rate": (0.001, 0.002)}  # the value of the runs is one of it
    assert old.folder in {run.folder for run in runs(later, tmp_path)}
    again = joined(later, study(training=before.training, axes={"train_cases": [5]}), begun=True)
    assert again.axes == {"learning_rate": (0.001, 0.002), "train_cases": (5, "all")}
    settings = {run.folder: run.settings for run in runs(again, tmp_path)}
    assert len(settings) == 4
    for run in (old, *runs(later, tmp_path)):
        assert settings[run.folder].difference(run.settings) == []
    # Without runs, only what was asked for.
    fresh = joined(
        before, before.model_copy(update={"axes": {"learning_rate": (1e-3,)}}), begun=False
    )
    assert fresh.axes == {"learning_rate": (0.001,)}
    assert axes.joined({"preset": ["small"]}, {"preset": ["tiny"]}, {}, begun=True) == {
        "preset": ("small", "tiny")
    }


def test_runs_in_deeper_folders_have_begun(tmp_path):
    one = study(axes=RATES)
    one.write(tmp_path / "study.toml")
    deep = next(run for run in runs(one, tmp_path) if run.values["learning_rate"] == 1e-3)
    deep.folder.mkdir(parents=True)
    (deep.folder / "run.toml").touch()
    with pytest.raises(RWLossError, match="its runs have begun"):
        plan.placed(one.model_copy(update={"steps": 30}), tmp_path)


def test_wrong_axes():
    for given, message in (
        ({"learning_rat": [1]}, "did you mean 'learning_rate'"),
        ({"seed": [1]}, "seed cannot be an axis"),
        ({"groups_table": ["a.csv"]}, "cannot be an axis: .* is a path"),
        ({"network_options": [{"dropout": 0.1}]}, "cannot be an axis: .* or a table"),
        ({"learning_rate": [-1]}, r"study: \[axes\]: learning_rate must be greater than 0"),
        ({"learning_rate": []}, "one value or more of learning_rate"),
        ({"learning_rate": [0.1, 1e-1]}, "each once"),
        ({"map_of": ["patch", "volume"]}, "give --zoom 0"),
    ):
        with pytest.raises(RWLossError, match=message):
            study(axes=given)
    assert study(axes={"map_of": ["patch", "volume"]}, training={"zoom": 0})
    for text in ("learning_rate", "=1", "learning_rate=", "learning_rate= ,"):
        with pytest.raises(RWLossError, match="such as learning_rate=1e-3,1e-2"):
            axes.read_option(text)


def test_comparisons_of_all_cells_are_corrected_together_and_splits_are_the_unit():
    groups = [
        {"ref": dict.fromkeys(range(8), 0.5), "a": {s: 0.6 + s / 100 for s in range(8)}},
        {"ref": dict.fromkeys(range(8), 0.5), "a": {s: 0.5 + (-1) ** s / 10 for s in range(8)}},
    ]
    [first], [second] = compare_all(groups, "ref")
    assert first.p == compare(groups[0], "ref")[0].p == 2 / 2**8
    assert first.corrected_p == 2 * first.p
    assert second.p == second.corrected_p == 1
    assert first.comparisons == 2
    assert first.seeds_needed == 7
    # Runs of one split count once: the mean of their differences.
    by_split = {(split, seed): split / 10 + seed / 100 for split in (1, 2, 3) for seed in (0, 1)}
    base = dict.fromkeys([*by_split, (9, 9)], 0.0)
    [[found]] = compare_all([{"ref": base, "a": by_split}], "ref", unit_of=lambda key: key[0])
    assert found.seeds == (1, 2, 3)
    assert found.difference.mean == pytest.approx(0.205)
    assert found.p == sign_flip_p([0.105, 0.205, 0.305]) == 0.25


def dice(name, rate, seed):
    if name == "boundary" and rate == 4e-3:
        return (0.3, 0.2), (0.6, 0.0)
    if name == "dice_ce" and rate == 1e-3 and seed == 1:
        return (0.0, 0.0), (0.0, 0.0)
    return (0.4, 0.3), (0.8 + 0.01 * seed, 0.7)


@pytest.fixture(scope="module")
def with_rates(tmp_path_factory):
    """Boundary loses a class at the higher rate; the reference, on seed 1 at the lower one."""
    folder = tmp_path_factory.mktemp("rates")
    one = make(data="D", maps=MAPS, seeds=[0, 1], steps=20, axes=RATES)
    for run in runs(one, folder):
        write_run(run, dice(run.map, run.settings.learning_rate, run.seed), 0.0, names="ab")
    return collect(one, folder)


def test_each_cell_has_a_summary_and_a_comparison(with_rates):
    found = {each.name: each for each in with_rates.whole.maps}
    assert len(found) == 6
    assert found["boundary (learning_rate 0.004)"].lost == 2
    assert found["boundary (learning_rate 0.001)"].lost == 0
    assert [(each.map, each.values) for each in with_rates.whole.comparisons] == [
        (name, {"learning_rate": rate}) for rate in (1e-3, 4e-3) for name in ("boundary", "rw")
    ]
    assert {each.comparisons for each in with_rates.whole.comparisons} == {4}
    low, high = with_rates.conditions
    assert (low.reference_failures, high.reference_failures) == ((1,), ())
    assert high.without_failures is None
    assert [each.done for each in low.without_failures.maps] == [1, 1, 1]
    assert high.whole.comparisons[0].difference.mean == pytest.approx(0.3 - 0.7525)


def test_many_cells_are_told_in_short(with_rates, learning_rates):
    """Counts are over all cells, which the tables have one by one."""
    assert lead(learning_rates) == [
        "boundary lost a class in 11 of 24 runs and rectified in 7 of 24.",
        "rectified_dice and dice_ce lost no class in any run.",
        "No difference in test Dice from dice_ce is claimed: so few seeds cannot show one, however "
        "large it is. 9 seeds are needed.",
    ]
    told = sentences(learning_rates)
    assert told[:4] == [
        "96 of 96 runs are done.",
        "The reference dice_ce lost no class in 24 of 24 runs.",
        "At least 95 % of runs keep every class over 1.73 of 1.73 decades of learning rate with "
        "rectified_dice and dice_ce, and over the least, 0.16, with boundary.",
        "Over all values of the axes, dice_ce has the highest interquartile mean of test Dice "
        "(0.762), boundary the lowest (0.211).",
    ]
    for text in (
        f"Test Dice, boundary {MINUS} dice_ce: {MINUS}0.792 to {MINUS}0.204 over 4 values of "
        "learning_rate; none is significant.",
        "Up to 6.8 % of the push in training went the wrong way with boundary, and the least, 0 %, "
        "with rectified.",
        "boundary lost a class in 11 of 24 runs: anterior in 9 of 24 and posterior in 11 of 24.",
    ):
        assert text in told
    assert max(len(text.split()) for text in told + sentences(with_rates)) <= 35
    assert "boundary lost a class in 2 of 4 runs: b in 2 of 4." in sentences(with_rates)
    assert (
        "The reference dice_ce itself failed or lost a class in 1 of 4 runs (seed 1): there the "
        "training may be the reason for a lost class, not the map." in lead(with_rates)
    )


def test_claims_of_many_cells_are_counted(tmp_path):
    one = make(data="D", maps=MAPS, seeds=range(8), steps=20, axes=RATES)
    for run in runs(one, tmp_path):
        end = 0.3 if run.map == "boundary" else 0.7 + 0.01 * (run.map == "rw") + run.seed / 1000
        write_run(run, ((0.4, 0.3), (end, end)), 0.0, names="ab")
    results = collect(one, tmp_path)
    assert lead(results)[1] == (
        "4 of 4 differences in test Dice from dice_ce are significant: 2 above it, 2 below."
    )
    text = f"Test Dice, rw {MINUS} dice_ce: +0.010 to +0.010 over 2 values of learning_rate; 2 are"
    assert any(told.startswith(text) for told in sentences(results))


def test_runs_csv_has_a_column_per_axis(with_rates):
    rows = list(csv.DictReader(io.StringIO(as_csv(with_rates))))
    assert len(rows) == 24
    assert {row["learning_rate"] for row in rows} == {"0.001", "0.004"}
    failed = {
        (r["map"], r["seed"], r["learning_rate"]) for r in rows if r["reference_failed"] == "True"
    }
    assert failed == {(name, "1", "0.001") for name in MAPS}
    assert as_fields(with_rates)["whole"]["maps"][0]["values"] == {"learning_rate": 0.001}


def test_splits_repeat_a_cell(tmp_path):
    one = make(
        data="D", maps={"rw": "rectified", "dice_ce": "dice + cross_entropy"}, seeds=[0, 1],
        steps=20, axes={"split_seed": [3, 5], "train_cases": [4]},
    )  # fmt: skip
    for run in runs(one, tmp_path):
        bad = run.map == "dice_ce" and (run.seed, run.settings.split_seed) == (1, 5)
        write_run(run, ((0.4, 0.3), (0.8, 0.0 if bad else 0.7)), 0.0, names="ab")
    results = collect(one, tmp_path)
    rw, reference = results.whole.maps
    assert (rw.done, rw.name) == (4, "rw (train_cases 4)")
    assert results.reference_failures == ("1 (split_seed 5)",)
    [compared] = results.whole.comparisons
    assert compared.seeds == ("split_seed 3", "split_seed 5")
    assert compared.difference.mean == pytest.approx((0 + 0.35 / 2) / 2)
    text = "\n".join(sentences(results))
    assert "in 1 of 4 runs (seed 1 (split_seed 5))" in text
    assert "the smallest corrected p that 2 splits and 1 comparison can give is 0.5" in text
    assert "6 splits are needed." in text
    assert reference.lost == 1
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert {(row["split_seed"], row["train_cases"]) for row in rows} == {("3", "4"), ("5", "4")}
