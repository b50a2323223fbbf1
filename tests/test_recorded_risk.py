"""The fit of the models to the recorded runs, their quality, and that they are those that ship."""

import json
import math
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from rwloss.stability import VANISHES_BELOW
from rwloss.stability.alarm import LOOKS

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are in the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import risk  # noqa: E402
from benchmarks.recorded import read_table  # noqa: E402
from benchmarks.recorded_runs import FITTED  # noqa: E402

sys.path.remove(str(ROOT))

ROWS = read_table()


def drawn(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 3)) * [1.0, 5.0, 0.1] + [0.0, 3.0, -1.0]
    return features, rng.random(rows) < 1 / (1 + np.exp(-2 * features[:, 0] + 1))


def few():
    """Recorded classes with signs, of one seed, so that plain loops are quick."""
    return [row for row in ROWS if row.signs and row.seed == 0]


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
    model = risk.fit("abc", features, lost)
    assert [*model.weights, model.bias] == pytest.approx(found, abs=1e-4)
    wanted = 1 / (1 + np.exp(-(rows @ found[:-1] + found[-1])))
    assert model.probability(features) == pytest.approx(wanted, abs=1e-4)


def test_a_threshold_lets_one_survivor_in_twenty_raise_an_alarm():
    features, lost = drawn(400)
    judge = risk.fit_judge("abc", features, lost)
    kept = judge.model.probability(features[~lost])
    assert 0.04 < (kept > judge.threshold).mean() <= 0.05


def test_a_group_is_predicted_from_the_others():
    features, lost = drawn()
    groups = np.array(list("abc"))[np.arange(60) % 3]
    found = risk.left_out(features, lost, groups)
    own = groups == "b"
    alone = risk.fit("abc", features[~own], lost[~own]).probability(features[own])
    assert found[own] == pytest.approx(alone)


