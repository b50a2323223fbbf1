"""Results of run folders written by hand, and the sentences about them."""

import csv
import io
import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import strange_studies
from strange_studies import MAPS

from rwloss.study.plan import make, runs, with_null
from rwloss.study.report.tables import runs_table, scores_table
from rwloss.study.results import as_csv, as_fields, collect, write
from rwloss.study.wording import lead, sentences

indicator = partial(strange_studies.indicator, names="ab")
FOUND = {
    "boundary": indicator(False, 1.0, 0.002),
    "rw": indicator(True, 0.0, 0.02),
    "dice_ce": indicator(False, 0.5, None),
}


def write_run(run, a, b, mass=0.0, end=True, tested=None):
    """A run of 20 steps whose classes end with these Dice; at step 10 all that end have 0.3."""
    dice = [None if each is None else 0.3 for each in (a, b)], (a, b)
    strange_studies.write_run(run, dice, mass, tested, names="ab", tested=end)


def write_study(folder, seeds, dice, **changes):
    """A study; dice(name, seed) -> of a and b, or None for a run that is not begun."""
    study = make(**{"data": "D", "maps": MAPS, "seeds": seeds, "steps": 20, **changes})
    for run in runs(study, folder):
        values = dice(run.name, run.seed)
        if values is not None:
            write_run(run, *values, mass=0.02 if run.name == "boundary" else 0.0)
    return study


def usual(name, seed):
    if name == "boundary":
        return 0.6 + 0.01 * seed, 0.0
    if name == "dice_ce" and seed == 1:
        return 0.5, 0.0
    return 0.8 + 0.01 * seed, 0.7


@pytest.fixture(scope="module")
def usual_results(tmp_path_factory):
    """Three maps by three seeds: boundary always loses a class, the reference on seed 1."""
    folder = tmp_path_factory.mktemp("usual")
    return collect(write_study(folder, [0, 1, 2], usual), folder, FOUND)


def test_summaries_by_hand(usual_results):
    results = usual_results
    boundary, rw, reference = results.whole.maps
    assert (boundary.done, boundary.failed, boundary.lost) == (3, 0, 3)
    assert (rw.lost, reference.lost) == (0, 1)
    assert rw.test_dice.mean == pytest.approx((0.81 + 0.7) / 2)
    tally = boundary.classes[1]
    assert (tally.known, tally.born, tally.died, tally.collapsed) == (3, 3, 3, 3)
    assert tally.birth_steps == (10, 10, 10)
    assert boundary.wrong_way_mass == boundary.largest_wrong_way_mass == 0.02
    assert not any(each.breaks_promise for each in results.whole.maps)
    assert results.reference == "dice_ce"
    assert results.reference_failures == (1,)
    assert [each.done for each in results.without_failures.maps] == [2, 2, 2]
    first, second = results.whole.comparisons
    assert (first.map, second.map) == ("boundary", "rw")
    assert second.difference.mean == pytest.approx((0.0 + (0.755 - 0.25) + 0.0) / 3)
    without = results.without_failures.comparisons[1]
    assert without.seeds == (0, 2)
    assert without.difference.mean == pytest.approx(0)


def test_sentences_say_the_numbers(usual_results):
    text = "\n".join(sentences(usual_results))
    assert "9 of 9 runs are done." in text
    assert "The reference dice_ce itself failed or lost a class in 1 of 3 runs (seed 1)" in text
    assert "boundary lost a class in 3 of 3 runs: b in 3 of 3 (died in 3)." in text
    assert "rw lost no class in 3 of 3 runs." in text
    assert "rw lost no class in 2 of 2 runs on the seeds where the reference did not fail." in text
    assert (
        "the smallest corrected p that 3 seeds and 2 comparisons can give is 0.5. 7 seeds" in text
    )
    assert "wrong way: 2.0 % with boundary, 0 % with rw" in text
    assert "significant" not in text
    assert "ALARM" not in text
    assert "Rank correlation" not in text  # of three maps
    assert "95 %" not in text  # of three seeds


