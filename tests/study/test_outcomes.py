"""Outcomes of runs against logs written by hand."""

import json

import pytest

from rwloss.errors import RWLossError
from rwloss.study.outcomes import outcome_of, read_outcome


def validation(step, **dice):
    return {"kind": "validation", "step": step, "dice": dice}


def record(step, mass=0.0, *, predicted=(0.9, 0.1), share=(0.5, 0.5), norm=1.0, true=(0.8, 0.2)):
    return {
        "kind": "record",
        "step": step,
        "losses": [1.0],
        "wrong_way_mass": mass,
        "predicted_volume": list(predicted),
        "true_volume": list(true),
        "gradient_share": list(share),
        "gradient_norm": norm,
    }


def lesion(*dice):
    steps = [validation(10 * number, lesion=value) for number, value in enumerate(dice, 1)]
    [found] = outcome_of(steps).classes
    return found


def test_birth_death_and_collapse():
    for dice, *expected in (
        ((0.0, 0.0), None, False, True),  # never born: no death
        ((0.1, 0.11), 20, False, False),  # above 0.1, not at it
        ((0.5, 0.0), 10, True, True),
        ((0.5, 0.019), 10, True, True),
        ((0.5, 0.02), 10, False, True),  # lost, not dead
        ((0.5, 0.05), 10, False, False),
        ((0.0, 0.5, 0.0, 0.6), 20, False, False),  # what happened between does not count
        ((0.09, 0.04), None, False, True),
    ):
        found = lesion(*dice)
        assert [found.birth_step, found.died, found.collapsed] == expected, dice
        assert (found.end_dice, found.best_dice) == (dice[-1], max(dice))


def test_a_class_that_no_validation_case_has_is_not_lost():
    found = lesion(0.0, None, 0.0)
    assert found.end_dice is None
    assert (found.collapsed, found.died) == (None, None)
    assert not outcome_of([validation(1, a=None, b=None)]).knows_losses
    assert outcome_of([validation(1, a=0.4, b=None)]).unknown == ("b",)
    assert outcome_of([validation(1, a=0.4, b=None)]).end_dice == 0.4


def test_lost_classes_and_means():
    outcome = outcome_of([validation(9, a=0.6, b=0.01, c=0.2)])
    assert outcome.lost == ("b",)
    assert outcome.end_dice == pytest.approx(0.27)
    assert outcome.test_dice is None
    assert not outcome.finished


def test_residual_of_records_where_the_class_is_empty():
    lines = [
        record(1, norm=4.0),
        record(2, predicted=(1.0, 0.0), share=(0.9, 0.1), norm=2.0),
        record(3, predicted=(1.0, 0.0), share=(0.7, 0.3), norm=1.0),
        record(4, predicted=(1.0, 0.0), true=(1.0, 0.0), share=(1.0, 0.0)),  # rightly empty
        validation(4, lesion=0.0),
    ]
    [found] = outcome_of(lines).classes
    assert found.residual.records == 2
    assert found.residual.push_share == pytest.approx(0.2)
    assert found.residual.gradient_norm == pytest.approx(1.5 / 4)
    # What overflowed is unknown; older logs hold a bare Infinity.
    lines[2]["gradient_norm"], lines[2]["gradient_share"] = float("inf"), [0.1, float("nan")]
    lines[2]["wrong_way_mass"] = float("nan")
    [found] = outcome_of(lines).classes
    assert (found.residual.push_share, found.residual.gradient_norm) == (0.1, 0.5)
    assert outcome_of(lines).largest_wrong_way_mass == outcome_of(lines).wrong_way_mass == 0.0
    lines[0]["gradient_norm"] = None
    assert outcome_of(lines).classes[0].residual.gradient_norm is None
    lines[0]["gradient_norm"] = 0.0
    assert outcome_of(lines).classes[0].residual.gradient_norm is None
    assert outcome_of(lines[:1] + lines[-1:]).classes[0].residual is None