def test_area_under_the_curve_by_counting_pairs():
    rng = np.random.default_rng(1)
    lost, scores = rng.random(30) < 0.4, rng.integers(0, 6, 30).astype(float)
    pairs = [(a, b) for a in scores[lost] for b in scores[~lost]]
    wanted = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert risk.area_under_curve(lost, scores) == pytest.approx(wanted)
    assert math.isnan(risk.area_under_curve(np.zeros(30, bool), scores))
    runs = [str(i // 2) for i in range(30)]
    low, high = risk.over_runs(runs, lambda own: risk.area_under_curve(lost[own], scores[own]))
    assert low < wanted < high


# --- The recorded runs


def test_the_table_holds_whole_runs_with_signs():
    assert len({(row.run, row.name) for row in ROWS}) == len(ROWS)
    # What shares a source has one name: see docs/stability.md.
    assert {row.dataset for row in ROWS} == {
        *("hippocampus", "phantom", "lung_patches", "vessels", "topomortar"),
    }
    for row in ROWS:
        assert 0 < row.fraction < 1
        assert row.learning_rate > 0
        assert -0.05 < row.pull_exponent < 1.05
        assert set(row.signs) in (set(), set(LOOKS))
        for signs in row.signs.values():
            assert {"pull", *signs} == {*risk.CANDIDATES}
    kept = [row for row in ROWS if row.map == "dice + cross_entropy"]
    assert {row.dataset for row in kept if row.lost} == {"phantom"}  # a class of 0.05 or 0.2 %
    assert sum(row.lost for row in kept) < 0.01 * len(kept)


@pytest.mark.parametrize("by", ["dataset", "map"])
def test_alarms_add_up_over_the_looks(by):
    """Against a plain loop over the rows."""
    rows = few()
    raised, risks, names = risk.left_out_alarms(rows, by)
    alarmed = set()
    for at, look in enumerate(LOOKS):
        for group in {getattr(row, by) for row in rows}:
            others = [row for row in rows if getattr(row, by) != group]
            signs = [[row.signs_at(look)[name] for name in names[group]] for row in others]
            lost = np.array([row.lost for row in others])
            judge = risk.fit_judge(names[group], np.log(np.clip(signs, 1e-6, 1e3)), lost)
            for i, row in enumerate(rows):
                if getattr(row, by) == group:
                    assert judge.risk(row.signs_at(look)) == pytest.approx(risks[at, i])
                    if risks[at, i] > judge.threshold:
                        alarmed.add(i)
        assert set(np.flatnonzero(raised[at])) == alarmed


def test_signs_are_chosen_by_the_area_of_left_out_risks():
    rows = few()
    signs, lost = risk.signs_of(rows), np.array([row.lost for row in rows])
    maps = np.array([row.map for row in rows])

    def area(columns):
        areas = []
        for at in signs[..., columns]:
            risks = np.empty(len(rows))
            for name in set(maps):
                others = maps != name
                model = risk.fit(columns, at[others], lost[others])
                risks[~others] = model.probability(at[~others])
            pairs = lost.sum() * (~lost).sum()
            areas.append(mannwhitneyu(risks[lost], risks[~lost]).statistic / pairs)
        return np.mean(areas)

    sets = [[*some] for size in range(1, 6) for some in combinations(range(5), size)]
    areas = [area(some) for some in sets]
    wanted = next(some for some, each in zip(sets, areas, strict=True) if each > max(areas) - 1e-3)
    assert risk.chosen_signs(signs, lost, maps) == wanted


def test_a_dataset_has_no_part_in_the_choice_for_it():
    """Whatever its classes came to, the signs and the models that judge it are the same."""
    rows = few()
    turned = [
        replace(row, lost=not row.lost) if row.dataset == "hippocampus" else row for row in rows
    ]
    own = [row.dataset == "hippocampus" for row in rows]
    raised, risks, signs = risk.left_out_alarms(rows, "dataset")
    raised_too, risks_too, signs_too = risk.left_out_alarms(turned, "dataset")
    assert signs["hippocampus"] == signs_too["hippocampus"]
    assert (risks[:, own] == risks_too[:, own]).all()
    assert (raised[:, own] == raised_too[:, own]).all()
    assert (risks != risks_too).any()


@pytest.mark.slow
def test_what_ships_is_fitted_to_the_table():
    """All but the ends of the intervals, which need more resamples."""
    found = risk.fitted_content(ROWS, risk.quality(ROWS, resamples=25))
    shipped = json.loads(FITTED.read_text(encoding="utf-8"))

    def leaves(content, path=""):
        if not isinstance(content, dict | list):
            yield path, content
            return
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for name, each in pairs:
            yield from leaves(each, f"{path}/{name}")

    wanted, found = dict(leaves(shipped)), dict(leaves(found))
    assert wanted.keys() == found.keys()
    for path, value in wanted.items():
        if "interval" not in path:
            same = value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
            assert found[path] == same, path


def test_the_page_says_what_ships():
    """docs/stability.md: the two tables, and the counts in the sentences around them."""
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    shipped = json.loads(FITTED.read_text(encoding="utf-8"))
    alarm, risks = shipped["alarm"]["left_out"], shipped["risk"]["left_out"]

    def share(count, of, ends):
        low, high = (f"{100 * end:.0f}" for end in ends)
        return f"{count} of {of:,}, {100 * count / of:.0f} % ({low} to {high} %)"

    for each, other in list(zip(alarm["dataset"], alarm["map"], strict=True))[:3]:
        assert (
            f"| {share(each['hits'], each['lost'], each['recall_interval'])} "
            f"| {share(each['false'], each['kept'], each['false_interval'])} "
            f"| {100 * other['hits'] / other['lost']:.0f} %, "
            f"{100 * other['false'] / other['kept']:.0f} % |"
        ) in page
    for by, text in (("dataset", "source"), ("map", "map")):
        cells = [
            f"{risks[by][name]:.3f} ({risks[by][ends][0]:.3f} to {risks[by][ends][1]:.3f})"
            for name, ends in (("area", "interval"), ("pull_area", "pull_interval"))
        ]
        line = f"| each {text} in turn | {' | '.join(cells)} |"
        assert line.replace(" 0.", " .").replace("(0.", "(.") in page
    lost = "(with {classes:,} classes, {lost} of them lost"
    for what, form in (
        ("risk", f"{{runs:,}} runs of small 2-D U-Nets with Adam {lost}"),
        ("alarm", f"{{runs:,}} runs of 300 or 500 steps {lost}"),
    ):
        assert form.format(**shipped["fitted_on"][what]) in page


def test_what_the_rule_of_thumb_names():
    """docs/stability.md, "A risk before training", and the docstring of VANISHES_BELOW."""
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")

    def below(limit, *, lost, fast):
        rows = [row for row in ROWS if row.lost is lost and (row.learning_rate > 0.004) is fast]
        return sum(row.pull < limit for row in rows), len(rows)

    named, lost = below(VANISHES_BELOW, lost=True, fast=False)
    wrong, kept = below(VANISHES_BELOW, lost=False, fast=False)
    share = f"{100 * named / lost:.0f} %"
    assert f"{named} of the {lost} lost classes ({share}), and {100 * wrong / kept:.0f} %" in page
    named, lost = below(VANISHES_BELOW, lost=True, fast=True)
    wrong, kept = below(VANISHES_BELOW, lost=False, fast=True)
    survived = f"{wrong} of {kept} survivors"
    assert f"{named} of {lost} ({100 * named / lost:.0f} %), and {survived}" in page
    (named, _), (wrong, _) = (below(0.03, lost=end, fast=True) for end in (True, False))
    assert f"a limit of 0.03 would name {named} and {wrong} there" in page
