"""MHA and NRRD headers: what ITK writes passes, and what would harm it does not reach it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwloss.data import read_labels
from rwloss.errors import RWLossError

sitk = pytest.importorskip("SimpleITK")

SUFFIXES = (".mha", ".nrrd")
LABELS = np.random.default_rng(5).integers(0, 3, (4, 5, 6)).astype(np.uint8)


def written(folder: Path, suffix: str, *, dtype: Any = "u1", compressed: bool = False) -> Path:
    image = sitk.GetImageFromArray(LABELS.astype(dtype).T)
    image.SetSpacing((0.5, 1.0, 2.5))
    path = folder / f"case{suffix}"
    sitk.WriteImage(image, str(path), compressed)
    return path


def edited(path: Path, old: str, new: str) -> Path:
    content = path.read_bytes()
    assert content.count(old.encode()) >= 1
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    return path


def never(*_: object) -> None:
    raise AssertionError("ITK was asked")


@pytest.fixture
def itk_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitk, "ImageFileReader", never)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_what_itk_writes(tmp_path: Path, suffix: str, compressed: bool, dtype: str) -> None:
    volume = read_labels(written(tmp_path, suffix, dtype=dtype, compressed=compressed))
    np.testing.assert_array_equal(volume.labels, LABELS)
    assert volume.spacing_mm == (0.5, 1.0, 2.5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_notes_and_turned_axes(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(LABELS.T)
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    for key, value in {"0008|0020": "20200101", "a key": "a = b: c", "long": "x" * 150}.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / f"case{suffix}"))
    volume = read_labels(tmp_path / f"case{suffix}")
    np.testing.assert_array_equal(volume.labels, LABELS)
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-9)


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".mha", "LOCAL", "Local"),
        (".mha", "\n", "\r\n"),
        (".mha", "Offset", "Comment = \nOffset"),
        (".mha", "Offset", f"0010|0010 = {'x' * 5000}\nOffset"),
        (".nrrd", "encoding", "byte skip: 0\nencoding"),
        (".nrrd", "encoding", f"key:={'x' * 5000}\n# {'y' * 5000}\nencoding"),
        (".nrrd", "unsigned char", "uint8_t"),
        (".nrrd", "NRRD0004", "NRRD0005"),
    ],
)
def test_what_others_write(tmp_path: Path, suffix: str, old: str, new: str) -> None:
    path = edited(written(tmp_path, suffix), old, new)
    np.testing.assert_array_equal(read_labels(path).labels, LABELS)


@pytest.mark.usefixtures("itk_is_not_asked")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("LOCAL", "/etc/passwd", "in another file"),
        ("LOCAL", "LIST", "in another file"),
        ("LOCAL", "slice%03d.raw 1 4 1", "in another file"),
        ("ElementDataFile", " ElementDataFile = x.raw\nElementDataFile", "in another file"),
        ("ElementDataFile", "ElementDataFile : x.raw\nElementDataFile", "damaged.*x.raw"),
        ("ElementDataFile", "Note\nElementDataFile", "damaged.*Note"),
        ("ElementDataFile = LOCAL", "", "damaged, or cut short"),
        ("NDims = 3", "NDims = 4", "2 or 3 axes, got NDims = 4"),
        ("NDims = 3", "NDims = -1", "2 or 3 axes"),
        ("NDims = 3", "NDims = 1e308", "2 or 3 axes"),
        ("NDims = 3\n", "", "damaged"),
        ("NDims = 3\n", "NDims = 3\nNDims = 2\n", "damaged"),
        ("NDims = 3", "NDims = 2", "damaged"),
        ("DimSize = 4 5 6", "DimSize = 4 5", "damaged.*DimSize"),
        ("DimSize = 4 5 6", "DimSize = 4 5 -6", "damaged"),
        ("DimSize = 4 5 6", "DimSize = 4 5 0", "holds no voxel"),
        ("DimSize = 4 5 6", "DimSize = 4 5 6e8", "damaged"),
        ("DimSize = 4 5 6", "DimSize = 400 500 6", "cut short"),
        ("DimSize = 4 5 6", "DimSize = 400000 500000 6", "more than the limit"),
        ("DimSize = 4 5 6\n", "", "no DimSize"),
        ("MET_UCHAR", "MET_DOUBLE", "cut short"),
        ("MET_UCHAR", "MET_UCHAR_ARRAY", "ElementType unknown here"),
        ("MET_UCHAR", "A" * 100_000, "damaged"),
        ("ElementType", "ElementNumberOfChannels = 3\nElementType", "one number a voxel, got 3"),
        ("ElementSpacing = 0.5", "ElementSpacing = nan", "damaged"),
        ("TransformMatrix = 1", "TransformMatrix = 1e308", "damaged"),
        ("TransformMatrix = 1 ", "TransformMatrix = ", "damaged"),
        ("BinaryData = True", "BinaryData = False", "BinaryData = True"),
        ("ElementType", "HeaderSize = -1\nElementType", "no HeaderSize"),
        ("CompressedData = False", "CompressedData = True", "no CompressedDataSize"),
        ("CompressedData = False", "CompressedData = To", "no CompressedDataSize"),
        ("Offset", "Color = 1 1\nOffset", "damaged"),
        ("Offset", f"Name = {'x' * 300}\nOffset", "damaged"),
        ("Offset", "Name = a\0b\nOffset", "damaged"),
        ("Offset", "\n" * 20_000 + "Offset", "damaged"),
    ],
)
def test_mha_headers_that_itk_must_not_see(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(RWLossError, match=words):
        read_labels(edited(written(tmp_path, ".mha"), old, new))


@pytest.mark.usefixtures("itk_is_not_asked")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("encoding", "data file: /etc/passwd\nencoding", "in another file"),
        ("encoding", "DataFile: x%03d.raw 1 4 1\nencoding", "in another file"),
        ("encoding", "datafile: LIST\nencoding", "in another file"),
        ("encoding", "byte skip: -1\nencoding", "no skip"),
        ("encoding", "line skip: 3\nencoding", "no skip"),
        ("encoding: raw", "encoding: ascii", "raw or gzip.*'ascii'"),
        ("encoding: raw", "encoding: bzip2", "raw or gzip"),
        ("type: unsigned char", "type: block", "type 'block', unknown here"),
        ("type: unsigned char\n", "", "type '', unknown here"),
        ("type: unsigned char", "type: double", "cut short"),
        ("type: unsigned char", "type: " + "A" * 5000, "damaged"),
        ("sizes: 4 5 6", "sizes: 4 5", "another dimension"),
        ("sizes: 4 5 6", "sizes: 4 5 -6", "damaged"),
        ("sizes: 4 5 6", "sizes: 4 5 0", "holds no voxel"),
        ("sizes: 4 5 6", "sizes: 400 500 6", "cut short"),
        ("sizes: 4 5 6", "sizes: 400000 500000 6", "more than the limit"),
        ("dimension: 3", "dimension: 99", "another dimension"),
        ("dimension: 3", "dimension: 3\ndimension: 3", "damaged"),
        ("encoding", "A" * 300 + "\nencoding", "damaged"),
        ("NRRD0004", "NRRD9999", "damaged"),
        ("NRRD0004", "", "damaged"),
    ],
)
def test_nrrd_headers_that_itk_must_not_see(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(RWLossError, match=words):
        read_labels(edited(written(tmp_path, ".nrrd"), old, new))


@pytest.mark.parametrize("old", ["0.5", "2.5"])
@pytest.mark.parametrize("new", ["0", "-1", "1e-300", "nan", "inf", "1e300"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_impossible_geometry(tmp_path: Path, old: str, new: str, suffix: str) -> None:
    path = edited(written(tmp_path, suffix), old, new)
    if new == "-1":  # ITK turns the axis round instead
        assert read_labels(path).spacing_mm in {(1.0, 1.0, 2.5), (0.5, 1.0, 1.0)}
        return
    with pytest.raises(RWLossError, match=rf"case\{suffix}"):
        read_labels(path)


def flip(content: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 16]) + content[-19:]


@pytest.mark.usefixtures("itk_is_not_asked")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("harm", [flip, lambda content: content[:-1], lambda content: content[:-9]])
def test_damaged_streams(tmp_path: Path, suffix: str, harm: Callable[[bytes], bytes]) -> None:
    path = written(tmp_path, suffix, compressed=True)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(RWLossError, match=rf"case\{suffix}': it is"):
        read_labels(path)


@pytest.mark.usefixtures("itk_is_not_asked")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_streams_of_another_length(tmp_path: Path, suffix: str) -> None:
    for sizes in ("4 5 5", "4 5 7"):
        path = edited(written(tmp_path, suffix, compressed=True), "4 5 6", sizes)
        with pytest.raises(RWLossError, match=r"has others|cut short"):
            read_labels(path)


def test_mha_that_says_its_stream_is_shorter(tmp_path: Path) -> None:
    path = written(tmp_path, ".mha", compressed=True)
    size = path.read_text("latin-1").split("CompressedDataSize = ")[1].split("\n")[0]
    with pytest.raises(RWLossError, match="CompressedDataSize"):
        read_labels(edited(path, f"Size = {size}", f"Size = {int(size) - 9}"))
