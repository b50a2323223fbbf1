"""What a page says in sentences."""

import pytest
from scores_of_others import long_rows, made_scores, write

from rwloss.study.score_tables.wording import assumptions, lead, question, sentences


@pytest.fixture
def with_seeds(collect, tmp_path):
    """The results of the first few seeds."""

    def of(number, **given):
        keep = tuple(f",{seed}," for seed in range(number))
        head, *rows = long_rows(made_scores())
        kept = [row for row in rows if any(each in row for each in keep)]
        return collect(write(tmp_path / "t.csv", head, *kept), **given)

    return of


def test_claims_name_direction_and_p(collect):
    found = collect()
    assert question(found) == "Which of 2 methods are better than dice_ce?"
    dice, _, hd95, _ = told = lead(found)
    assert dice.startswith("Dice, over runs: rw is 0.046 above dice_ce, better")
    assert dice.endswith("better (corrected p = 0.031); boundary does not differ significantly.")
    assert hd95.startswith("HD95, over runs: rw is ")
    assert "below dice_ce, better" in hd95
    assert told == sentences(found)
    assert [text.split(":")[0] for text in told] == [
        f"{metric}, over {over}"
        for metric in ("Dice", "HD95")
        for over in ("runs", "cases of these networks")
    ]


def test_a_worse_method_is_called_worse(collect):
    dice, _, hd95, _ = lead(collect(reference="rw"))
    assert "below rw, worse" in dice
    assert "above rw, worse" in hd95


@pytest.mark.parametrize(
    ("unpaired", "number", "needed"), [(False, 5, "7 seeds"), (True, 3, "5 seeds")]
)
def test_few_seeds_claim_nothing(with_seeds, unpaired, number, needed):
    dice, _, hd95, _ = lead(with_seeds(number, unpaired=unpaired))
    for metric, text in (("Dice", dice), ("HD95", hd95)):
        assert text == (
            f"{metric}, over runs: no difference from dice_ce is claimed: {number} seeds "
            f"cannot show one, however large it is; {needed} are needed."
        )


def test_no_difference(collect, tmp_path):
    head, *rows = long_rows(made_scores())
    kept = [row for row in rows if not row.startswith("rw")]
    found = collect(write(tmp_path / "t.csv", head, *kept))
    assert question(found) == "Is boundary better than dice_ce?"
    assert lead(found)[2] == "HD95, over runs: no difference from dice_ce is significant."


def test_settings_are_counted(collect, tmp_path):
    head, *rows = long_rows(made_scores())
    rows = [f"{row},{size}" for size in (10, 50) for row in rows]
    found = collect(write(tmp_path / "t.csv", f"{head},size", *rows), groups=("size",))
    assert lead(found)[0] == (
        "Dice, over runs, settings with a significant difference: boundary is better in 0 of 2, "
        "worse in 0; rw is better in 2 of 2, worse in 0."
    )
    assert sentences(found.conditions[0]) == sentences(collect())
    *_, corrected, several = assumptions(found)
    assert "in each setting separately" in corrected
    assert several == (
        "Nothing corrects for the number of tests on 2 metrics and 2 settings: where no method "
        "differs, each of these 4 groups of tests has a chance of up to 5 % of a false claim."
    )


def test_settings_with_one_run_are_counted_over_cases(collect, tmp_path):
    """A sentence that named methods without their settings would name one method twice."""
    head, *rows = long_rows(made_scores())
    rows = [f"{row},{size}" for size in (10, 50) for row in rows if ",3,case" in row]
    found = collect(write(tmp_path / "t.csv", f"{head},size", *rows), groups=("size",))
    assert [text.partition(":")[0] for text in lead(found)] == [
        "There is one run per method, so nothing can be said about training with these methods",
        "Dice, over cases of these networks, settings with a significant difference",
        "HD95, over cases of these networks, settings with a significant difference",
    ]


def test_settings_with_too_few_seeds_are_named(collect, tmp_path):
    """Six seeds are enough for one comparison, and not for two."""
    head, *rows = long_rows(made_scores())
    rows = [row for row in rows if ",6,case" not in row]
    rows = [f"{row},{s}" for s in "ab" for row in rows if s == "a" or "boundary" not in row]
    found = collect(write(tmp_path / "t.csv", f"{head},site", *rows), groups=("site",))
    assert lead(found)[0] == (
        "Dice, over runs, settings with a significant difference: boundary is better in 0 of 1, "
        "worse in 0; rw is better in 1 of 2, worse in 0. In 1, so few seeds cannot show one, "
        "however large it is."
    )


def test_folds_are_no_seeds(collect, tmp_path):
    head, *rows = long_rows(made_scores())
    folds = [row for row in rows if int(row.split(",")[1]) == int(row.split("case")[1][0]) % 7]
    told = [collect(), collect(write(tmp_path / "t.csv", head, *folds))]
    assert [any("as in a cross-validation" in text for text in assumptions(r)) for r in told] == [
        False,
        True,
    ]


def test_what_the_tests_take_for_granted(collect, with_seeds, tmp_path):
    paired, unit, cases, corrected, several = assumptions(collect())
    assert "same seed are compared in pairs" in paired
    assert "--unpaired" in paired
    assert unit.startswith("Runs are the unit of a claim about training")
    assert cases.endswith("which slices or visits of one patient are not.")
    assert corrected == "p is corrected for the number of comparisons, separately for each metric."
    assert (
        "on 2 metrics: where no method differs, each of these 2 groups of tests has a chance"
        in several
    )
    unpaired = assumptions(collect(unpaired=True))[0]
    assert "not paired" in unpaired
    head, *rows = long_rows(made_scores())
    one = [row.replace(",3,", ",") for row in rows if ",3,case" in row]
    alone = collect(write(tmp_path / "a.csv", head.replace("seed,", ""), *one))
    assert lead(alone)[0].startswith("There is one run per method, so nothing can be said about")
    assert lead(alone)[1].startswith("Dice, over cases of these networks: rw is ")
    assert not any("compared in pairs" in text for text in assumptions(alone))
    means = [",".join([*row.split(",")[:2], row.split(",")[3]]) for row in rows if "case1," in row]
    given = {"metrics": {"Dice": True}}
    bare = collect(write(tmp_path / "m.csv", "loss,seed,Dice", *means), **given)
    assert assumptions(bare)[2].startswith("The tables hold a mean per run and no cases")
