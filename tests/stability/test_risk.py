"""The logistic model, predictions from the recorded runs, and what is claimed of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from rwloss import RWLossError, stability
from rwloss.stability import alarm, logistic
from rwloss.stability.alarm_quality import CANDIDATES, alarm_quality, chosen_signs
from rwloss.stability.prediction import calibration, predict
from rwloss.stability.recorded import LOOKS, recorded_classes


def drawn(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3)) * [1.0, 5.0, 0.1] + [0.0, 3.0, -1.0]
    return features, rng.random(rows) < 1 / (1 + np.exp(-2 * features[:, 0] + 1))


def test_the_fit_is_the_greatest_penalised_likelihood():
    """Against SciPy's minimiser on the written-out likelihood."""
    features, lost = drawn()
    rows = (features - features.mean(axis=0)) / features.std(axis=0)

    def cost(weights):
        odds = rows @ weights[:-1] + weights[-1]
        sign = np.where(lost, -1, 1)
        likelihood = np.logaddexp(0, sign * odds).sum()
        return likelihood + 0.5 * (weights[:-1] ** 2).sum() + 0.5e-6 * weights[-1] ** 2

    found = minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    model = logistic.Logistic.fit(features, lost)
    assert [*model.weights, model.bias] == pytest.approx(found, abs=1e-4)
    wanted = 1 / (1 + np.exp(-(rows @ found[:-1] + found[-1])))
    assert model.probability(features) == pytest.approx(wanted, abs=1e-4)


def test_a_group_is_predicted_from_the_others():
    features, lost = drawn()
    groups = np.array(list("abc"))[np.arange(60) % 3]
    found = logistic.left_out(features, lost, groups)
    own = groups == "b"
    alone = logistic.Logistic.fit(features[~own], lost[~own]).probability(features[own])
    assert found[own] == pytest.approx(alone)


