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
    dice, hd95 = lead(found)
    assert dice.startswith("Dice, over runs: rw is 0.046 above dice_ce, better")
    assert dice.endswith("better (corrected p = 0.031); boundary does not differ significantly.")
    assert hd95.startswith("HD95, over runs: rw is ")
    assert "below dice_ce, better" in hd95
    told = sentences(found)
    assert [text.split(":")[0] for text in told] == [
        f"{metric}, over {over}"
        for metric in ("Dice", "HD95")
        for over in ("runs", "cases of these networks")
    ]


def test_a_worse_method_is_called_worse(collect):
    dice, hd95 = lead(collect(reference="rw"))
    assert "below rw, worse" in dice
    assert "above rw, worse" in hd95


@pytest.mark.parametrize(
    ("unpaired", "number", "needed"), [(False, 5, "7 seeds"), (True, 3, "5 seeds")]
)
def test_few_seeds_claim_nothing(with_seeds, unpaired, number, needed):
    dice, hd95 = lead(with_seeds(number, unpaired=unpaired))
    for metric, text in (("Dice", dice), ("HD95", hd95)):
        assert text == (
            f"{metric}: no difference from dice_ce is claimed: {number} seeds cannot show one, "
            f"however large it is; {needed} are needed."
        )


def test_no_difference(collect, tmp_path):
    head, *rows = long_rows(made_scores())
    kept = [row for row in rows if not row.startswith("rw")]
    found = collect(write(tmp_path / "t.csv", head, *kept))
    assert question(found) == "Is boundary better than dice_ce?"
    assert lead(found)[1] == "HD95, over runs: no difference from dice_ce is significant."


def test_settings_are_counted(collect, tmp_path):
    head, *rows = long_rows(made_scores())
    rows = [f"{row},{size}" for size in (10, 50) for row in rows]
    found = collect(write(tmp_path / "t.csv", f"{head},size", *rows), groups=("size",))
    assert lead(found)[0] == (
        "Dice, settings with a significant difference: boundary is better in 0 of 2, worse in 0; "
        "rw is better in 2 of 2, worse in 0."
    )
    assert sentences(found.conditions[0]) == sentences(collect())
    assert any("in each setting by itself" in text for text in assumptions(found))


def test_what_the_tests_take_for_granted(collect, with_seeds, tmp_path):
    paired, unit, cases = assumptions(collect())
    assert cases.startswith("Cases are compared in pairs, and taken as independent")
    assert "same seed are compared in pairs" in paired
    assert "--unpaired" in paired
    assert unit.startswith("Runs are the unit of a claim about training")
    unpaired = assumptions(collect(unpaired=True))[0]
    assert "not paired" in unpaired
    head, *rows = long_rows(made_scores())
    one = [row.replace(",3,", ",") for row in rows if ",3,case" in row]
    alone = collect(write(tmp_path / "a.csv", head.replace("seed,", ""), *one))
    assert lead(alone)[0].startswith("There is one run per method, so nothing can be said about")
    assert lead(alone)[1].startswith("Dice, over cases of these networks: rw is ")
    assert not any("same seed" in text for text in assumptions(alone))
    means = [",".join([*row.split(",")[:2], row.split(",")[3]]) for row in rows if "case1," in row]
    given = {"metrics": {"Dice": True}}
    bare = collect(write(tmp_path / "m.csv", "loss,seed,Dice", *means), **given)
    assert assumptions(bare)[-1].startswith("The tables hold a mean per run and no cases")
