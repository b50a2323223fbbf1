"""Splits: complete, disjoint, by group, and the same for every run of a study."""

import itertools
import shlex

import pytest

from rwloss import RWLossError
from rwloss.data.splits import Split, SplitSettings, groups_of, leaked, split
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
        (["a", "b", "c"], {"fold": 1}, "Give --folds too"),
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


TORN = """lung001_0 lung001_1
patient001_frame01 patient001_frame12
patient001_ED patient001_ES
sub-01_ses-01 sub-01_ses-02
sub01ses01 sub01ses02
BraTS-GLI-00000-000 BraTS-GLI-00000-001
case1.1 case1.2
1.1 1.2
pt1a pt1b
p01a p01b
P01A_seg P01B_seg
patient1-left patient1-right
patient1left patient1right
p1_L p1_R
p1L p1R
left_p1 right_p1
R-017 L-017
anna_left anna_right
anna.pre anna.post
p3_slice_12 p3_slice_13
pat3-patch7 pat3-patch8
p01s2 p01s13
P1V1 P1V2
case_0007_visit2 case_0007_visit3
7-scan-1 7-scan-2
pt1_20210304 pt1_20220111
pt1_2021-03-04 pt1_2022-01-11
anna_20210304 anna_20220111
anna-2021-03-04 anna-2022-01-11
A0S9V9_ED A0S9V9_ES
center1_patient02_1 center1_patient02_2
o'neil1_1 o'neil1_2"""
WHOLE = """hippocampus_001 hippocampus_003
case_00 case_01
case0 case1
case-10 case-11
BRATS_001 BRATS_002
sub-01 sub-02
liver_0 liver_1
volume-0 volume-10
s0011 s0012
1 2
img0001 img0002
ISIC_0000000 ISIC_0000001
ct_train_1001 mr_train_1001
A0S9V9 A0S9V8
center1_patient02 center1_patient03
2021-03-04 2021-03-05
Case01 Case02
anna bert"""


@pytest.mark.parametrize(("pairs", "is_torn"), [(TORN, True), (WHOLE, False)])
def test_patients_that_are_torn_apart_are_noticed(pairs, is_torn):
    """By names alone, so it may be wrong: a warning, with a pattern that groups these names."""
    for names in map(str.split, pairs.splitlines()):
        for others in (["x9", "y"], ["x9", "y10"]):
            split = Split((names[0], others[0]), (), (names[1], others[1]), "by hand")
            warning = leaked(split, SplitSettings())
            assert bool(warning) == is_torn, (names, warning)
            if is_torn:
                assert repr(names[0]) in warning
                [*_, option, pattern] = shlex.split(warning.partition("keep them together ")[2])
                assert option == "--group-pattern"
                groups = groups_of([*names, *others], SplitSettings(group_pattern=pattern))
                assert sorted(groups.values()) == sorted(
                    [tuple(sorted(names)), *((name,) for name in others)]
                )
                assert leaked(split, SplitSettings(group_pattern=pattern)) == ""


def test_a_number_that_all_names_begin_with_is_that_of_no_patient():
    dates = ["scan_20210304", "scan_20210305", "scan_20220101"]
    assert leaked(Split((dates[0],), (), (*dates[1:],), ""), SplitSettings()) == ""
    for prefix in ("BraTS20_Training_", "FLARE22_Tr_", "LUNG1-", "1.3.6.1.4.1."):
        names = [f"{prefix}{number:03}" for number in (1, 2, 11, 25)]
        assert leaked(Split((*names[:2],), (), (*names[2:],), ""), SplitSettings()) == ""
        scans = [f"{name}{end}" for name in names for end in ("_1", "_2")]
        warning = leaked(Split((*scans[::2],), (), (*scans[1::2],), ""), SplitSettings())
        assert warning.startswith("4 of 4 groups")
        pattern = shlex.split(warning)[-1]
        assert len(groups_of(scans, SplitSettings(group_pattern=pattern))) == 4


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
    with pytest.raises(RWLossError, match="--train-cases 99 is more than there are: the split"):
        split(NAMES, settings(train_cases=99))
