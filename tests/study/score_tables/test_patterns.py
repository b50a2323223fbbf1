"""Patterns with fields."""

import pytest

from rwloss import RWLossError
from rwloss.study.score_tables.patterns import read_pattern


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("{a}/{b}/{seed}.csv", "x/y z/3.csv", {"a": "x", "b": "y z", "seed": "3"}),
        ("{a}/{seed}.csv", "x/y/3.csv", None),
        ("{a}/*_{seed}.csv", "x/run_3.csv", {"a": "x", "seed": "3"}),
        ("{a}.csv", "xxcsv", None),
        ("{method}_{seed:[0-9]+}.csv", "a_b_3.csv", {"method": "a_b", "seed": "3"}),
        ("{method}_s{seed:[0-9]{2}}", "a_s03", {"method": "a", "seed": "03"}),
        ("{method}_{metric}", "dice_ce_HD95", {"method": "dice_ce", "metric": "HD95"}),
        ("{metric}_{method}", "HD_95_rw", {"metric": "HD_95", "method": "rw"}),
    ],
)
def test_fields_are_parts_of_names(pattern, name, found):
    choices = {"metric": ["Dice", "HD95", "HD_95"]}
    assert read_pattern(pattern, "--pattern", choices).match(name) == found


def test_two_readings_are_refused():
    pattern = read_pattern("{method}_{seed}.csv", "--pattern", {})
    assert pattern.match("rw_3.csv") == {"method": "rw", "seed": "3"}
    with pytest.raises(RWLossError, match=r"'rw', seed 'q_3'; or method 'rw_q', seed '3'"):
        pattern.match("rw_q_3.csv")


@pytest.mark.parametrize(
    "pattern", ["runs.csv", "{}/a.csv", "{a}/{a}.csv", "{a b}.csv", "{a}/{b.csv", "{a:[}.csv"]
)
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(RWLossError, match="--pattern"):
        read_pattern(pattern, "--pattern", {})
