"""Files of pictures: formats, whole replacement, and where none can be written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from anatomy import anatomy
from drawn import drawn, made, pixels

from rwloss import RWLossError, pictures


@pytest.mark.parametrize("suffix", pictures.FORMATS)
def test_the_suffix_chooses_the_format_and_bytes_repeat(tmp_path, suffix):
    labels = anatomy(10, (20, 20), 3)
    first = drawn(tmp_path / f"a.{suffix}", labels, 3, "boundary")
    assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    assert first == drawn(tmp_path / f"b.{suffix.upper()}", labels, 3, "boundary")


def test_an_existing_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * 2_000_000)
    drawn(path, anatomy(10, (20, 20), 3), 3, "boundary")
    assert len(path.read_bytes()) < 500_000
    assert pixels(path).any()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RWLossError, match=r"cannot write .*a\.png.*No space left"):
        drawn(path, anatomy(10, (20, 20), 3), 3, "boundary")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.jpg", r"ends with \.png, \.pdf, \.svg, got .*a\.jpg"),
        ("a", "ends with"),
        ("none/a.png", "there is no folder .*none.* make it first"),
        ("file/a.png", "there is no folder"),
        ("folder.png", "it is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error(tmp_path, name, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    labels, rwmaps = made(anatomy(10, (9, 9), 2), 2, "boundary")
    with pytest.raises(RWLossError, match=message):
        pictures.draw(labels, rwmaps, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_without_matplotlib_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[report\]'"):
        pictures.check_output(tmp_path / "a.png")