def test_enough_seeds_for_a_claim(tmp_path):
    """Two comparisons need 7 seeds."""

    def dice(name, seed):
        return (0.6, 0.5) if name == "boundary" else (0.8, 0.7 + 0.01 * (seed % 3 - 1))

    maps = {name: MAPS[name] for name in ("boundary", "dice_ce", "rw")}
    results = collect(write_study(tmp_path, range(7), dice, maps=maps), tmp_path)
    assert results.without_failures is None
    boundary, rw = results.whole.comparisons
    assert boundary.significant
    assert not rw.significant
    assert rw.can_claim
    text = "\n".join(sentences(results))
    assert "7 seeds: a significant difference (corrected p = 0.031, 2 comparisons)" in text
    assert "7 seeds: no significant difference (corrected p = 1, 2 comparisons)" in text
    assert "Rank correlations" not in text


def test_losses_that_differ_are_told(tmp_path):
    """boundary alone loses a class on 7 of 8 seeds, p = 2 / 2^7, twice that after Holm."""

    def dice(name, seed):
        return 0.8, 0.0 if name == "boundary" and seed else 0.7

    results = collect(write_study(tmp_path, range(8), dice), tmp_path)
    told = (
        "Significant against dice_ce: boundary lost a class more often (alone in 7, the reference "
        "alone in 0 of 8 pairs, corrected p = 0.031)."
    )
    assert told in lead(results)
    [cell] = [
        row.cells[-1] for row in scores_table(results).rows if row.cells[0].text == "boundary"
    ]
    assert cell.detail.endswith("corrected p = 0.031")
    fields = as_fields(results)["whole"]["losses"]
    assert [(each["more"], each["significant"]) for each in fields] == [(7, True), (0, False)]


def test_an_a_a_test_stands_beside_the_comparisons_and_costs_them_nothing(tmp_path):
    rng = np.random.default_rng(0)
    maps = {"rw": "rectified", "dice_ce": MAPS["dice_ce"]}
    study = with_null(make(data="D", maps=maps, seeds=range(7), steps=20))
    for run in runs(study, tmp_path):
        end = rng.normal(0.7 if run.name == "rw" else 0.5, 0.02, 2).tolist()
        write_run(run, *end)
    results = collect(study, tmp_path)
    mine, null = results.whole.comparisons
    assert (mine.map, null.map) == ("rw", "dice_ce_again")
    assert mine.comparisons == null.comparisons == 1
    assert mine.significant
    assert not null.significant
    again = {each.comparison.map for each in results.whole.differences}
    assert again == {"rw", "dice_ce_again"}
    found = results.null
    assert (found.studies, found.seeds, found.comparisons) == (200, 7, 1)
    assert found.claims <= 10
    text = f"200 studies drawn from these runs, each of 2 names and 7 seeds, {found.claims} claimed"
    assert any(text in sentence for sentence in sentences(results))
    rows = csv.DictReader(io.StringIO(as_csv(results)))
    seeds = {(row["map"], row["seed"]): row["trained_seed"] for row in rows}
    assert (seeds["dice_ce", "3"], seeds["dice_ce_again", "3"]) == ("3", "1000003")
    shown = [row.cells[1].detail for row in runs_table(results).rows]
    assert shown[2::3] == [f"trained with 1,000,00{seed}" for seed in range(7)]
    assert not any(shown[:2])
    assert collect(make(data="D", maps=maps, seeds=range(7), steps=20), tmp_path).null is None
    # One map twice is one point of a correlation.
    twice = collect(study, tmp_path, FOUND | {"dice_ce_again": FOUND["dice_ce"]})
    assert {pair.map for tie in twice.ties for pair in tie.pairs} == {"rw", "dice_ce"}