def test_area_under_the_curve_by_counting_pairs():
    rng = np.random.default_rng(1)
    lost, scores = rng.random(30) < 0.4, rng.integers(0, 6, 30).astype(float)
    pairs = [(a, b) for a in scores[lost] for b in scores[~lost]]
    wanted = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert logistic.area_under_curve(lost, scores) == pytest.approx(wanted)
    assert math.isnan(logistic.area_under_curve(np.zeros(30, bool), scores))
    low, high = logistic.area_interval(lost, scores, [str(i // 2) for i in range(30)])
    assert low < wanted < high


# --- The recorded runs


def test_the_table_holds_whole_runs_with_signs():
    rows = recorded_classes()
    assert len(rows) >= 200
    assert len({(row.run, row.name) for row in rows}) == len(rows)
    assert len({row.dataset for row in rows}) >= 3
    assert {row.steps for row in rows} == {300, 1500}
    for row in rows:
        assert 0 < row.fraction < 1
        assert row.learning_rate > 0
        assert -0.05 < row.pull_exponent < 1.05
        assert set(row.signs) in (set(), set(LOOKS))
        for signs in row.signs.values():
            assert {"pull", *signs} == {*CANDIDATES}
    kept = [row for row in rows if row.map == "dice + cross_entropy"]
    assert not any(row.lost for row in kept)
    assert any(row.lost for row in rows)


def test_risks_follow_the_pull_ratio():
    def risk(pull, **changes):
        given = {"pull_exponent": 1.0, "fraction": 0.02, "learning_rate": 4e-3, "steps": 300}
        return predict(pull, **{**given, **changes})

    risks = [risk(pull) for pull in (math.inf, 1.0, 0.1, 0.01, 0.001, 0.0)]
    assert risks == sorted(risks)
    assert risks[0] < 0.05
    assert risks[-1] > 0.5
    assert risk(0.003, steps=1500) < risk(0.003)
    for wrong, message in (
        ({"fraction": 0}, "fraction as a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate as a number above 0"),
        ({"pull_exponent": math.nan}, "unknown"),
    ):
        with pytest.raises(RWLossError, match=message):
            risk(0.01, **wrong)


def test_what_is_claimed_of_the_prediction():
    """docs/stability.md: it orders left-out data well, and not better than the pull ratio alone."""
    for by in ("dataset", "map"):
        found = calibration(by)
        assert found.area > 0.85
        assert found.interval[0] < found.area < found.interval[1]
        # Where this fails, the threshold of the pull ratio may give way to the model: say so.
        assert found.area < found.pull_area + 0.02
        assert found.expected == pytest.approx(found.lost / found.rows, abs=0.06)


def left_out_alarms(by, names):
    """By the look: lost classes and others that raised an alarm up to it, by a plain loop."""
    rows = [row for row in recorded_classes() if row.signs]
    alarmed, found = set(), {}
    for look in LOOKS:
        for group in {getattr(row, by) for row in rows}:
            others = [row for row in rows if getattr(row, by) != group]
            judge = alarm.Judge.fit(others, look, names)
            for i, row in enumerate(rows):
                if getattr(row, by) == group and judge.risk(row.signs_at(look)) > judge.threshold:
                    alarmed.add(i)
        found[look] = [sum(rows[i].lost is kind for i in alarmed) for kind in (True, False)]
    return found


@pytest.mark.parametrize("by", ["dataset", "map"])
def test_alarms_add_up_over_the_looks(by):
    names = ("pull", "own_probability")
    quality, signs = alarm_quality(by, signs=names, resamples=99)
    assert {each.look: [each.hits, each.false] for each in quality} == left_out_alarms(by, names)
    assert set(signs.values()) == {names}
    for each in quality:
        assert each.recall_interval[0] <= each.recall <= each.recall_interval[1]
        assert each.false_interval[0] <= each.false_alarms <= each.false_interval[1]


def test_signs_are_chosen_by_the_area_of_left_out_risks():
    rows = [row for row in recorded_classes() if row.signs]

    def area(names):
        areas = []
        for look in LOOKS:
            risks = {}
            for group in {row.dataset for row in rows}:
                judge = alarm.Judge.fit([r for r in rows if r.dataset != group], look, names)
                risks |= {
                    i: judge.risk(row.signs_at(look))
                    for i, row in enumerate(rows)
                    if row.dataset == group
                }
            kinds = [[risks[i] for i in risks if rows[i].lost is kind] for kind in (True, False)]
            areas.append(mannwhitneyu(*kinds).statistic / (len(kinds[0]) * len(kinds[1])))
        return np.mean(areas)

    # What an alarm looks at is the choice from all recorded runs: see the command in docs.
    assert chosen_signs(rows) == alarm.SIGNS
    best = area(alarm.SIGNS)
    assert best > area(("pull", "own_probability", "trend")) + 1e-3
    assert best > area(CANDIDATES)


def test_a_dataset_has_no_part_in_the_choice_for_it():
    """Whatever its classes came to, the signs that it is judged by are the same."""
    rows = [row for row in recorded_classes() if row.signs]
    turned = [
        replace(row, lost=not row.lost) if row.dataset == "hippocampus" else row for row in rows
    ]
    _, signs = alarm_quality("dataset", rows, resamples=9)
    _, others = alarm_quality("dataset", turned, resamples=9)
    assert signs["hippocampus"] == others["hippocampus"]
    assert signs != others
    with pytest.raises(RWLossError, match="three datasets or more, two of them with losses"):
        alarm_quality("dataset", [row for row in rows if "phantom" in row.dataset])


def test_what_is_claimed_of_the_alarms():
    """docs/stability.md has the figures; the goal (0.9 at 0.05 by a tenth) is not reached."""
    found, _ = alarm_quality("dataset", resamples=400)
    assert [(each.hits, each.lost, each.false, each.kept) for each in found[:3]] == [
        (20, 28, 9, 104),
        (21, 28, 12, 104),
        (27, 28, 12, 104),
    ]
    assert found[0].recall_interval == pytest.approx((0.55, 0.88), abs=0.04)
    found, _ = alarm_quality("map", resamples=9)
    assert [(each.hits, each.false) for each in found[:3]] == [(23, 10), (27, 18), (27, 19)]


def test_the_public_names():
    assert stability.predict is predict
    assert stability.calibration is calibration
