import inspect

import plug_ins
import pytest

from rwloss import maps
from rwloss.maps import registry

FUNCTION = '''
from typing import Literal

from pydantic import PositiveFloat
from rwloss import Regions, RWMap, maps


@maps.register("mine", tags=maps.MapTags(stable=True, signed=False), citation="Nobody 2026")
def mine(regions: Regions, form: Literal["low", "high"], tau_mm: PositiveFloat | None = 2.0):
    """0 and 1.

    More words.
    """
'''


@pytest.fixture(autouse=True)
def no_other_maps(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_lists_every_generator_with_a_line(rwloss_command):
    code, out, _ = rwloss_command("maps")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == maps.names()
    first = {name: inspect.getdoc(maps.load(name)).splitlines()[0] for name in lines}
    assert lines == first


def test_plug_ins_are_listed_without_being_imported(rwloss_command, tmp_path, monkeypatch):
    broken = {"broken": "broken_maps:Mine", "twice": "broken_maps:Mine"}
    plug_ins.install(tmp_path / "a", "broken-maps", broken, {"broken_maps": "1 / 0"})
    plug_ins.install(tmp_path / "b", "b-maps", {"twice": "b:Mine"}, {"b": plug_ins.MINE})
    plug_ins.use(monkeypatch, tmp_path / "a", tmp_path / "b")
    code, out, err = rwloss_command("maps")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["broken"] == "plug-in: broken_maps:Mine of broken-maps 1.0"
    assert "broken_maps:Mine of broken-maps 1.0" in lines["twice"]
    assert "b:Mine of b-maps 1.0" in lines["twice"]
    assert lines["active_contour"].startswith("0 at the true class")

    code, out, err = rwloss_command("maps", "broken")
    assert (code, out) == (2, "")
    assert "map 'broken' (broken_maps:Mine of broken-maps 1.0) failed to import" in err
    assert "ZeroDivisionError: division by zero" in err
    code, _, err = rwloss_command("maps", "twice")
    assert code == 2
    assert "two maps are named 'twice'" in err


def test_shows_one_with_parameters_tags_and_source(rwloss_command):
    code, out, _ = rwloss_command("maps", "boundary")
    assert code == 0
    assert "convention: 'kervadec' | 'valverde' | 'edge' | 'maurer' = 'kervadec'" in out
    assert "normalize: 'none' | 'max' | 'sides' = 'none'" in out
    assert "commutes with: flip, rot90" in out
    assert "Kervadec et al." in out
    assert "From: rwloss.maps.static.boundary:Boundary of rwloss " in out


def test_shows_the_limits_of_parameters(rwloss_command):
    for name, line in [
        ("dice", "smooth: float > 0 = 1e-05\n  smooth_nr: float >= 0 | None = None\n"),
        ("dice", "include_background=False leaves class 0 out of this term"),
        ("focal", "gamma: float >= 0 = 2.0"),
        ("class_weighted", "beta: float >= 0, < 1 = 0.9999"),
        ("class_weighted", "| tuple[float > 0, ...] = 'inverse'"),
        ("rectified", "clip_mm: float > 0 | None = None"),
    ]:
        code, out, _ = rwloss_command("maps", name)
        assert code == 0
        assert line in out


def test_shows_a_generator_of_a_package(rwloss_command, tmp_path, monkeypatch):
    plug_ins.install(
        tmp_path, "mine-maps", {"mine": "mine_maps:Mine"}, {"mine_maps": plug_ins.MINE}
    )
    plug_ins.use(monkeypatch, tmp_path)
    code, out, _ = rwloss_command("maps", "mine")
    assert code == 0
    assert out == (
        "mine\n\nMinus the depth at the true class, 0 elsewhere.\n\nParameters:\n"
        "  factor: float = 2.0\n\nTags: not always stable, signed, commutes with: nothing\n\n"
        "Source: not given\nFrom: mine_maps:Mine of mine-maps 1.0\n"
    )


def test_shows_a_function_of_a_file(rwloss_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_map.py").write_text(FUNCTION)
    code, out, _ = rwloss_command("maps", "my_map.py:mine")
    assert code == 0
    head, _, digest = out.partition("(sha256 ")
    assert head == (
        "mine\n\n0 and 1.\n\nMore words.\n\nParameters:\n  form: 'low' | 'high', required\n"
        "  tau_mm: float > 0 | None = 2.0\n\n"
        "Tags: stable, never below 0, commutes with: nothing\n\n"
        "Source: Nobody 2026\nFrom: my_map.py:mine "
    )
    assert len(digest) == len("0123456789ab)\n")


def test_an_unknown_one(assert_refused):
    assert_refused("no file 'nowhere.py' to load a map from", "maps", "nowhere.py:mine")
    assert_refused("did you mean 'boundary'", "maps", "bondary")
