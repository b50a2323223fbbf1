from rwloss.words import class_names, nearest

NAMES = ["active_contour", "boundary", "class_weighted", "rectified"]


def test_nearest_names():
    for given, meant in [
        ("rectifed", "rectified"),
        ("boundry", "boundary"),
        ("class-weighted", "class_weighted"),
    ]:
        assert nearest(given, iter(NAMES)) == f": did you mean {meant!r}?"
    assert nearest("map", ["mat", "cap", "dog"]) == ": did you mean 'mat' or 'cap'?"
    assert nearest("xyzzy", NAMES) == nearest("", NAMES) == nearest("rectified", []) == ""


def test_no_two_classes_have_the_same_name():
    assert class_names(2, ["a", "b", "c"]) == ("a", "b")
    assert class_names(3, ["a", "a", "a (1)"]) == ("a", "a (1)", "a (1) (2)")
    assert class_names(3, ["a", "class 2"]) == ("a", "class 2", "class 2 (2)")
