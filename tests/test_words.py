from rwloss.words import nearest

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
