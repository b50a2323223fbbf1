import pytest

from rwloss.words import nearest

NAMES = ["active_contour", "boundary", "class_weighted", "rectified"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("rectifed", "rectified"), ("boundry", "boundary"), ("class-weighted", "class_weighted")],
)
def test_nearest_name(given, meant):
    assert nearest(given, NAMES) == f": did you mean {meant!r}?"


def test_two_names_are_near():
    assert nearest("map", ["mat", "cap", "dog"]) == ": did you mean 'mat' or 'cap'?"


@pytest.mark.parametrize("given", ["xyzzy", ""])
def test_no_name_is_near(given):
    assert nearest(given, NAMES) == ""


def test_no_names():
    assert nearest("rectified", []) == ""


def test_names_may_come_once():
    assert nearest("rectifed", iter(NAMES)) == ": did you mean 'rectified'?"
