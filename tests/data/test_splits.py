"""Splits: complete, disjoint, by group, and the same for every run of a study."""

import itertools
import json

import pytest

from rwloss import RWLossError
from rwloss.data.splits import Split, groups_of, split
from rwloss.training import RunSettings

NAMES = [f"lung{patient:03d}_{patch}" for patient in range(10) for patch in range(1 + patient % 3)]
PATTERN = r"(lung\d+)_.*"


def settings(**changes):
    return RunSettings(data="in", out="out", **changes)


def patients(cases):
    return {name.split("_")[0] for name in cases}


@pytest.mark.parametrize("fractions", [(0.2, 0.2), (0.5, 0.01), (0.0, 0.3), (0.3, 0.0)])
def test_every_case_is_in_one_part_and_no_patient_in_two(fractions):
    test_fraction, validation_fraction = fractions
    given = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    for split_seed in range(5):
        found = split(NAMES, settings(group_pattern=PATTERN, split_seed=split_seed, **given))
        parts = [found.train, found.validation, found.test]
        assert sorted(itertools.chain(*parts)) == sorted(NAMES)
        for one, other in itertools.combinations(parts, 2):
            assert not patients(one) & patients(other)
        num_test = max(1, round(10 * test_fraction)) if test_fraction else 0
        assert len(patients(found.test)) == num_test
        assert bool(found.validation) == bool(validation_fraction)
        assert all(list(part) == sorted(part) for part in parts)


def test_two_cases_are_enough_without_validation_and_one_without_a_test():
    assert len(split(["a", "b"], settings(validation_fraction=0.0)).test) == 1
    alone = split(["a"], settings(validation_fraction=0.0, test_fraction=0.0))
    assert (alone.train, alone.validation, alone.test) == (("a",), (), ())


def test_depends_on_names_and_split_seed_alone():
    chosen = settings(group_pattern=PATTERN)
    found = split(NAMES, chosen)
    assert split(NAMES[::-1], settings(group_pattern=PATTERN, seed=7, map="dice")) == found
    assert split(NAMES, settings(group_pattern=PATTERN, split_seed=1)).test != found.test


@pytest.mark.parametrize("folds", [2, 3, 8])
def test_each_case_validates_in_one_fold_and_the_test_part_stays(folds):
    found = [
        split(NAMES, settings(group_pattern=PATTERN, folds=folds, fold=fold))
        for fold in range(folds)
    ]
    assert len({each.test for each in found}) == 1
    validated = list(itertools.chain(*(each.validation for each in found)))
    assert sorted([*validated, *found[0].test]) == sorted(NAMES)
    sizes = [len(patients(each.validation)) for each in found]
    assert max(sizes) - min(sizes) <= 1
    for each in found:
        assert not patients(each.train) & patients(each.validation)


def test_a_test_folder_is_the_test_part_and_shares_no_group():
    found = split(NAMES[3:], settings(group_pattern=PATTERN), test_names=NAMES[:3])
    assert found.test == tuple(NAMES[:3])
    assert sorted((*found.train, *found.validation)) == sorted(NAMES[3:])
    in_both = {"a_1": "case 'a_1' is in labelsTr and in labelsTs"}
    for test, message in (in_both | {"a_2": "group 'a' has cases in labelsTr and in"}).items():
        with pytest.raises(RWLossError, match=message):
            split(["a_1", "b_1"], settings(group_pattern="([ab])_.*"), test_names=[test])


def test_a_table_groups_as_a_pattern_does(tmp_path):
    table = tmp_path / "groups.csv"
    rows = [f"{name},{name.split('_')[0]}" for name in NAMES]
    by_pattern = groups_of(NAMES, settings(group_pattern=PATTERN))
    for head in ([], ["case,group"]):
        table.write_text("\n".join([*head, *rows, ""]))
        assert groups_of(NAMES, settings(groups_table=str(table))) == by_pattern


def test_wrong_tables(tmp_path):
    table = tmp_path / "groups.csv"
    for text, message in {
        "a,1\nb,1\na,2\n": "case 'a' is in two groups, '1' and '2'",
        "a,1\nb,1\nc,2\n": "no case 'c' in the dataset",
        "a,1\n": "no group for case 'b'",
        "a;1\nb;1\n": "expected lines of case,group, got 'a;1'",
    }.items():
        table.write_text(text)
        with pytest.raises(RWLossError, match=message):
            split(["a", "b"], settings(groups_table=str(table)))


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["a"], {}, "1 case in 1 group leave none for training"),
        (
            ["a", "b"],
            {"test_fraction": 0.01},
            "0 takes at least one group.*--validation-fraction 0",
        ),
        (["a_1", "a_2"], {"group_pattern": "(a)_.*"}, "2 cases in 1 group leave none"),
        (["a", "b"], {"group_pattern": "(a)"}, r"does not match the case 'b'"),
        (["a", "b"], {"group_pattern": "a|b"}, "with one group in parentheses"),
        (["a", "b"], {"group_pattern": "("}, "is not a regular expression"),
        (["a", "b"], {"group_pattern": "(.)", "groups_table": "t"}, "got both"),
        (["a", "b", "c"], {"folds": 3, "fold": 0}, "3 folds need as many groups, and there are 2"),
        (["a", "b", "c"], {"folds": 2}, "--fold of 0 to 1 for 2 folds, got None"),
        (["a", "b", "c"], {"folds": 2, "fold": 2}, "--fold of 0 to 1 for 2 folds, got 2"),
        (["a", "b", "c"], {"fold": 1}, "needs --folds"),
        (["a", "b"], {"groups_table": "nowhere.csv"}, "cannot read --groups-table"),
    ],
)
def test_wrong_grouping(names, changes, message):
    with pytest.raises(RWLossError, match=message):
        split(names, settings(**changes))


