"""Tables that are not whole: what is refused, and what the stated rules do."""

import numpy as np
import pytest
from scores_of_others import write

from rwloss import RWLossError
from rwloss.study.score_tables.options import TableOptions, read_long, read_metrics, read_missing
from rwloss.study.score_tables.readers import read
from rwloss.study.score_tables.table import assemble

HEAD = "method,seed,case,Dice,HD95"
WHOLE = [
    *("a,0,x,.9,1", "a,0,y,.8,2", "a,1,x,.7,3", "a,1,y,.6,4"),
    *("b,0,x,.5,5", "b,0,y,.4,6", "b,1,x,.3,7", "b,1,y,.2,8"),
]

OTHER_SEEDS = [row.replace("b,0", "b,2").replace("b,1", "b,3") for row in WHOLE]


@pytest.fixture
def table(tmp_path):
    """The table of some rows."""

    def of(*rows, head=HEAD, **given):
        path = write(tmp_path / "t.csv", head, *rows)
        given = {"metrics": {"Dice": True, "HD95": False}, "reference": "a", **given}
        options = TableOptions(path, **given)
        return assemble(read(options), options)

    return of


def without(*begin):
    return [row for row in WHOLE if not row.startswith(begin)]


def instead(row):
    """WHOLE with another row in the place of its first three cells."""
    key = row.rsplit(",", 2)[0]
    return [row if each.startswith(key) else each for each in WHOLE]


def test_a_whole_table(table):
    found = table(*WHOLE)
    [only] = found.settings
    assert (only.methods, only.seeds, only.cases) == (("a", "b"), ("0", "1"), ("x", "y"))
    assert only.scores["Dice"].tolist() == [[[0.9, 0.8], [0.7, 0.6]], [[0.5, 0.4], [0.3, 0.2]]]
    assert only.scores["HD95"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert (found.has_seeds, found.has_cases, found.notes) == (True, True, ())


def test_the_reference_comes_first(table):
    found = table(*WHOLE, reference="b")
    assert found.methods == found.settings[0].methods == ("b", "a")
    assert found.settings[0].scores["Dice"][0].tolist() == [[0.5, 0.4], [0.3, 0.2]]


def test_seeds_and_cases_may_be_missing(table):
    found = table("a,x,.9", "a,y,.8", "b,x,.5", "b,y,.4", head="method,case,Dice", metrics=DICE)
    assert (found.has_seeds, found.has_cases) == (False, True)
    assert found.settings[0].scores["Dice"].shape == (2, 1, 2)
    found = table("a,0,.9", "a,1,.8", "b,0,.5", "b,1,.4", head="method,seed,Dice", metrics=DICE)
    assert (found.has_seeds, found.has_cases, found.settings[0].cases) == (True, False, ())
    assert found.settings[0].scores["Dice"].tolist() == [[[0.9], [0.8]], [[0.5], [0.4]]]


def test_one_seed_is_one_run_per_method(table):
    found = table(*without("a,1", "b,1"))
    assert (found.has_seeds, found.settings[0].seeds) == (False, ("0",))


def test_a_number_stands_for_no_value_however_it_is_written(table):
    """pandas writes a column of whole numbers with a gap as 9999999.0."""
    for text in ("9999999", "9999999.0", "9.999999e6"):
        found = table(*instead(f"b,1,x,.3,{text}"), absent=("9999999",), missing={"HD95": "worst"})
        assert found.settings[0].scores["HD95"].max() == 8


DICE = {"Dice": True}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            instead("a,1,x,good,3"),
            r"'t.csv' line 4: Dice is 'good', which is not a number; .*--absent",
        ),
        (instead("a,1,x,0.9 %,3"), "Dice is '0.9 %'"),
        (instead("a,1,x,1_0,3"), "Dice is '1_0', which is not a number"),
        ([row.replace(".7", '"1,234"') for row in WHOLE], "Dice is '1,234'"),
        (
            [*WHOLE, "a,1,x,.7,3"],
            "Dice of method 'a', seed '1' and case 'x' occurs twice: 't.csv' line 4 and 't.csv' "
            "line 10; name the column that distinguishes them with --class or --group, or delete",
        ),
        (WHOLE[:4], "'a' is the only method, so there is nothing to compare it with"),
        ([row.replace("a,", "c,") for row in WHOLE], "reference 'a' is not one of the methods 'c'"),
        (instead("b,1,x,,7"), "1 score of Dice has no value, such as method 'b', seed '1'"),
        (instead("b,1,x,inf,7"), r"such as .* \('t.csv' line 8\)"),
        (instead("b,1,x,NaN,7"), r"--missing Dice=worst \(the worst score of the table, 0.2\)"),
        (instead("b,1,x,.3,n/a"), r"HD95=worst \(the worst score of the table, 8\)"),
        (without("b,1"), "same scores of Dice: b lacks seed '1'. Give --shared"),
        (without("b,1,x"), "b, seed 1 lacks case 'x'"),
        (without("a,0,y"), "a, seed 0 lacks case 'y'"),
        (without("a,0,y", "b,1"), "a, seed 0 lacks case 'y'; b lacks seed '1'"),
        (
            OTHER_SEEDS,
            "a lacks seed '2', '3'",
        ),
        ([f"{row[:3]},{row[4]},," for row in WHOLE], "no score of 'Dice' has a value"),
        ([*WHOLE[:-1], ",1,y,.2,8"], "'t.csv' line 9 does not give its method"),
    ],
)
def test_what_is_refused(table, rows, message):
    with pytest.raises(RWLossError, match=message):
        table(*rows)