def test_an_a_a_test_of_few_seeds_shows_nothing(tmp_path):
    """Six seeds suffice for the one comparison of the A/A test, but not for two others."""
    study = with_null(make(data="D", maps=MAPS, seeds=range(6), steps=20))
    rng = np.random.default_rng(0)
    for run in runs(study, tmp_path):
        write_run(run, *rng.normal(0.9 if run.name == "rw" else 0.5, 0.02, 2).tolist())
    results = collect(study, tmp_path)
    assert [each.can_claim for each in results.whole.comparisons] == [False, False, True]
    told = "\n".join(lead(results))
    assert "is claimed: so few seeds cannot show one, however large it is. 7 seeds are" in told
    assert "is significant" not in told
    [text] = [text for text in sentences(results) if text.startswith("A/A test")]
    assert text.endswith(
        "3 names and 6 seeds, 0 claimed a difference: this shows nothing, because 6 seeds can "
        "claim nothing."
    )
    axes = {"split_seed": [1, 2]}
    split = with_null(make(data="D", maps=MAPS, seeds=range(6), steps=20, axes=axes))
    for run in runs(split, tmp_path / "split"):
        write_run(run, 0.5, 0.4)
    results = collect(split, tmp_path / "split")
    assert results.null.seeds == 2  # splits, of which each map has two
    assert any("3 names and 2 splits" in text for text in sentences(results))


def test_runs_that_failed_or_are_to_come(tmp_path):
    study = write_study(tmp_path, [0, 1], lambda name, seed: usual(name, 0) if seed == 0 else None)
    later = {run.name: run for run in runs(study, tmp_path) if run.seed == 1}
    write_run(later["rw"], 0.9, 0.9, end=False)
    later["dice_ce"].failure.write_text("out of memory\n")
    results = collect(study, tmp_path)
    status = {(row.map, row.seed): row.status for row in results.runs}
    assert status["boundary", 1] == "not begun"
    assert status["rw", 1] == "unfinished"
    assert status["dice_ce", 1] == "failed"
    assert [each.done for each in results.whole.maps] == [1, 1, 1]
    assert results.reference_failures == (1,)
    text = "\n".join(sentences(results))
    assert "3 of 6 runs are done, 1 failed, 1 unfinished and 1 not begun." in text
    assert "Failed runs are left out of all means and tests: dice_ce (seed 1)" in text
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    [failed] = [row for row in rows if row["status"] == "failed"]
    assert failed["reason"] == "out of memory"
    assert failed["reference_failed"] == "True"
    # More steps than a run has: it is to go on.
    longer = study.model_copy(update={"steps": 40})
    assert {row.status for row in collect(longer, tmp_path).runs} == {
        "unfinished", "not begun", "failed",
    }  # fmt: skip