def test_is_written_and_read(tmp_path):
    found = split(NAMES, settings(group_pattern=PATTERN))
    found.write(tmp_path / "splits.json")
    assert Split.read(tmp_path / "splits.json") == found
    assert "split seed 0" in found.made_by
    (tmp_path / "splits.json").write_text("{}")
    with pytest.raises(RWLossError, match="cannot read the split"):
        Split.read(tmp_path / "splits.json")


@pytest.mark.parametrize("more", [{}, {"folds": 3, "fold": 1}, {"group_pattern": PATTERN}])
def test_fewer_training_cases_are_among_more_and_the_other_parts_stay(more):
    for split_seed in range(3):
        every = split(NAMES, settings(split_seed=split_seed, **more))
        kept = set()
        for count in range(1, len(every.train) + 1):
            found = split(NAMES, settings(split_seed=split_seed, train_cases=count, **more))
            assert (found.validation, found.test) == (every.validation, every.test)
            assert len(found.train) == count
            assert kept < set(found.train) <= set(every.train)
            assert found.train == tuple(sorted(found.train))
            kept = set(found.train)
        assert f"{count} of {count} training cases kept" in found.made_by
    smallest = {split(NAMES, settings(split_seed=s, train_cases=1)).train for s in range(5)}
    assert len(smallest) > 1
    with pytest.raises(RWLossError, match="--train-cases 99 is too large: the split"):
        split(NAMES, settings(train_cases=99))


def written(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_a_file_names_the_parts(tmp_path):
    file = written(tmp_path / "one.json", {"train": ["c", "a"], "val": ["b"], "test": ["d"]})
    found = split([*"abcde"], settings(splits_file=file))
    assert (found.train, found.validation, found.test) == (("a", "c"), ("b",), ("d",))
    assert "1 case not used" in found.made_by
    folds = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["b", "c"], "val": ["a"]}]
    file = written(tmp_path / "splits_final.json", folds)
    found = split([*"abc"], settings(splits_file=file, fold=1), test_names=["t"])
    assert (found.train, found.validation, found.test) == (("b", "c"), ("a",), ("t",))
    assert split([*"abc"], settings(splits_file=file, fold=0)).test == ()
    fewer = split([*"abc"], settings(splits_file=file, fold=1, train_cases=1))
    assert {*fewer.train} < {*found.train}
    assert "1 case not used" in fewer.made_by


def test_a_split_as_a_run_writes_it_is_read_again(tmp_path):
    found = split(NAMES, settings(group_pattern=PATTERN))
    found.write(tmp_path / "splits.json")
    again = split(NAMES, settings(splits_file=str(tmp_path / "splits.json")))
    assert (again.train, again.validation, again.test) == (
        (found.train, found.validation, found.test)
    )


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ({"train": ["a"], "val": ["a"]}, {}, "case 'a' is in train and in validation"),
        ({"train": ["a"], "val": ["z"]}, {}, "no case 'z' in the dataset"),
        ({"train": [], "val": ["a"]}, {}, "cannot read --splits-file .*lists train"),
        ({"train": ["a"]}, {}, "cannot read --splits-file .*lists train"),
        ([{"train": ["a"], "val": ["b"]}], {}, "has 1 fold: expected --fold of 0 to 0, got None"),
        ([{"train": ["a"], "val": ["b"]}], {"fold": 1}, "expected --fold of 0 to 0, got 1"),
        ({"train": ["a"], "val": ["b"]}, {"fold": 0}, "leave out --fold"),
        ({"train": ["a"], "val": ["b"]}, {"fold": 0, "folds": 2}, "without --folds"),
        ({"train": ["a"], "val": ["b"]}, {"train_cases": 2}, "leaves 1 case for training"),
    ],
)
def test_wrong_files(tmp_path, content, changes, message):
    file = written(tmp_path / "splits.json", content)
    with pytest.raises(RWLossError, match=message):
        split([*"ab"], settings(splits_file=file, **changes))


def test_a_file_that_tears_a_group_apart(tmp_path):
    file = written(tmp_path / "splits.json", {"train": ["p1_a"], "val": ["p1_b"]})
    with pytest.raises(RWLossError, match="group 'p1' has cases in train and validation"):
        split(["p1_a", "p1_b"], settings(splits_file=file, group_pattern="(p1)_."))
    with pytest.raises(RWLossError, match="cannot read --splits-file"):
        split(["a"], settings(splits_file=str(tmp_path / "none.json")))
