"""The door: names and units, wrong input, and what is loaded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from anatomy import anatomy
from drawn import drawn, made, words

from rwloss import RWLossError, pictures


def test_names_the_maps_the_classes_and_the_case(tmp_path):
    labels = anatomy(3, (30, 40), 3)
    texts = ["boundary", "boundary(normalize='max')", "rectified"]
    names = ("background", "anterior")
    found = words(drawn(tmp_path / "a.svg", labels, 3, *texts, class_names=names, title="case_7"))
    for text in [*texts, "0 background", "1 anterior", "class 2", "case_7", "image", "labels"]:
        assert (text in found) == (text != "image"), text


@pytest.mark.parametrize("shape", [(12, 14), (6, 12, 14)], ids=["2-D", "3-D"])
def test_units_are_those_given(tmp_path, shape):
    labels = anatomy(4, shape, 2)
    texts = ["boundary", "rectified", "active_contour"]
    without = words(drawn(tmp_path / "a.svg", labels, 2, *texts))
    units = {"boundary": "mm", "rectified": "seconds", "active_contour": ""}
    found = words(drawn(tmp_path / "b.svg", labels, 2, *texts, units=units))
    assert sorted([*without, "mm", "seconds"]) == sorted(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((1, 2, 9, 9), int)}, "of 2 or 3 axes, one image"),
        ({"labels": np.zeros((9, 9))}, "whole labels"),
        ({"labels": np.zeros((9, 8), int)}, r"\(1, 9, 9\), the picture of \(9, 8\)"),
        ({"rwmaps": {}}, "one map or more"),
        ({"image": np.zeros((9, 8))}, r"shape \(9, 8\), its labels \(9, 9\)"),
        ({"spacing_mm": (1, 1, 1)}, "expected 2 spacings"),
        ({"spacing_mm": (1, 0)}, "above 0 mm"),
        ({"axis": 0}, "have no slices"),
        ({"slice_index": 0}, "have no slices"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_wrong_input_is_an_error(tmp_path, change, message):
    labels, rwmaps = made(anatomy(10, (9, 9), 2), 2, "boundary")
    arguments = {"labels": labels, "rwmaps": rwmaps, "path": tmp_path / "a.png", **change}
    with pytest.raises(RWLossError, match=message):
        pictures.draw(**arguments)
    assert not list(tmp_path.iterdir())


def test_maps_of_different_classes_are_an_error(tmp_path):
    labels = anatomy(10, (9, 9), 2)
    rwmaps = {"two": made(labels, 2, "boundary")[1]["boundary"]}
    rwmaps["three"] = made(labels, 3, "boundary")[1]["boundary"]
    with pytest.raises(RWLossError, match=r"maps of \[2, 3\] classes"):
        pictures.draw(labels, rwmaps, tmp_path / "a.png")


def test_needs_neither_pyplot_nor_torch(tmp_path):
    code = """
import sys
import numpy as np
import rwloss
from rwloss import maps, pictures
assert "matplotlib" not in sys.modules
regions = rwloss.Regions.single(np.eye(9, dtype=int), 2)
pictures.draw(regions.labels[0], {"rectified": maps.parse("rectified")(regions)}, sys.argv[1])
print([name for name in ("matplotlib.pyplot", "torch") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("[]", "", 0)
