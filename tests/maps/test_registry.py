"""Generators by name: built-ins, packages with entry points, and what goes wrong with those."""

import sys
from importlib.metadata import EntryPoint

import numpy as np
import plug_ins
import pytest

from rwloss import Regions, RWLossError, maps
from rwloss.maps import registry


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Installs packages, each given as (package, entry points, modules)."""

    def install(*packages):
        for package, names, modules in packages:
            plug_ins.install(tmp_path / package, package, names, modules)
        plug_ins.use(monkeypatch, *(tmp_path / package for package, *_ in packages))

    return install


def test_built_ins_come_through_the_same_door():
    assert maps.names() == sorted(maps.names())
    for generator in (maps.ActiveContour, maps.Boundary, maps.ClassWeighted, maps.Rectified):
        name = generator.name
        assert name in maps.names()
        assert maps.load(name) is generator
        assert maps.get(name) == generator()
        assert "arXiv" in generator.citation


def test_unknown_name_names_the_nearest_and_all():
    for given, meant in [("rectifed", "rectified"), ("boundry", "boundary")]:
        with pytest.raises(RWLossError) as error:
            maps.get(given)
        assert f"unknown map {given!r}: did you mean {meant!r}" in str(error.value)
        assert f"? There are: {', '.join(maps.names())}" in str(error.value)


def test_unknown_name_that_resembles_none():
    own = r"write FILE.py:xyzzy, and @maps.register\('xyzzy'\) above its function"
    with pytest.raises(RWLossError, match=f"unknown map 'xyzzy'. There are: .* {own}"):
        maps.get("xyzzy")


def test_a_file_without_the_name_of_its_map():
    for read in (maps.get, maps.parse):
        with pytest.raises(RWLossError, match=r"is a file: .* in lib/mine.py:NAME"):
            read("lib/mine.py")


def test_unknown_parameter_names_the_nearest_and_all():
    with pytest.raises(RWLossError) as error:
        maps.get("boundary", convetion="valverde")
    assert str(error.value) == (
        "boundary has no parameter 'convetion': did you mean 'convention'? "
        "It has: convention, normalize"
    )


def test_names_of_the_machinery_are_no_parameters():
    with pytest.raises(RWLossError, match=r"active_contour has no parameter 'x'. It has: none"):
        maps.get("active_contour", x=1)
    for name in ["name", "self", "generator", "tags", "citation", "given"]:
        with pytest.raises(RWLossError, match=f"rectified has no parameter '{name}'"):
            maps.get("rectified", **{name: "boundary"})


def test_a_package_brings_its_maps(installed):
    installed(("mine-maps", {"mine": "mine_maps:Mine"}, {"mine_maps": plug_ins.MINE}))
    assert "mine" in maps.names()
    assert {"rectified", "boundary"} <= set(maps.names())
    expression = maps.parse("rectified + 0.5 * mine(factor=4)")
    assert str(expression) == "rectified + 0.5 * mine(factor=4.0)"
    assert maps.parse(str(expression)) == expression
    regions = Regions(np.array([[[0, 1, 1]]]), 2)
    assert maps.get("mine")(regions).true.tolist() == [[[-2, -2, -4]]]
    assert maps.origin("mine") == "mine_maps:Mine of mine-maps 1.0"
    assert maps.revision(maps.load("mine")) == "mine-maps 1.0"


def test_built_ins_say_where_they_come_from():
    assert maps.origin("boundary").startswith("rwloss.maps.static.boundary:Boundary of rwloss ")
    assert registry.built_in_kind("boundary") == "static"
    assert registry.built_in_kind("dice") == "dynamic"
    revisions = {name: maps.revision(maps.load(name)) for name in maps.names()}
    assert {name: found for name, found in revisions.items() if found} == {"skeleton_recall": "2"}


def test_listing_imports_nothing(installed):
    installed(("mine-maps", {"mine": "mine_maps:Mine"}, {"mine_maps": "raise SystemError"}))
    assert "mine" in maps.names()
    assert maps.origin("mine") == "mine_maps:Mine of mine-maps 1.0"
    assert registry.built_in_kind("mine") == ""


BROKEN = {
    "no module": ("no_such_module:Mine", "", "ModuleNotFoundError: No module named 'no_such_mod"),
    "no such name": ("broken:Missing", "", "AttributeError: .*Missing"),
    "its import": ("broken:Mine", "import no_such_module", "ModuleNotFoundError: .*'no_such_modul"),
    "its code": ("broken:Mine", "1 / 0", "ZeroDivisionError: division by zero"),
    "it ends Python": ("broken:Mine", "raise SystemExit(3)", "SystemExit: 3"),
    "its syntax": ("broken:Mine", "def Mine(", "SyntaxError: "),
}


@pytest.mark.parametrize(("target", "module", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_package_is_named_and_stops_no_other(installed, target, module, message):
    installed(
        ("broken-maps", {"broken": target}, {"broken": module}),
        ("mine-maps", {"mine": "mine_maps:Mine"}, {"mine_maps": plug_ins.MINE}),
    )
    assert maps.parse("mine + rectified").is_static
    with pytest.raises(
        RWLossError,
        match=rf"map 'broken' \({target} of broken-maps 1.0\) failed to import: {message}",
    ) as caught:
        maps.load("broken")
    assert caught.value.__cause__ is not None
    with pytest.raises(RWLossError, match=r"column 8: map 'broken' .*broken-maps"):
        maps.parse("mine + broken")


NAME = (
    "name: expected a name of letters, digits and _ that has no other meaning in expressions, got "
)
NO_GENERATORS = {
    "a function": (
        "json:loads",
        "",
        r"is a plain function: put @maps.register\('loads'\) above it",
    ),
    "another class": ("json:JSONDecoder", "", "is not a subclass of maps.MapGenerator"),
    "a number": ("wrong:Mine", "Mine = 3", "is not a subclass of maps.MapGenerator"),
    "abstract": (
        "wrong:Mine",
        ("def compute", "def computed"),
        "is abstract: it does not define compute",
    ),
    "not frozen": (
        "wrong:Mine",
        ("(frozen=True)", "(eq=True)"),
        "failed to import: TypeError: cannot inherit non-frozen dataclass from a frozen one",
    ),
    "a name as a parameter": (
        "wrong:Mine",
        ("name: ClassVar[str]", "name: str"),
        r"Mine: name belongs to the class, it is not a parameter: write name: ClassVar\[...\]",
    ),
    "an instance": (
        "wrong:mine",
        "from rwloss import maps\nmine = maps.Dice()",
        "instance of Dice",
    ),
    "a loss without a name": (
        "wrong:mine",
        "from rwloss import maps\nmine = maps.from_loss(lambda p, y: (p * y).sum())",
        r"instance of FromLoss, .*: put @maps.register\(\"name\"\) above the function of a loss",
    ),
    "no name": ("wrong:Mine", ("name: ClassVar", "title: ClassVar"), NAME + "None"),
    "a word of expressions": ("wrong:Mine", ('"mine"', '"blend"'), NAME + "'blend'"),
    "a word of Python": ("wrong:Mine", ('"mine"', '"lambda"'), NAME + "'lambda'"),
    "a hyphen": ("wrong:Mine", ('"mine"', '"my-map"'), NAME + "'my-map'"),
    "two names": (
        "wrong:Mine",
        ('"mine"', '"yours"'),
        "calls itself 'yours': give the entry point and the generator the same name",
    ),
}


@pytest.mark.parametrize(("target", "module", "message"), NO_GENERATORS.values(), ids=NO_GENERATORS)
def test_entry_point_that_is_no_generator(installed, target, module, message):
    if isinstance(module, tuple):
        module = plug_ins.MINE.replace(*module)
    installed(("wrong-maps", {"mine": target}, {"wrong": module}))
    with pytest.raises(RWLossError, match=rf"'mine' \({target} of wrong-maps 1.0\).*{message}"):
        maps.load("mine")


def test_two_packages_with_one_name_are_both_named(installed):
    installed(
        ("a-maps", {"mine": "a_maps:Mine", "own": "a_maps:Own"}, {"a_maps": plug_ins.MINE}),
        ("b-maps", {"mine": "b_maps:Mine"}, {"b_maps": plug_ins.MINE}),
    )
    for ask in (lambda: maps.load("mine"), lambda: maps.parse("rectified + mine")):
        with pytest.raises(RWLossError, match="two maps are named 'mine': ") as caught:
            ask()
        assert "a_maps:Mine of a-maps 1.0" in str(caught.value)
        assert "b_maps:Mine of b-maps 1.0" in str(caught.value)
    # Nobody else is stopped.
    assert {"mine", "own", "rectified"} <= set(maps.names())
    assert maps.get("rectified") == maps.Rectified()
    assert " and " in maps.origin("mine")


def test_a_text_from_a_file_reaches_entry_points_of_maps_alone(installed, tmp_path):
    """The user installed that package. No other module is imported, whatever the text."""
    never = "raise SystemExit('it ran')"
    modules = {"my_plug_in": plug_ins.MINE, "never_mine": never, "never_script": never}
    installed(("mine", {"mine": "my_plug_in:Mine", "bad": "never_mine:Bad"}, modules))
    declared = next(tmp_path.rglob("entry_points.txt"))
    scripts = (
        "\n[console_scripts]\nscript = never_script:main\n[other.maps]\nscript = never_script:M"
    )
    declared.write_text(declared.read_text() + scripts)
    for text in (
        *("never_mine", "never_script", "script", "os", "never_script.main", "never_script:main"),
        *("never_script.main()", "rectified.never_script()", "__import__('never_script')"),
        *("file('never_script')", "file('never_script:main')", "blend(dice, 'never_script')"),
        *("file(name='never_script.py:M')", "my_plug_in", "my_plug_in.Mine", "maps.mine"),
    ):
        with pytest.raises(RWLossError):
            maps.parse(text, files=False)
    assert not {"my_plug_in", "never_mine", "never_script"} & sys.modules.keys()
    assert str(maps.parse("mine(factor=3)", files=False)) == "mine(factor=3.0)"
    with pytest.raises(RWLossError, match=r"'bad' \(never_mine:Bad of mine 1.0\) failed to import"):
        maps.parse("bad", files=False)


def test_a_package_does_not_replace_a_built_in(installed):
    installed(("a-maps", {"rectified": "a_maps:Mine"}, {"a_maps": plug_ins.MINE}))
    with pytest.raises(RWLossError, match="two maps are named 'rectified'") as caught:
        maps.load("rectified")
    assert "rwloss.maps.static.rectified:Rectified of rwloss" in str(caught.value)
    assert "a_maps:Mine of a-maps 1.0" in str(caught.value)


def test_one_package_found_twice_is_no_clash(monkeypatch):
    twins = [EntryPoint("mine", "a:Mine", registry.GROUP)] * 2
    monkeypatch.setattr(registry, "entry_points", lambda group: twins)
    assert registry._entries.__wrapped__() == {"mine": (twins[0],)}
