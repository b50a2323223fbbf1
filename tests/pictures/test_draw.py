"""The door: names and units, files and formats, wrong input, and pushes in the wrong direction."""

import sys
from pathlib import Path

import numpy as np
import pytest
from anatomy import anatomy
from drawn import drawn, made, note, pixels, words

from rwloss import Regions, RWLossError, RWMap, pictures
from rwloss.pictures.draw import draw_wrong_pushes


def test_names_the_maps_their_units_the_classes_and_the_case(tmp_path):
    texts = ["boundary", "boundary(normalize='max')", "rectified"]
    names, units = ("background", "anterior"), {"boundary": "mm", "rectified": "seconds"}
    for shape in ((12, 14), (6, 12, 14)):
        labels = anatomy(3, shape, 3)
        svg = drawn(
            tmp_path / "a.svg", labels, 3, *texts, class_names=names, title="case_7", units=units
        )
        wanted = {*texts, "0 background", "1 anterior", "class 2", "case_7", "labels"}
        assert wanted | {"mm", "seconds"} <= {*words(svg)}
        assert "image" not in words(svg)
        assert ("Slice" in note(svg)) == (len(shape) == 3)
    assert "mm" not in words(drawn(tmp_path / "b.svg", labels, 3, *texts))


def test_wrong_input_is_an_error(tmp_path):
    labels, rwmaps = made(anatomy(10, (9, 9), 2), 2, "boundary")
    other = made(labels, 3, "boundary")[1]["boundary"]
    for change, message in (
        ({"labels": np.zeros((1, 2, 9, 9), int)}, "of 2 or 3 axes, one image"),
        ({"labels": np.zeros((9, 9))}, "whole labels"),
        ({"labels": np.zeros((9, 8), int)}, r"\(1, 9, 9\), the picture of \(9, 8\)"),
        ({"rwmaps": {}}, "at least one map"),
        ({"rwmaps": {**rwmaps, "three": other}}, r"maps of \[2, 3\] classes"),
        ({"image": np.zeros((9, 8))}, r"shape \(9, 8\), its labels \(9, 9\)"),
        ({"spacing_mm": (1, 1, 1)}, "expected 2 spacings"),
        ({"spacing_mm": (1, 0)}, "above 0 mm"),
        ({"axis": 0}, "have no slices"),
    ):
        with pytest.raises(RWLossError, match=message):
            pictures.draw(
                **{"labels": labels, "rwmaps": rwmaps, "path": tmp_path / "a.png"} | change
            )
    with pytest.raises(RWLossError, match="at least one map"):
        draw_wrong_pushes(labels, {}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# --- Files


@pytest.mark.parametrize("suffix", pictures.FORMATS)
def test_the_suffix_chooses_the_format_and_bytes_repeat_and_replace(tmp_path, suffix):
    labels = anatomy(10, (9, 9), 2)
    first = drawn(tmp_path / f"a.{suffix}", labels, 2, "boundary")
    assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    (tmp_path / f"b.{suffix.upper()}").write_bytes(b"x" * 2_000_000)
    assert first == drawn(tmp_path / f"b.{suffix.upper()}", labels, 2, "boundary")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RWLossError, match=r"cannot write .*a\.png.*No space left"):
        drawn(path, anatomy(10, (9, 9), 2), 2, "boundary")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    labels, rwmaps = made(anatomy(10, (9, 9), 2), 2, "boundary")
    for name, message in (
        ("a.jpg", r"ends with \.png, \.pdf, \.svg, got .*a\.jpg"),
        ("a", "ends with"),
        ("none/a.png", "there is no folder .*none.* make it first"),
        ("file/a.png", "there is no folder"),
        ("folder.png", "it is a folder"),
    ):
        for draw in (pictures.draw, draw_wrong_pushes):
            with pytest.raises(RWLossError, match=message):
                draw(labels, rwmaps, tmp_path / name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[report\]'"):
        pictures.check_output(tmp_path / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


# --- Pushes in the wrong direction


def uniform_map(labels, num_classes, changes):
    """0 at the true class and 1 at the others, but for the changes {(k, *place): value}."""
    values = np.ones((1, num_classes, *labels.shape))
    for k in range(num_classes):
        values[0, k][labels == k] = 0
    for at, value in changes.items():
        values[(0, *at)] = value
    return RWMap.from_dense(labels[None], values)


def test_red_where_a_wrong_class_is_raised_blue_where_the_true_one_is_lowered(tmp_path):
    """Beside a single wrong push, which hides all right ones; without any, those are shown."""
    labels, path = np.zeros((8, 8), dtype=int), tmp_path / "a.png"
    labels[:, 4:] = 1

    def reds_and_blues(changes):
        """Number of pixels that are clearly red, and clearly blue."""
        draw_wrong_pushes(labels, {"m": uniform_map(labels, 3, changes)}, path)
        red, _, blue = (pixels(path)[..., i].astype(int) for i in range(3))
        return int((red - blue > 90).sum()), int((blue - red > 90).sum())

    # Red and blue of the labels and of the bar of the scale; the bar shows what occurs.
    clean_red, clean_blue = reds_and_blues({(2, 7, 0): -0.01})
    red, blue = reds_and_blues({(2, i, j): -5.0 for i in range(3) for j in range(3)})
    assert red > clean_red + 1000
    assert blue < clean_blue + 1000
    _, blue = reds_and_blues({(1, i, j): 9.0 for i in range(3) for j in range(5, 8)})
    assert blue > clean_blue + 1000
    assert reds_and_blues({})[0] > clean_red + 10_000


def test_shows_the_slice_with_the_most_and_says_how_much(tmp_path):
    labels, path = anatomy(3, (6, 10, 12), 3).astype(int), tmp_path / "a.svg"
    wrong = uniform_map(labels, 3, {(2, 1, 4, 5): -50.0, (1, 1, 4, 6): -50.0})
    draw_wrong_pushes(labels, {"broken": wrong}, path, spacing_mm=(3, 1, 1), probs="uniform")
    found = note(path.read_bytes())
    assert "Slice 1 of 0..5 along axis 0." in found
    assert "of the push in this slice goes the wrong way" in found
    assert "at uniform probabilities" in found
    # Where nothing is wrong it says so, and shows the fullest slice.
    labels = np.zeros((4, 9, 9), dtype=int)
    labels[2, 2:5, 2:5], labels[2, 6:, 6:] = 1, 2
    draw_wrong_pushes(labels, {"fine": uniform_map(labels, 3, {})}, path, spacing_mm=(5, 1, 1))
    found = note(path.read_bytes())
    assert "fine: no push goes the wrong way" in found
    assert "Slice 2 of 0..3 along axis 0." in found


def test_given_probabilities_ignored_voxels_and_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    regions = Regions.single(anatomy(3, (12, 14), 9), 9, ignore_label=8)
    values = rng.normal(0, 1, (1, 9, 12, 14)) * (regions.labels >= 0)[:, None]
    probs = rng.dirichlet(np.ones(9), (1, 12, 14)).transpose(0, 3, 1, 2)
    rwmaps, path = {"m": RWMap.from_dense(regions.labels, values)}, tmp_path / "a.svg"
    draw_wrong_pushes(regions.labels[0], rwmaps, path, given=probs, probs="random")
    found = note(path.read_bytes())
    for text in ("ignored", "6 of 9 classes", "at random probabilities"):
        assert text in found