def test_rules_for_what_has_no_value(table):
    rows = [row.replace(".3,7", ",7") for row in WHOLE]  # Dice of b, seed 1, case x
    for rule, value in (("worst", 0.2), ("best", 0.9), ("0.25", 0.25)):
        found = table(*rows, missing={"": "drop", "Dice": rule})
        assert found.settings[0].scores["Dice"][1, 1].tolist() == [value, 0.2]
        assert found.settings[0].scores["HD95"][1, 1].tolist() == [7, 8]
        [note] = found.notes
        assert note.startswith("1 score of Dice had no value (1 of b): each counts as ")
    found = table(*rows, missing={"": "drop"})
    scores = found.settings[0].scores["Dice"]
    assert np.isnan(scores).nonzero()[0].tolist() == [0, 1]  # the same seed and case of both
    assert np.isnan(scores[:, 1, 0]).all()
    assert found.notes == (
        "1 score of Dice had no value (1 of b): left out, with the same scores of the other "
        "methods (2 in all)",
    )
    # Without pairs, the case is left out of every run.
    scores = table(*rows, missing={"": "drop"}, unpaired=True).settings[0].scores["Dice"]
    assert np.isnan(scores[:, :, 0]).all()
    assert not np.isnan(scores[:, :, 1]).any()
    # Lower is better: the worst is the largest.
    rows = [row.replace(".3,7", ".3,inf") for row in WHOLE]
    assert table(*rows, missing={"": "worst"}).settings[0].scores["HD95"][1, 1, 0] == 8


def test_a_number_can_stand_for_no_value(table):
    rows = [row.replace(".3,7", ".3,9999999") for row in WHOLE]
    assert table(*rows).settings[0].scores["HD95"].max() == 9999999
    with pytest.raises(RWLossError, match=r"1 score of HD95"):
        table(*rows, absent=("9999999",))
    given = table(*rows, absent=("9999999",), missing={"HD95": "722.66"})
    assert given.settings[0].scores["HD95"][1, 1, 0] == 722.66


def test_drop_refuses_to_leave_nothing(table):
    rows = ["a,0,x,.5,", "b,0,x,.5,1"]
    with pytest.raises(RWLossError, match=r"no score of HD95 is left after --missing drop"):
        table(*rows, missing={"": "drop"})


def test_shared_keeps_what_all_methods_have(table):
    found = table(*without("b,1,x"), shared=True)
    scores = found.settings[0].scores["Dice"]
    assert np.isnan(scores[:, 1, 0]).all()
    assert (~np.isnan(scores)).sum() == 6
    assert any("b, seed 1 lacks case 'x'. Only what all" in note for note in found.notes)
    found = table(*without("b,1"), shared=True)
    assert found.settings[0].runs.tolist() == [[True, False]] * 2
    with pytest.raises(RWLossError, match=r"share nothing"):
        table(*OTHER_SEEDS, shared=True)


