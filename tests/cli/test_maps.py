import inspect
import json

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

    More words. tau_mm: how far it reaches.
    """
'''


@pytest.fixture(autouse=True)
def no_other_maps(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_lists_every_generator_with_its_kind_and_a_line(rwloss_command):
    code, out, _ = rwloss_command("maps")
    assert code == 0
    lines = {name: rest for name, *rest in (line.split(maxsplit=2) for line in out.splitlines())}
    assert list(lines) == maps.names()
    for name, (kind, summary) in lines.items():
        assert kind == ("static" if maps.get(name).is_static else "dynamic")
        assert summary == inspect.getdoc(maps.load(name)).splitlines()[0]


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
    assert lines["active_contour"].startswith("static   0 at the true class")
    code, out, err = rwloss_command("maps", "--json")
    assert (code, err) == (0, "")
    listed = {term["name"]: term for term in json.loads(out)}
    assert listed["twice"]["kind"] is None
    assert listed["broken"] == {
        "name": "broken",
        "kind": None,
        "citation": "",
        "origin": "broken_maps:Mine of broken-maps 1.0",
    }

    code, out, err = rwloss_command("maps", "broken")
    assert (code, out) == (2, "")
    assert "map 'broken' (broken_maps:Mine of broken-maps 1.0) failed to import" in err
    assert "ZeroDivisionError: division by zero" in err
    code, _, err = rwloss_command("maps", "twice")
    assert code == 2
    assert "two maps are named 'twice'" in err


def test_shows_one_with_parameters_properties_and_source(rwloss_command):
    code, out, _ = rwloss_command("maps", "boundary")
    assert code == 0
    for line in (
        "  convention: 'kervadec' | 'valverde' | 'edge' | 'maurer' = 'kervadec'\n"
        '      "kervadec" is -(d - s) inside',
        "  normalize: 'none' | 'max' | 'sides' = 'none'\n",
        "Kind: static, dense\nInputs: labels, spacing\n",
        "Stability principle: holds with two classes, not with more\nPull exponent: 1\n",
        "Values: any, mm\nCommutes with: flip, rot90\nSource: Kervadec et al.",
        "\nOfficial code: https://github.com/LIVIAETS/boundary-loss\nAlso in: MONAI BoundaryLoss, ",
        "From: rwloss.maps.static.boundary:Boundary of rwloss ",
    ):
        assert line in out
    assert "normalize" not in out.partition("Parameters:")[0]  # it is said once


def test_shows_the_limits_and_meanings_of_parameters(rwloss_command):
    for name, line in [
        ("dice", "  smooth: float > 0 = 1e-05\n      s, added to numerator and denominator"),
        ("dice", "  include_background: bool = True\n      False leaves class 0 out of this term"),
        ("dice", "Values of the loss: 0 to 1, unitless\n"),
        ("focal", "  gamma: float >= 0 = 2.0\n      how fast a voxel fades as it becomes right"),
        ("focal_tversky", "  beta: float >= 0 = 0.7\n      weight of false negatives"),  # inherited
        ("hausdorff_one_sided", "Kind: dynamic, dense; from the labels alone: distance\n"),
        ("hausdorff_one_sided", "Values of the loss: 0 or more, mm^2\n"),
        ("mumford_shah", "Inputs: labels, prediction, image\n"),
        ("mumford_shah", "Stability principle: does not hold, with two classes either\n"),
        ("class_weighted", "Values: 0 or less, unitless\n"),
        ("class_weighted", "beta: float >= 0, < 1 = 0.9999"),
        ("class_weighted", "| tuple[float > 0, ...] = 'inverse'"),
        ("rectified", "clip_mm: float > 0 | None = None"),
    ]:
        code, out, _ = rwloss_command("maps", name)
        assert code == 0
        assert line in out


def test_json_is_what_the_terms_say(rwloss_command):
    code, out, _ = rwloss_command("maps", "--json")
    assert code == 0
    terms = {term["name"]: term for term in json.loads(out)}
    assert list(terms) == maps.names()
    assert terms["rectified"] == json.loads(rwloss_command("maps", "rectified", "--json")[1])
    rectified = terms["rectified"]
    assert (rectified["kind"], rectified["form"]) == ("static", "compact")
    assert (rectified["range"], rectified["pull_exponent"]) == ([-1, 1], 1)
    assert rectified["citation"] == maps.Rectified.citation
    assert rectified["parameters"][1] == {
        "name": "clip_mm",
        "type": "float > 0 | None",
        "required": False,
        "default": None,
        "meaning": "upper limit of the depth; None for no limit.",
    }


def test_shows_a_generator_of_a_package(rwloss_command, tmp_path, monkeypatch):
    plug_ins.install(
        tmp_path, "mine-maps", {"mine": "mine_maps:Mine"}, {"mine_maps": plug_ins.MINE}
    )
    plug_ins.use(monkeypatch, tmp_path)
    code, out, _ = rwloss_command("maps", "mine")
    assert code == 0
    assert out == (
        "mine\n\nMinus the depth at the true class, 0 elsewhere.\n\nParameters:\n"
        "  factor: float = 2.0\n\nKind: static\nInputs: labels, spacing\n"
        "Stability principle: not known to hold\nPull exponent: 1\n"
        "Values: range not known, unit not known\nCommutes with: nothing\n"
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
        "  tau_mm: float > 0 | None = 2.0\n      how far it reaches.\n\n"
        "Kind: static\nInputs: labels, spacing\nStability principle: holds always\n"
        "Pull exponent: 1\nValues: 0 or more, unit not known\nCommutes with: nothing\n"
        "Source: Nobody 2026\nFrom: my_map.py:mine "
    )
    assert len(digest) == len("0123456789ab)\n")


def test_an_unknown_one(assert_refused):
    assert_refused("no file 'nowhere.py' to load a map from", "maps", "nowhere.py:mine")
    assert_refused("did you mean 'boundary'", "maps", "bondary")
