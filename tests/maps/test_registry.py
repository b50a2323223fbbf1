"""Generators by name."""

from importlib.metadata import EntryPoint

import pytest

from rwloss import RWLossError, maps
from rwloss.maps import registry

BUILT_IN = ["active_contour", "boundary", "class_weighted", "rectified"]


@pytest.fixture
def installed(monkeypatch):
    """Makes these entry points the installed ones."""

    def install(**values):
        entries = {name: EntryPoint(name, value, registry.GROUP) for name, value in values.items()}
        monkeypatch.setattr(registry, "_entries", lambda: entries)

    return install


def test_built_ins_are_there():
    assert set(BUILT_IN) <= set(maps.names())
    assert maps.names() == sorted(maps.names())


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_knows_its_name_and_its_source(name):
    generator = maps.load(name)
    assert generator.name == name
    assert "arXiv" in generator.citation or "CVPR" in generator.citation
    assert maps.get(name) == generator()


def test_built_ins_come_through_the_same_door():
    assert maps.load("active_contour") is maps.ActiveContour
    assert maps.load("boundary") is maps.Boundary
    assert maps.load("class_weighted") is maps.ClassWeighted
    assert maps.load("rectified") is maps.Rectified


@pytest.mark.parametrize(
    ("given", "meant"),
    [("rectifed", "rectified"), ("boundry", "boundary"), ("tverski", "tversky")],
)
def test_unknown_name_names_the_nearest_and_all(given, meant):
    with pytest.raises(RWLossError) as error:
        maps.get(given)
    message = str(error.value)
    assert f"unknown map {given!r}: did you mean {meant!r}" in message
    assert f"there are: {', '.join(maps.names())}" in message


def test_unknown_name_that_resembles_none():
    with pytest.raises(RWLossError, match="unknown map 'xyzzy'; there are: "):
        maps.get("xyzzy")


def test_unknown_parameter_names_the_nearest_and_all():
    with pytest.raises(RWLossError) as error:
        maps.get("boundary", convetion="valverde")
    assert str(error.value) == (
        "boundary has no parameter 'convetion': did you mean 'convention'?; "
        "it has: convention, normalize"
    )


def test_parameter_of_a_generator_without_any():
    with pytest.raises(RWLossError, match=r"active_contour has no parameter 'x'; it has: none"):
        maps.get("active_contour", x=1)


@pytest.mark.parametrize("name", ["name", "self", "generator", "tags", "citation", "given"])
def test_names_of_the_machinery_are_no_parameters(name):
    with pytest.raises(RWLossError, match=f"rectified has no parameter '{name}'"):
        maps.get("rectified", **{name: "boundary"})


def test_listing_imports_nothing(installed):
    installed(mine="there.is.no.such.module:Mine", yours="rwloss.maps.boundary:Boundary")
    assert maps.names() == ["mine", "yours"]
    assert maps.load("yours") is maps.Boundary


@pytest.mark.parametrize("value", ["there.is.no.such.module:Mine", "rwloss.maps.boundary:Missing"])
def test_entry_point_that_does_not_import(installed, value):
    installed(mine=value)
    with pytest.raises(RWLossError, match=rf"map 'mine' \({value}\) failed to import: "):
        maps.load("mine")


@pytest.mark.parametrize("value", ["json:loads", "json:JSONDecoder", "rwloss.maps.parser:parse"])
def test_entry_point_that_is_no_generator(installed, value):
    installed(mine=value)
    with pytest.raises(RWLossError, match=rf"'mine' \({value}\) is not a subclass of maps.MapGen"):
        maps.load("mine")


def test_two_packages_with_one_name(monkeypatch):
    twins = [EntryPoint("mine", f"{package}:Mine", registry.GROUP) for package in ("a", "b")]
    monkeypatch.setattr(registry, "entry_points", lambda group: twins)
    with pytest.raises(RWLossError, match="two maps are named 'mine': a:Mine and b:Mine"):
        registry._entries.__wrapped__()


def test_one_package_found_twice_is_no_clash(monkeypatch):
    twins = [EntryPoint("mine", "a:Mine", registry.GROUP)] * 2
    monkeypatch.setattr(registry, "entry_points", lambda group: twins)
    assert list(registry._entries.__wrapped__()) == ["mine"]