def test_wrong_way_mass_and_divergence():
    outcome = outcome_of(
        [record(1, 0.01), record(50, 0.03), {"kind": "diverged", "step": 61, "reason": "nan"}]
    )
    assert outcome.wrong_way_mass == pytest.approx(0.02)
    assert outcome.largest_wrong_way_mass == 0.03
    assert outcome.diverged_step == 61
    assert outcome.step == 61
    assert outcome.classes == ()


def test_an_empty_folder_and_a_finished_one(tmp_path):
    assert read_outcome(tmp_path) == outcome_of([])
    (tmp_path / "metrics.jsonl").write_text(json.dumps(validation(3, a=0.5, b=0.5)) + "\n")
    means = [{"name": "a", "dice": {"mean": 0.7}}, {"name": "b", "dice": {"mean": 0.3}}]
    (tmp_path / "test.json").write_text(json.dumps({"summary": means, "steps": 3}))
    outcome = read_outcome(tmp_path)
    assert outcome.finished
    assert [each.test_dice for each in outcome.classes] == [0.7, 0.3]
    assert outcome.test_dice == pytest.approx(0.5)


def test_a_missed_class_counts_in_every_score_of_the_test():
    classes = {
        "both": {"dice": 0.8, "hd95_mm": 2.0, "assd_mm": 0.5, "nsd": 0.9},
        "missed": {"dice": 0.0, "hd95_mm": None, "assd_mm": None, "nsd": 0.0},
        "empty": {"dice": None, "hd95_mm": None, "assd_mm": None, "nsd": None},
    }
    cases = [
        {"name": state, "diagonal_mm": 30.0, "classes": [{"state": state, **scores}]}
        for state, scores in classes.items()
    ]
    summary = [{"name": "a", "dice": {"mean": 0.4}}]
    outcome = outcome_of([], {"summary": summary, "cases": cases})
    assert outcome.classes[0].test == {"dice": 0.4, "hd95_mm": 16, "assd_mm": 15.25, "nsd": 0.45}
    assert outcome.tested("hd95_mm") == 16
    assert outcome.tested_cases("assd_mm") == {"both": 0.5, "missed": 30.0}
    assert outcome.tested_cases("nsd") == {"both": 0.9, "missed": 0.0}
    # A test of an earlier version has no NSD.
    for case in cases:
        del case["classes"][0]["nsd"]
    assert outcome_of([], {"summary": summary, "cases": cases}).tested("nsd") is None


def test_damaged_files_are_named_with_the_remedy(tmp_path):
    for name, text, message in (
        ("metrics.jsonl", '{"kind": "val\n', r"line 1 of '.*metrics\.jsonl' is damaged.*rerun"),
        ("metrics.jsonl", '{"step": 3}\n', r"line 1 of '.*metrics\.jsonl' is damaged.*delete"),
        ("metrics.jsonl", "3\n", r"line 1 of '.*metrics\.jsonl' is damaged.*delete"),
        (
            "metrics.jsonl",
            '{"kind": "record", "step": 3}\n',
            r"metrics\.jsonl' is not the log of a run.*: delete",
        ),
        (
            "metrics.jsonl",
            '{"kind": "validation", "step": 3, "dice": {"a": NaN}}\n',
            r"metrics\.jsonl' is not the log .*a score is not finite.*: delete",
        ),
        ("test.json", '{"steps": 20}', r"test\.json' is not the test of a run.*: delete it"),
        (
            "test.json",
            '{"steps": 20, "summary": [], "cases": [{"classes": []}]}',
            r"test\.json' is not the test of a run \(KeyError: 'name'\): delete it",
        ),
        (
            "test.json",
            '{"steps": 20, "summary": [{"name": "a", "dice": {"mean": Infinity}}]}',
            r"test\.json' is not the test .*a score is not finite",
        ),
        ("test.json", "[]", r"test\.json' is not the test of a run.*: delete it"),
        ("test.json", "{", r"cannot read '.*test\.json'"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(RWLossError, match=message):
            read_outcome(tmp_path)