def diverge(run, step, reason="the loss is nan"):
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "diverged", "step": step, "reason": reason}) + "\n")
    if reason:
        run.failure.write_text(reason + "\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.slow
def test_pipes_in_the_place_of_files_are_not_waited_for(tmp_path):
    """A study may come from someone else."""
    study = write_study(tmp_path, [0], lambda name, seed: None)
    failed, *_ = runs(study, tmp_path)
    failed.failure.parent.mkdir(parents=True)
    os.mkfifo(failed.failure)
    os.mkfifo(tmp_path / "results.json")
    code = (
        "import sys; from pathlib import Path; from rwloss.study import indicators, plan, results;"
        "study, folder = plan.Study.read(Path(sys.argv[1]) / 'study.toml'), Path(sys.argv[1]);"
        "print(indicators.indicators_of(study, folder)[0], results.collect(study, folder, {}))"
    )
    study.write(tmp_path / "study.toml")
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.startswith("{} ")
    assert "its reason can't be read: " in ended.stdout


def test_divergence_is_told_and_is_no_other_failure(tmp_path):
    """rw diverges on two of three seeds, boundary has a full disk on one."""
    lacking = {("rw", 1), ("rw", 2), ("boundary", 2)}
    study = write_study(
        tmp_path, [0, 1, 2],
        lambda name, seed: None if (name, seed) in lacking else (0.8, 0.7),
    )  # fmt: skip
    by_run = {(run.name, run.seed): run for run in runs(study, tmp_path)}
    diverge(by_run["rw", 1], 61)
    diverge(by_run["rw", 2], 7, reason="")  # trained by itself: no reason beside its folder
    by_run["boundary", 2].failure.parent.mkdir(parents=True, exist_ok=True)
    by_run["boundary", 2].failure.write_text("no space left\n")
    results = collect(study, tmp_path, FOUND)
    boundary, rw, _ = results.whole.maps
    assert [each.diverged for each in results.whole.maps] == [0, 2, 0]
    assert (rw.diverged_steps, rw.failed, boundary.failed) == ((61, 7), 2, 1)
    assert results.runs[7].reason == "the loss was not finite at step 7"
    told = sentences(results)
    assert "rw diverged in 2 of 3 runs (first at step 7): its loss was not finite." in told
    assert "rw lost no class in 1 of 1 run that is done." in told
    assert "boundary lost no class in 2 of 2 runs that are done." in told
    assert "".join(told).count("diverged") == 1
    assert lead(results)[:3] == [
        "rw diverged in 2 of 3 runs (first at step 7).",
        "boundary and dice_ce lost no class in any run that is done.",
        "rw lost no class in the run that is done.",
    ]
    fields = as_fields(results)["whole"]["maps"][1]
    assert (fields["diverged"], fields["diverged_steps"]) == (2, [61, 7])


def test_where_all_diverge_that_is_the_answer(tmp_path):
    study = write_study(tmp_path, [0], lambda name, seed: None)
    for run in runs(study, tmp_path):
        diverge(run, 1200)
    assert lead(collect(study, tmp_path))[:2] == [
        "boundary diverged in 1 of 1 run (first at step 1,200), rw diverged in 1 of 1 run (first "
        "at step 1,200) and dice_ce diverged in 1 of 1 run (first at step 1,200).",
        "No run is done yet, so there is no other answer.",
    ]


def test_a_damaged_run_has_failed_and_the_others_count(tmp_path):
    study = write_study(tmp_path, [0, 1], usual)
    last = list(runs(study, tmp_path))[-1]
    for name, text in (
        ("metrics.jsonl", '{"kind": "val\n'), ("metrics.jsonl", "3\n"), ("test.json", "{"),
    ):  # fmt: skip
        (last.folder / name).write_text(text)
        results = collect(study, tmp_path, FOUND)
        assert [row.status for row in results.runs] == ["done"] * 5 + ["failed"]
        assert name in results.runs[-1].reason
    assert [each.done for each in results.whole.maps] == [2, 2, 1]
    assert "5 of 6 runs are done, 1 failed." in sentences(results)
    assert as_csv(results)
    assert [row.outcome.log.dice == {} for row in results.runs] == [False] * 5 + [True]


def test_a_broken_promise_raises_the_alarm(tmp_path):
    study = write_study(tmp_path, [0], usual)
    found = {**FOUND, "boundary": indicator(True, 0.0, 0.02)}
    results = collect(study, tmp_path, found)
    assert [each.breaks_promise for each in results.whole.maps] == [True, False, False]
    assert any(text.startswith("ALARM: boundary is declared stable") for text in sentences(results))


@pytest.mark.parametrize("count", [5, 6])
def test_six_maps_make_a_rank_correlation(tmp_path, count):
    maps = {f"map{number}": f"{number + 1} * rectified" for number in range(count)}
    study = write_study(
        tmp_path, [0], lambda name, _: (0.5, 0.0 if name > "map2" else 0.4), maps=maps
    )
    found = {name: indicator(False, number / 9, 1.0) for number, name in enumerate(maps)}
    results = collect(study, tmp_path, found)
    [tie] = [
        tie for tie in results.ties
        if (tie.indicator, tie.outcome) == ("violating", "runs that lost a class")
    ]  # fmt: skip
    text = "\n".join(sentences(results))
    # The worst come first.
    assert "compatible with that: map3 1 of 1 (5 % or more), map4 1 of 1" in text
    shown = ", ".join(f"0 % with map{number}" for number in range(4))
    assert f"{shown} and {count - 4} more" in text
    if count == 5:
        assert tie.correlation.rho is None
        assert "Rank correlations" not in text
        return
    # Ranks 1..6 against 2, 2, 2, 5, 5, 5.
    assert tie.correlation.rho == pytest.approx(0.8783101)
    assert "a description of these maps alone" in text
    assert tie.correlation.p == pytest.approx(2 * (6 * 6) / 720)  # 3! 3! of 6! orders
    text = sentences(results)[-1]
    assert "violating voxels and share of runs losing a class: +0.88 (p = 0.1, 6 maps)" in text
    assert "pull" not in text  # all the same


def test_the_reference_is_told_of_once_and_without_it_nothing_is_compared(usual_results, tmp_path):
    where = "on the seeds where the reference did not fail"
    told = [text for text in sentences(usual_results) if where in text and " class " in text]
    assert [text.split()[0] for text in told] == ["boundary", "rw"]
    study = write_study(tmp_path, [0, 2], usual)
    told = [text for text in sentences(collect(study, tmp_path)) if "lost no class" in text]
    assert told == [
        "The reference dice_ce lost no class in 2 of 2 runs.",
        "rw lost no class in 2 of 2 runs.",
    ]
    alone = collect(study.model_copy(update={"maps": {"rw": "rectified"}}), tmp_path, {})
    assert alone.whole.comparisons == ()
    assert any("no map is tested against another" in text for text in sentences(alone))


def test_files(usual_results, tmp_path):
    results = usual_results
    write(results, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == json.loads(json.dumps(as_fields(results)))
    assert content["whole"]["comparisons"][0]["can_claim"] is False
    assert content["runs"][0]["outcome"]["lost"] == ["b"]
    assert content["study"]["maps"] == MAPS
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert len(rows) == 9 * 2
    first = rows[1]
    assert (first["map"], first["class"], first["died"], first["birth_step"]) == (
        "boundary", "b", "True", "10",
    )  # fmt: skip
    assert float(first["residual_push_share"]) == pytest.approx(0.2)


def test_nothing_is_called_kept_that_no_validation_case_tells(tmp_path):
    """Without validation cases; with one class in none; and without test cases."""
    for name, ends, tested, wanted in (
        ("none", (None, None), (0.5, 0.4), [
            "It is not known whether the reference dice_ce lost a class: no validation case has a "
            "foreground class.",
            "It is not known whether boundary lost a class: no validation case has a foreground "
            "class.",
            "It is not known whether a class was lost: no validation case has a foreground class.",
        ]),
        ("one", (0.5, None), (0.5, 0.4), [
            "The reference dice_ce lost no class in 1 of 1 run; not known for b, because no "
            "validation case has it.",
            "boundary, rw and dice_ce lost no class in any run.",
            "It is not known for b: no validation case has it.",
        ]),
        ("lost", (0.0, None), (0.5, 0.4), [
            "rw lost a class in 1 of 1 run: a in 1 of 1 (died in 1); not known for b, because no "
            "validation case has it.",
        ]),
        ("untested", (0.5, 0.5), (None, None), [
            "There are no test scores: the study has no test case with a foreground class.",
        ]),
    ):  # fmt: skip
        study = make(data="D", maps=MAPS, seeds=[0], steps=20)
        for run in runs(study, tmp_path / name):
            write_run(run, *ends, tested=tested)
        results = collect(study, tmp_path / name, FOUND)
        told = sentences(results) + lead(results)
        for text in wanted:
            assert text in told
        assert ("lost no class" in "".join(told)) == (ends[0] == 0.5)
        assert name == "lost" or "seed in common" not in "".join(told)
        unknown = name == "none"
        assert results.reference_unknown == ((0,) if unknown else ())
        [tie] = [
            tie for tie in results.ties
            if (tie.indicator, tie.outcome) == ("violating", "runs that lost a class")
        ]  # fmt: skip
        assert tie.correlation.n == (0 if unknown else 3)
        rows = list(csv.DictReader(io.StringIO(as_csv(results))))
        assert (rows[0]["reference_failed"] == "") == unknown
        assert (rows[1]["collapsed"] == "") == (ends[1] is None)
