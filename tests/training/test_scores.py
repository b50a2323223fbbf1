import math

import pytest

from rwloss import RWLossError
from rwloss.training.scores import CaseScore, ClassScore, Scores, Statistic


def case(name, **classes):
    return CaseScore(name, (1.0, 1.0), 50.0, tuple(classes.values()))


FOUND = ClassScore(1, 10, 10, dice=0.8, hd95_mm=2.0, assd_mm=1.0)
FOUND_TOO = ClassScore(1, 10, 12, dice=0.6, hd95_mm=4.0, assd_mm=2.0)
MISSED = ClassScore(1, 10, 0, dice=0.0)
FALSE_ALARM = ClassScore(1, 0, 5, dice=0.0)
EMPTY = ClassScore(1, 0, 0)
ALL = Scores(
    tuple(
        case(name, one=one)
        for name, one in zip("abcde", (FOUND, FOUND_TOO, MISSED, FALSE_ALARM, EMPTY), strict=True)
    ),
    ("background", "lesion"),
)


def test_every_case_is_counted_once():
    [lesion] = ALL.summary()
    assert lesion.cases == 5
    assert (lesion.both, lesion.missed, lesion.false_alarms, lesion.empty) == (2, 1, 1, 1)
    assert (lesion.label, lesion.name) == (1, "lesion")


def test_missed_classes_are_0_in_the_mean_of_dice_and_in_none_of_distances():
    [lesion] = ALL.summary()
    assert (lesion.dice.n, lesion.dice.mean) == (4, pytest.approx(1.4 / 4))
    assert (lesion.hd95_mm.n, lesion.hd95_mm.mean, lesion.hd95_mm.median) == (2, 3.0, 3.0)
    assert (lesion.assd_mm.n, lesion.assd_mm.mean) == (2, 1.5)


@pytest.mark.parametrize(("penalty", "each"), [(10.0, 10.0), (0.0, 0.0), ("diagonal", 50.0)])
def test_a_penalty_puts_missed_classes_and_false_alarms_in_the_means(penalty, each):
    [lesion] = ALL.summary(penalty)
    assert lesion.hd95_mm.n == lesion.assd_mm.n == 4
    assert lesion.hd95_mm.mean == pytest.approx((2 + 4 + 2 * each) / 4)
    assert lesion.assd_mm.mean == pytest.approx((1 + 2 + 2 * each) / 4)
    assert (lesion.missed, lesion.false_alarms, lesion.dice.n) == (1, 1, 4)


def test_missing_more_never_looks_better_with_a_penalty_of_the_diagonal():
    missing = Scores((case("a", one=FOUND), case("b", one=MISSED)), ALL.class_names)
    finding = Scores((case("a", one=FOUND), case("b", one=FOUND_TOO)), ALL.class_names)
    [worse], [better] = missing.summary("diagonal"), finding.summary("diagonal")
    assert worse.hd95_mm.mean > better.hd95_mm.mean
    [without], [_] = missing.summary(), finding.summary()
    assert without.hd95_mm.mean < better.hd95_mm.mean  # what the counts are there for
    assert (without.hd95_mm.n, without.missed) == (1, 1)


@pytest.mark.parametrize("penalty", ["edge", -1.0, math.nan, math.inf])
def test_penalties_that_are_no_length(penalty):
    with pytest.raises(RWLossError, match="expected a penalty of 0 mm or more"):
        ALL.summary(penalty)


def test_nothing_to_average():
    [lesion] = Scores((case("a", one=EMPTY),), ALL.class_names).summary("diagonal")
    assert lesion.dice == lesion.hd95_mm == Statistic(0, None, None, None)
    assert (lesion.cases, lesion.empty) == (1, 1)
    [none] = Scores((), ALL.class_names).summary()
    assert none.cases == none.dice.n == 0


def test_statistics():
    assert Statistic.of([3.0]) == Statistic(1, 3.0, 3.0, None)
    found = Statistic.of([4.0, 1.0, 1.0])
    assert (found.n, found.mean, found.median) == (3, 2.0, 1.0)
    assert found.std == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_error_not_a_mean(value):
    with pytest.raises(RWLossError, match="expected finite values"):
        Statistic.of([1.0, value])