def test_unpaired_runs_need_the_same_cases_and_not_the_same_seeds(table):
    found = table(*[row.replace("b,0", "b,2") for row in without("b,1")], unpaired=True)
    assert found.settings[0].runs.tolist() == [[True, True, False], [False, False, True]]
    assert found.notes == ()
    with pytest.raises(RWLossError, match=r"b, seed 1 lacks case 'x'. Give --shared"):
        table(*without("b,1,x"), unpaired=True)
    scores = table(*without("b,1,x"), unpaired=True, shared=True).settings[0].scores["Dice"]
    assert np.isnan(scores[:, :, 0]).all()


def test_classes_are_averaged_after_the_rule(table):
    rows = ["a,0,x,1,.9", "a,0,x,2,.7", "b,0,x,1,.5", "b,0,x,2,"]
    given = {
        "head": "method,seed,case,organ,Dice",
        "metrics": DICE,
        "columns_of": {"class": "organ"},
    }
    found = table(*rows, missing={"": "0"}, **given)
    assert found.settings[0].scores["Dice"].ravel() == pytest.approx([0.8, 0.25])
    assert found.classes == ("1", "2")
    found = table(*rows, missing={"": "drop"}, **given)
    assert found.settings[0].scores["Dice"].ravel() == pytest.approx([0.9, 0.5])
    given = {**given, "columns_of": {}, "groups": ("organ",)}
    first, second = table(*rows, missing={"": "0"}, **given).settings
    assert (first.settings, second.settings) == ({"organ": "1"}, {"organ": "2"})
    assert second.scores["Dice"].ravel().tolist() == [0.7, 0]
    with pytest.raises(RWLossError, match=r"occurs twice"):
        table(*rows, missing={"": "0"}, head=given["head"], metrics=DICE)


def test_settings_in_a_table_and_in_one_of_cases(table, tmp_path):
    rows = [f"{row},10" for row in WHOLE] + [f"{row},2" for row in WHOLE]
    cases = write(tmp_path / "cases.csv", "case,site,age", "x,north,1", "y,south,2", "z,south,3")
    given = {"head": f"{HEAD},size", "groups": ("size", "site"), "case_table": cases}
    found = table(*rows, **given)
    assert [tuple(each.settings.values()) for each in found.settings] == [
        *(("2", "north"), ("2", "south"), ("10", "north"), ("10", "south"))
    ]
    assert found.settings[1].scores["Dice"].tolist() == [[[0.8], [0.6]], [[0.4], [0.2]]]
    assert found.settings[1].cases == ("y",)
    with pytest.raises(RWLossError, match=r"no column 'siz' \(--group\): did you mean 'size'"):
        table(*rows, **given | {"groups": ("siz", "site")})
    other = write(tmp_path / "other.csv", "case,site", "x,north")
    with pytest.raises(RWLossError, match=r"lacks the case 'y'"):
        table(*rows, **given | {"case_table": other})
    twice = write(tmp_path / "twice.csv", "case,site", "x,north", "x,south")
    with pytest.raises(RWLossError, match=r"'twice.csv' has the case 'x' twice"):
        table(*rows, **given | {"case_table": twice})


def test_a_method_may_miss_in_a_setting_and_the_reference_may_not(table):
    rows = [f"{row},1" for row in WHOLE] + [f"{row},2" for row in without("b")]
    found = table(*rows, head=f"{HEAD},size", groups=("size",))
    assert [each.methods for each in found.settings] == [("a", "b"), ("a",)]
    assert found.notes == ("Not in every setting: b with size 2",)
    with pytest.raises(RWLossError, match=r"with size 2: the reference 'b' has no score"):
        table(*rows, head=f"{HEAD},size", groups=("size",), reference="b")


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_metrics, [], "name one with --metric"),
        (read_metrics, ["Dice"], "write Dice:higher or Dice:lower"),
        (read_metrics, ["Dice:up"], "write Dice:higher or Dice:lower"),
        (read_metrics, ["a:higher", "a:lower"], "is given twice"),
        (read_metrics, ["a=b:higher", "b:lower"], "is given twice"),
        (read_metrics, ["b:higher", "a=b:lower"], "is given twice"),
        (lambda texts: read_missing(texts, DICE), ["HD95=0"], "'HD95' is no --metric"),
        (lambda texts: read_missing(texts, DICE), ["Dice=nan"], "worst, best, drop or a number"),
        (read_long, "metric", "expected two columns"),
        (read_long, "a,b,c", "expected two columns"),
    ],
)
def test_options_that_say_nothing_are_refused(reader, text, message):
    with pytest.raises(RWLossError, match=message):
        reader(text)
