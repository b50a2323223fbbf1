"""Patients in several parts: noticed by the names of cases, with advice that works."""

import shlex

import pytest

from rwloss.data.patients import leaked
from rwloss.data.splits import Split, SplitSettings, groups_of

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


def test_the_advice_fits_how_the_split_was_made():
    torn = Split(("lung1_1",), (), ("lung1_2", "lung2_1"), "by file")
    settings = SplitSettings(splits_file="splits.json")
    assert "name them in one part of 'splits.json'" in leaked(torn, settings)
