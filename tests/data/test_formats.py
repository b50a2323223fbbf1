from __future__ import annotations

import gzip
import itertools
import os
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image
from PIL import Image

from rwloss.data import SUFFIXES, case_name, read_image, read_labels
from rwloss.errors import RWLossError

SPACING = (0.8, 1.0, 2.5)
NIFTI_DIM, NIFTI_PIXDIM, NIFTI_OFFSET, NIFTI_UNITS = 40, 76, 108, 123
NIFTI_QFORM, NIFTI_QUATERNION, NIFTI_ROWS, NIFTI_MAGIC = 252, 256, 280, 344


@pytest.fixture(params=["isal", "gzip"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Reads .nii.gz with either library."""
    if request.param == "gzip":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.igzip", None)
    else:
        pytest.importorskip("isal")
    return str(request.param)


def some_labels(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 3, shape).astype(dtype)


def save_nifti(path: Path, values: np.ndarray, *, kind: Any = Nifti1Image) -> Path:
    image = kind(values, np.diag([*SPACING, 1.0]), dtype=values.dtype)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def patch(path: Path, at: int, code: str, *values: float) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(code, content, at, *values)
    path.write_bytes(content)
    return path


def png_bytes(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of fewer than 8 bits a pixel, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    height, width = values.shape
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_bytes(
    values: np.ndarray, *, photometric: int = 1, bits: int = 0, size: Any = None
) -> bytes:
    """A plain TIFF of any dtype and byte order."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    height, width = size or values.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.tobytes()
    short, long = 3, 4
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, bits or values.dtype.itemsize * 8),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 8 + 2 + 10 * 12 + 4),
        (277, short, 1),
        (278, long, height),
        (279, long, width * height * values.dtype.itemsize if size else len(data)),
        (339, short, sample_format),
    ]
    out = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, value in tags:
        out += struct.pack(f"{order}HHI", tag, kind, 1)
        out += struct.pack(f"{order}{'HH' if kind == short else 'I'}", *([value, 0][: 5 - kind]))
    return out + struct.pack(f"{order}I", 0) + data


# Formats x dtypes x dimensions


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_nifti(tmp_path: Path, suffix: str, kind: Any, dtype: str, shape: tuple[int, ...]) -> None:
    labels = some_labels(shape, dtype)
    volume = read_labels(save_nifti(tmp_path / f"case{suffix}", labels, kind=kind))
    np.testing.assert_array_equal(volume.labels, labels)
    assert volume.labels.dtype == ("u1" if dtype[0] == "f" else dtype)
    assert volume.labels.flags.writeable
    assert volume.spacing_mm == SPACING[: len(shape)]
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine, np.diag([*SPACING, 1.0]), rtol=1e-6)
    image = read_image(tmp_path / f"case{suffix}")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, labels)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">u2", ">i4", "i8", "u8", "f2", ">f8"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy(tmp_path: Path, suffix: str, dtype: str, shape: tuple[int, ...], order: Any) -> None:
    labels = np.asarray(some_labels(shape, dtype), order=order)
    path = tmp_path / f"case{suffix}"
    np.save(path, labels) if suffix == ".npy" else np.savez_compressed(path, labels)
    volume = read_labels(path, spacing_mm=SPACING[: len(shape)])
    np.testing.assert_array_equal(volume.labels, labels)
    assert volume.labels.dtype.isnative
    assert volume.labels.dtype.kind in "iu"
    assert volume.spacing_mm == SPACING[: len(shape)]
    assert volume.affine is None
    assert read_labels(path).spacing_mm is None


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", ["?", "u1", "u2"])
def test_pictures(tmp_path: Path, suffix: str, dtype: str) -> None:
    labels = some_labels((7, 5), dtype)
    if dtype == "u2":
        labels[0, 0] = 40_000
    path = tmp_path / f"case{suffix}"
    Image.fromarray(labels).save(path)
    volume = read_labels(path)
    np.testing.assert_array_equal(volume.labels, labels)
    assert volume.spacing_mm is None
    np.testing.assert_array_equal(read_image(path), labels)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("<u1", 250),
        ("<i1", -1),
        ("<u2", 60_000),
        (">u2", 60_000),
        ("<i2", -7),
        (">i2", -7),
        ("<i4", -7),
        ("<u4", 3_000_000_000),
        ("<f4", 9.0),
        (">f4", 9.0),
    ],
)
def test_tiff_gives_the_stored_numbers(tmp_path: Path, dtype: str, value: float) -> None:
    labels = np.array([[0, 1, 2], [3, 4, value]]).astype(dtype)
    path = tmp_path / "case.tif"
    path.write_bytes(tiff_bytes(labels))
    found = read_labels(path).labels
    np.testing.assert_array_equal(found, labels)
    assert found.dtype.isnative


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_tiff_pages_are_a_stack(tmp_path: Path, compression: str | None) -> None:
    labels = some_labels((4, 6, 5))
    pages = [Image.fromarray(page) for page in labels]
    path = tmp_path / "case.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=compression)
    np.testing.assert_array_equal(read_labels(path).labels, labels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palette_gives_indices(tmp_path: Path, suffix: str) -> None:
    labels = some_labels((6, 5))
    picture = Image.fromarray(labels, mode="L").convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / f"case{suffix}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"case{suffix}").labels, labels)
    with pytest.raises(RWLossError, match="indices of a palette"):
        read_image(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    labels = np.arange(15).reshape(3, 5) % 2**bits
    (tmp_path / "case.png").write_bytes(png_bytes(labels, bits))
    np.testing.assert_array_equal(read_labels(tmp_path / "case.png").labels, labels)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_itk_agrees_with_nifti(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    labels = some_labels(shape)
    image = sitk.GetImageFromArray(labels.T)
    image.SetSpacing(SPACING[: len(shape)])
    image.SetOrigin((10.0, -20.0, 30.0)[: len(shape)])
    for ending in (suffix, ".nii.gz"):
        sitk.WriteImage(image, str(tmp_path / f"case{ending}"), True)
    found, nifti = read_labels(tmp_path / f"case{suffix}"), read_labels(tmp_path / "case.nii.gz")
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(nifti.labels, labels)
    assert found.spacing_mm == nifti.spacing_mm == SPACING[: len(shape)]
    assert found.affine is not None
    assert nifti.affine is not None
    np.testing.assert_allclose(found.affine, nifti.affine, rtol=1e-6)


def test_itk_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "case.mha").write_bytes(b"ObjectType = Image\n")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(RWLossError, match=r"pip install rwloss\[itk\]"):
        read_labels(tmp_path / "case.mha")


def test_itk_announcing_more_than_the_file_holds(tmp_path: Path) -> None:
    # ITK itself fills the missing voxels with zeros.
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / "case.mha"
    sitk.WriteImage(sitk.GetImageFromArray(some_labels((2, 3, 4))), str(path), True)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 4 3 2", b"DimSize = 4000 3000 2"))
    with pytest.raises(RWLossError, match="cut short"):
        read_labels(path)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_headers_that_lead_elsewhere(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"case{suffix}", some_labels((4, 5)))
    content = path.read_bytes()
    other = str(tmp_path / "other.raw").encode()
    if suffix == ".mha":
        content = content.replace(b"= LOCAL", b"= " + other)
    else:
        content = content.replace(b"\n\n", b"\ndata file: " + other + b"\n\n", 1)
    path.write_bytes(content)
    with pytest.raises(RWLossError, match="save it as one whole file"):
        read_labels(path)


def test_itk_vectors(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.zeros((3, 4, 2), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "case.nrrd"))
    with pytest.raises(RWLossError, match="expected one number per voxel, got 2"):
        read_labels(tmp_path / "case.nrrd")


# NIfTI headers


@pytest.mark.parametrize("dtype", ["u1", "i2"])
def test_labels_that_nibabel_scaled_are_whole_again(tmp_path: Path, dtype: str) -> None:
    labels = some_labels((4, 5, 6), np.float64)
    image = Nifti1Image(labels, np.eye(4))
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / "case.nii.gz")
    stored = np.asanyarray(nib.load(tmp_path / "case.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert not np.array_equal(stored, labels)
    found = read_labels(tmp_path / "case.nii.gz").labels
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8


def test_a_coarse_scale_does_not_excuse_fractions(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6), np.int16))
    patch(path, 112, "<2f", 0.5, 0.0)
    with pytest.raises(RWLossError, match=r"expected whole numbers, got 0\.5"):
        read_labels(path)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    image = Nifti1Image(some_labels((4, 5, 6)), np.diag([*SPACING, 1.0]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "case.nii")
    volume = read_labels(tmp_path / "case.nii")
    assert volume.spacing_mm == pytest.approx([length * factor for length in SPACING])
    assert volume.affine is not None
    np.testing.assert_allclose(np.diag(volume.affine)[:3], np.multiply(SPACING, factor), rtol=1e-6)
    assert volume.affine[3, 3] == 1


def test_unknown_unit(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    with pytest.raises(RWLossError, match="unit code 7"):
        read_labels(patch(path, NIFTI_UNITS, "<B", 7))


@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_big_endian_nifti(tmp_path: Path, dtype: str) -> None:
    labels = some_labels((4, 5, 6), dtype)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(dtype)
    Nifti1Image(labels, np.eye(4), header).to_filename(tmp_path / "case.nii.gz")
    volume = read_labels(tmp_path / "case.nii.gz")
    np.testing.assert_array_equal(volume.labels, labels)
    assert volume.labels.dtype.isnative
    assert volume.spacing_mm == (1.0, 1.0, 1.0)


def test_fourth_axis_of_one_is_dropped(tmp_path: Path) -> None:
    labels = some_labels((4, 5, 6, 1))
    volume = read_labels(save_nifti(tmp_path / "case.nii", labels))
    np.testing.assert_array_equal(volume.labels, labels[..., 0])
    assert volume.spacing_mm == SPACING


@pytest.mark.parametrize("shape", [(4,), (4, 5, 6, 2), (4, 5, 6, 1, 1)])
def test_other_numbers_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_nifti(tmp_path / "case.nii.gz", some_labels(shape))
    for read in (read_labels, read_image):
        with pytest.raises(RWLossError, match=f"expected 2 or 3 axes, got {len(shape)}"):
            read(path)
    np.save(tmp_path / "case.npy", np.zeros(shape, np.uint8))
    with pytest.raises(RWLossError, match=f"got {len(shape)}"):
        read_labels(tmp_path / "case.npy")


@pytest.mark.parametrize("bad", [0.0, -0.8, float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_impossible_spacing_in_a_header(tmp_path: Path, bad: float, shape: tuple[int, ...]) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels(shape))
    with pytest.raises(RWLossError, match=r"case\.nii.*spacing.*above zero"):
        read_labels(patch(path, NIFTI_PIXDIM + 8, "<f", bad))


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_spacings_that_no_specimen_has(tmp_path: Path, length: float) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    with pytest.raises(RWLossError, match=r"from 1e-09 to 1e\+09 mm"):
        read_labels(patch(path, NIFTI_PIXDIM + 8, "<f", length))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(4))
def test_sform_of_no_numbers(tmp_path: Path, bad: float, row: int, column: int) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    patch(path, NIFTI_ROWS + 16 * row + 4 * column, "<f", bad)
    if column == 3 and bad == 1e38:  # far away, but a place
        assert read_labels(path).labels.shape == (4, 5, 6)
        return
    with pytest.raises(RWLossError, match=r"case\.nii.*affine of finite numbers.*sform or qform"):
        read_labels(path)
    assert read_image(path).shape == (4, 5, 6)


@pytest.mark.parametrize("rows", [(0,) * 12, (1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0)])
def test_sform_that_turns_a_volume_into_a_plane(tmp_path: Path, rows: tuple[float, ...]) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    with pytest.raises(RWLossError, match="three independent axes"):
        read_labels(patch(path, NIFTI_ROWS, "<12f", *rows))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 2.0])
@pytest.mark.parametrize("at", range(6))
def test_qform_of_no_rotation(tmp_path: Path, bad: float, at: int) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    patch(path, NIFTI_QFORM, "<2h", 1, 0)
    assert read_labels(path).spacing_mm == SPACING
    patch(path, NIFTI_QUATERNION + 4 * at, "<f", bad)
    if at >= 3 and bad == 2:  # a shift, not a part of the rotation
        affine = read_labels(path).affine
        assert affine is not None
        assert affine[at - 3, 3] == 2
        return
    with pytest.raises(RWLossError, match=r"case\.nii'"):
        read_labels(path)


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        (0.0, "begin at byte 0, inside the header.*352"),
        (200.0, "vox offset 200 too low"),
        (-16.0, "too low"),
        (1e9, "cut short"),
        (3e38, "cut short"),
        (float("nan"), "damaged"),
        (float("inf"), "damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_begin_elsewhere(
    tmp_path: Path, offset: float, words: str, suffix: str
) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    patch(path, NIFTI_OFFSET, "<f", offset)
    if suffix == ".nii.gz":
        path = path.rename(path.with_name("plain"))
        (tmp_path / "case.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(RWLossError, match=words):
        read_labels(tmp_path / f"case{suffix}")


def test_voxels_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    patch(path, NIFTI_OFFSET, "<f", 0.0)
    with pytest.raises(RWLossError, match="in another file"):
        read_labels(patch(path, NIFTI_MAGIC, "<4s", b"ni1\0"))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [16, 2**31 - 16, -16, 0])
def test_extensions_are_skipped(tmp_path: Path, size: int) -> None:
    labels = some_labels((4, 5, 6))
    image = Nifti1Image(labels, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of some length"))
    image.to_filename(tmp_path / "case.nii")
    patch(tmp_path / "case.nii", 352, "<i", size)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.nii").labels, labels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_announces_less_than_the_file_holds(tmp_path: Path, suffix: str) -> None:
    labels = some_labels((64, 64, 64))
    whole = save_nifti(tmp_path / "whole.nii", labels).read_bytes()
    pack = gzip.compress if suffix == ".nii.gz" else bytes
    path = tmp_path / f"case{suffix}"
    path.write_bytes(pack(whole + bytes(512)))
    np.testing.assert_array_equal(read_labels(path).labels, labels)
    patch(tmp_path / "whole.nii", NIFTI_DIM + 6, "<h", 16)
    path.write_bytes(pack((tmp_path / "whole.nii").read_bytes()))
    with pytest.raises(RWLossError, match="holds more than twice as many"):
        read_labels(path)


@pytest.mark.parametrize("order", "<>")
def test_length_and_axes_of_different_byte_orders(tmp_path: Path, order: str) -> None:
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype("u1")
    Nifti1Image(some_labels((4, 5, 6)), np.eye(4), header).to_filename(tmp_path / "case.nii")
    assert read_labels(tmp_path / "case.nii").labels.shape == (4, 5, 6)
    patch(tmp_path / "case.nii", NIFTI_DIM, {"<": ">h", ">": "<h"}[order], 3)
    with pytest.raises(RWLossError, match="announces 768 axes"):
        read_labels(tmp_path / "case.nii")


def test_colour_and_complex_nifti(tmp_path: Path) -> None:
    rgb = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for values in (rgb, np.zeros((3, 3, 3), np.complex64)):
        Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "case.nii")
        with pytest.raises(RWLossError, match="expected one number per voxel"):
            read_labels(tmp_path / "case.nii")


# Spacing of the caller


def test_given_spacing_equal_to_the_files(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    assert read_labels(path, spacing_mm=[0.8, 1, 2.5]).spacing_mm == SPACING


def test_given_spacing_against_the_files(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    with pytest.raises(RWLossError, match=r"carries the spacing \(0\.8, 1\.0, 2\.5\) mm.*\(1, 1"):
        read_labels(path, spacing_mm=(1, 1, 1))


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((1.0,), "expected 2 lengths"),
        ((1.0, 1.0, 1.0), "expected 2 lengths"),
        ((1.0, 0.0), "above zero"),
        ((1.0, -1.0), "above zero"),
        ((1.0, float("nan")), "above zero"),
        ((1.0, float("inf")), "above zero"),
    ],
)
def test_given_spacing_that_cannot_be(
    tmp_path: Path, spacing: tuple[float, ...], words: str
) -> None:
    np.save(tmp_path / "case.npy", some_labels((4, 5)))
    with pytest.raises(RWLossError, match=words):
        read_labels(tmp_path / "case.npy", spacing_mm=spacing)


# Values


@pytest.mark.parametrize(
    ("top", "bottom", "dtype"),
    [
        (2, 0, "u1"),
        (255, 0, "u1"),
        (256, 0, "u2"),
        (2, -1, "i1"),
        (200, -1, "i2"),
        (2**40, 0, "u8"),
    ],
)
def test_whole_floats_take_the_smallest_type(
    tmp_path: Path, top: int, bottom: int, dtype: str
) -> None:
    np.save(tmp_path / "case.npy", np.array([[top, bottom]], np.float64))
    labels = read_labels(tmp_path / "case.npy").labels
    assert labels.dtype == dtype
    assert labels.tolist() == [[top, bottom]]


INTERESTING = [
    *(-(2.0**63), -(2.0**31) - 1, -129.0, -128.0, -1.0, -0.25, -1e-9, -0.0, 0.0, 1e-9, 0.5, 1.0),
    *(127.0, 128.0, 254.75, 255.0, 256.0, 65535.0, 65536.0, 2.0**31, 2.0**53, 2.0**63, np.nan),
    *(np.inf, -np.inf),
]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "longdouble"])
def test_floats_against_a_plain_loop(tmp_path: Path, dtype: str) -> None:
    with np.errstate(over="ignore"):
        pairs = np.array(list(itertools.product(INTERESTING, [0.0, -1.0, 255.0]))).astype(dtype)
    for first, second in pairs:
        np.save(tmp_path / "case.npy", np.asfortranarray([[first], [second]], dtype))
        values = [float(first), float(second)]
        if all((abs(v) < 2**63 and v == int(v)) or v == -(2**63) for v in values):
            labels = read_labels(tmp_path / "case.npy").labels
            assert labels.ravel().tolist() == values
            limits = {t: np.iinfo(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")}
            assert labels.dtype == next(
                t for t, i in limits.items() if i.min <= min(values) and max(values) <= i.max
            )
        else:
            with pytest.raises(RWLossError, match=r"expected (numbers|whole numbers|labels), got"):
                read_labels(tmp_path / "case.npy")


def test_fractions_name_the_first(tmp_path: Path) -> None:
    np.save(tmp_path / "case.npy", np.array([[0, 1, 1], [2, 0.25, 0.5]], np.float32))
    with pytest.raises(RWLossError, match=r"got 0\.25 at voxel \(1, 1\) \(2 such voxels\)"):
        read_labels(tmp_path / "case.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".nii.gz", ".tif"])
def test_not_finite(tmp_path: Path, bad: float, suffix: str) -> None:
    values = np.zeros((3, 4), np.float32)
    values[1, 2] = bad
    path = tmp_path / f"case{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".tif":
        Image.fromarray(values).save(path)
    else:
        save_nifti(path, values)
    for read in (read_labels, read_image):
        with pytest.raises(RWLossError, match=rf"got {bad} at voxel \(1, 2\) \(1 such"):
            read(path)


def test_image_beyond_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "case.npy", np.full((3, 4), 1e300))
    with pytest.raises(RWLossError, match=r"1e\+300, beyond float32"):
        read_image(tmp_path / "case.npy")
    with pytest.raises(RWLossError, match="expected labels"):
        read_labels(tmp_path / "case.npy")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_colour_pictures(tmp_path: Path, mode: str) -> None:
    suffix = ".tif" if mode == "CMYK" else ".png"
    Image.new(mode, (5, 4)).save(tmp_path / f"case{suffix}")
    for read in (read_labels, read_image):
        with pytest.raises(
            RWLossError,
            match=f"expected one channel, got a picture of mode {mode} .*: save it as grey values; "
            "labels may be a palette too",
        ):
            read(tmp_path / f"case{suffix}")


def test_tiff_with_white_as_zero(tmp_path: Path) -> None:
    (tmp_path / "case.tif").write_bytes(tiff_bytes(some_labels((4, 5)), photometric=0))
    with pytest.raises(RWLossError, match="white as zero"):
        read_labels(tmp_path / "case.tif")


def test_tiff_pages_of_two_sizes(tmp_path: Path) -> None:
    first, second = Image.new("L", (4, 4)), Image.new("L", (2, 2))
    first.save(tmp_path / "case.tif", save_all=True, append_images=[second])
    with pytest.raises(RWLossError, match="4 x 4 and, on page 2, 2 x 2"):
        read_labels(tmp_path / "case.tif")


def test_tiff_of_very_many_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwloss.data.readers.picture._MAX_PAGES", 2)
    page = Image.new("L", (4, 4))
    for count in (2, 3):
        page.save(tmp_path / f"{count}.tif", save_all=True, append_images=[page] * (count - 1))
    assert read_labels(tmp_path / "2.tif").labels.shape == (2, 4, 4)
    with pytest.raises(RWLossError, match="more than 2 pages"):
        read_labels(tmp_path / "3.tif")


def test_tiff_pages_in_a_circle(tmp_path: Path) -> None:
    content = bytearray(tiff_bytes(some_labels((4, 5))))
    struct.pack_into("<I", content, 8 + 2 + 10 * 12, 8)
    (tmp_path / "case.tif").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.tif").labels, some_labels((4, 5)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "group4"])
def test_small_compressed_tiff_of_a_huge_picture(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "case.tif"
    Image.new("1" if compression == "group4" else "L", (500, 400)).save(
        path, compression=compression
    )
    assert read_labels(path).labels.shape == (400, 500)
    (directory,) = struct.unpack_from("<I", path.read_bytes(), 4)
    for entry in (0, 1):  # width and height
        patch(path, directory + 2 + 12 * entry + 8, "<I", 40_000)
    tracemalloc.start()
    with pytest.raises(RWLossError, match=r"cut short.*compressed bytes"):
        read_labels(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.parametrize(
    ("fields", "words"),
    [("images=9", "says 9 images"), ("images=2\nchannels=2", "got 2 channels")],
)
def test_imagej_pages_that_are_no_stack(tmp_path: Path, fields: str, words: str) -> None:
    page = Image.new("L", (4, 4))
    description = f"ImageJ=1.53\n{fields}\n"
    page.save(
        tmp_path / "case.tif", save_all=True, append_images=[page], tiffinfo={270: description}
    )
    with pytest.raises(RWLossError, match=words):
        read_labels(tmp_path / "case.tif")


def test_animated_png(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), i) for i in range(3)]
    frames[0].save(tmp_path / "case.png", save_all=True, append_images=frames[1:])
    with pytest.raises(RWLossError, match="animation of 3"):
        read_labels(tmp_path / "case.png")


def test_npz_of_two_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", seg=np.zeros((2, 2)), other=np.zeros((2, 2)))
    with pytest.raises(RWLossError, match=r"expected one array.*got 2 \('seg', 'other'\)"):
        read_labels(tmp_path / "case.npz")


def test_npz_of_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "case.npz", "w"):
        pass
    with pytest.raises(RWLossError, match=r"got 0 \(none\)"):
        read_labels(tmp_path / "case.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_of_other_compressions(tmp_path: Path, compression: int) -> None:
    write(tmp_path / "x.npy", some_labels((4, 5)))
    with zipfile.ZipFile(tmp_path / "case.npz", "w", compression) as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    with pytest.raises(RWLossError, match="not compressed in NumPy's way"):
        read_labels(tmp_path / "case.npz")


def test_npy_header_of_gigabytes(tmp_path: Path) -> None:
    path = write(tmp_path / "case.npy", some_labels((4, 5)))
    patch(path, 6, "<BBI", 2, 0, 2**32 - 1)
    with pytest.raises(RWLossError, match="the header alone has 4294967295"):
        read_labels(path)


def test_png_chunk_of_gigabytes(tmp_path: Path) -> None:
    path = write(tmp_path / "case.png", some_labels((4, 5)))
    patch(path, path.read_bytes().index(b"IDAT") - 4, ">I", 2**31 - 1)
    tracemalloc.start()
    with pytest.raises(RWLossError, match=r"case\.png': it is damaged"):
        read_labels(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_two_arrays_one_after_the_other(tmp_path: Path, suffix: str) -> None:
    with (tmp_path / "x.npy").open("wb") as stream:
        np.save(stream, some_labels((4, 5)))
        np.save(stream, some_labels((4, 5)))
    if suffix == ".npy":
        (tmp_path / "x.npy").rename(tmp_path / "case.npy")
    else:
        with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
            archive.write(tmp_path / "x.npy", "x.npy")
    with pytest.raises(RWLossError, match="148 bytes follow its array"):
        read_labels(tmp_path / f"case{suffix}")


def test_npz_with_a_false_size_in_its_directory(tmp_path: Path) -> None:
    path = write(tmp_path / "case.npz", some_labels((4, 5)))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    for size in (2**31, 10):
        struct.pack_into("<I", content, entry + 24, size)
        path.write_bytes(content)
        with pytest.raises(RWLossError, match=r"case\.npz': it is"):
            read_labels(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_nothing_is_unpickled(tmp_path: Path, suffix: str) -> None:
    array = np.array([[print]], dtype=object)
    path = tmp_path / f"case{suffix}"
    np.save(path, array, allow_pickle=True) if suffix == ".npy" else np.savez(path, array)
    with pytest.raises(RWLossError, match="expected an array of numbers, got dtype object"):
        read_labels(path)


@pytest.mark.parametrize("values", [np.zeros((0, 4), np.uint8), np.zeros((4, 4), "M8[s]")])
def test_arrays_that_are_no_labels(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "case.npy", values)
    with pytest.raises(RWLossError, match=r"holds no voxel|array of numbers"):
        read_labels(tmp_path / "case.npy")


# Damaged, missing and hostile files


def write(path: Path, labels: np.ndarray) -> Path:
    """Labels in the format that the suffix names."""
    if path.name.endswith((".nii", ".nii.gz")):
        return save_nifti(path, labels)
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".npz":
        np.savez_compressed(path, labels)
    elif path.suffix in {".mha", ".nrrd"}:
        sitk = pytest.importorskip("SimpleITK")
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(path), True)
    else:
        Image.fromarray(labels).save(path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"case{suffix}").touch()
    for read in (read_labels, read_image):
        with pytest.raises(RWLossError, match=rf"case{suffix}': it is empty \(0 bytes\)"):
            read(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_file(tmp_path: Path, suffix: str, keep: float) -> None:
    path = write(tmp_path / f"case{suffix}", some_labels((40, 50)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(RWLossError, match=f"cannot read '.*case{suffix}': it is"):
        read_labels(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_foreign_content(tmp_path: Path, suffix: str) -> None:
    if suffix in {".mha", ".nrrd"}:
        pytest.importorskip("SimpleITK")
    for content in (b"x" * 1000, b"\0" * 1000, b"\xff" * 1000, "Straße\n".encode() * 100):
        (tmp_path / f"case{suffix}").write_bytes(content)
        with pytest.raises(RWLossError, match=f"cannot read '.*case{suffix}'"):
            read_labels(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz", ".png"])
def test_one_flipped_bit_never_gives_other_labels(
    tmp_path: Path, suffix: str, inflater: str
) -> None:
    labels = some_labels((20, 30))
    path = write(tmp_path / f"case{suffix}", labels)
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            found = read_labels(path).labels
        except RWLossError:
            continue
        np.testing.assert_array_equal(found, labels, err_msg=f"byte {at}")


def gzipped(tmp_path: Path, labels: np.ndarray) -> tuple[Path, bytes]:
    path = write(tmp_path / "case.nii.gz", labels)
    return path, path.read_bytes()


def test_every_truncation_of_a_compressed_file(tmp_path: Path, inflater: str) -> None:
    path, content = gzipped(tmp_path, some_labels((9, 8, 7)))
    for end in range(1, len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(RWLossError, match=r"case\.nii\.gz': it is"):
            read_labels(path)


def test_what_may_follow_a_compressed_file(tmp_path: Path, inflater: str) -> None:
    labels = some_labels((9, 8, 7))
    path, content = gzipped(tmp_path, labels)
    plain = gzip.decompress(content)
    halves = gzip.compress(plain[:400]) + gzip.compress(plain[400:])
    for whole in (content, content + bytes(512), halves):  # tapes pad, and gzip may go on
        path.write_bytes(whole)
        np.testing.assert_array_equal(read_labels(path).labels, labels)
    path.write_bytes(content + b"anything else")
    with pytest.raises(RWLossError, match="BadGzipFile"):
        read_labels(path)


def test_a_bomb_behind_the_voxels(tmp_path: Path, inflater: str) -> None:
    path, content = gzipped(tmp_path, some_labels((9, 8, 7)))
    path.write_bytes(gzip.compress(gzip.decompress(content) + bytes(30_000_000)))
    tracemalloc.start()
    with pytest.raises(RWLossError, match="holds more than twice as many"):
        read_labels(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_isal_is_used_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    igzip = pytest.importorskip("isal.igzip")
    path, _ = gzipped(tmp_path, some_labels((9, 8, 7)))

    def refuse(path: Path) -> None:
        raise EOFError("asked isal")

    monkeypatch.setattr(igzip, "open", refuse)
    with pytest.raises(RWLossError, match="asked isal"):
        read_labels(path)


def huge(path: Path, lengths: tuple[int, int, int]) -> Path:
    """A small file whose header announces `lengths` (the first two for pictures)."""
    labels = some_labels((4, 5, 6)) if path.suffix not in {".png", ".tif"} else some_labels((4, 5))
    if path.name.endswith(".nii.gz"):
        import gzip

        plain = patch(save_nifti(path.with_name("x.nii"), labels), NIFTI_DIM + 2, "<3h", *lengths)
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".nii":
        patch(save_nifti(path, labels), NIFTI_DIM + 2, "<3h", *lengths)
    elif path.suffix == ".tif":
        path.write_bytes(tiff_bytes(labels, size=lengths[:2]))
    elif path.suffix == ".png":
        content = bytearray(write(path, labels).read_bytes())
        content[16:24] = struct.pack(">II", *lengths[:2])
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
    else:
        content = write(path.with_name("x.npy"), labels).read_bytes()
        wide = content.replace(b"(4, 5, 6), }" + b" " * 20, f"{lengths}, }}".encode().ljust(32))
        assert len(wide) == len(content)
        if path.suffix == ".npy":
            path.write_bytes(wide)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("arr_0.npy", wide)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".png", ".tif", ".npy", ".npz"])
@pytest.mark.parametrize(
    ("lengths", "words"),
    [((30_000, 29_000, 28_000), "more than the limit"), ((30_000, 20_000, 3), "cut short")],
)
def test_huge_header_in_a_tiny_file(
    tmp_path: Path, suffix: str, lengths: tuple[int, int, int], words: str
) -> None:
    path = huge(tmp_path / f"case{suffix}", lengths)
    limit = 1000 if words.startswith("more") else 2**31
    tracemalloc.start()
    with pytest.raises(RWLossError, match=words):
        read_labels(path, max_voxels=limit)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_default_limit_of_voxels(tmp_path: Path) -> None:
    path = huge(tmp_path / "case.nii.gz", (30_000, 29_000, 28_000))
    with pytest.raises(RWLossError, match=r"more than the limit of 2147483648.*max_voxels"):
        read_labels(path)


@pytest.mark.parametrize("lengths", [(-4, 5, 6), (0, 5, 6)])
def test_nifti_of_no_extent(tmp_path: Path, lengths: tuple[int, int, int]) -> None:
    with pytest.raises(RWLossError, match="which holds no voxel"):
        read_labels(huge(tmp_path / "case.nii", lengths))


def test_large_pictures_are_no_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    labels = some_labels((12, 12))
    write(tmp_path / "case.png", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.png").labels, labels)
    write(tmp_path / "case.tif", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.tif").labels, labels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_links_and_pipes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"case{suffix}"
    path.symlink_to(path.name)
    other = tmp_path / f"other{suffix}"
    other.symlink_to(tmp_path / f"third{suffix}")
    (tmp_path / f"third{suffix}").symlink_to(other)
    broken = tmp_path / f"broken{suffix}"
    broken.symlink_to(tmp_path / "gone")
    for link in (path, other, broken):
        for read in (read_labels, read_image):
            with pytest.raises(RWLossError, match="it is a broken link"):
                read(link)
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(RWLossError, match="it is not a file"):
        read_labels(tmp_path / f"pipe{suffix}")


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0.png", "\ud800.png"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(RWLossError, match=r"cannot read '.*\.png'"):
        read_labels(tmp_path / name)


def test_missing_folder_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(RWLossError, match="there is no such file"):
        read_labels(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RWLossError, match="it is not a file"):
        read_labels(tmp_path / "folder.png")
    (tmp_path / "case.jpg").write_bytes(b"x")
    with pytest.raises(RWLossError, match=r"ends with one of \.nii\.gz \.nii \.png"):
        read_labels(tmp_path / "case.jpg")


NAMES = [
    "two words",
    "it's",
    'say "a"',
    "line\nbreak",
    "海馬",
    "a.b.nii.c",
    "[1]*?",
    "-rf",
    "x" * 200,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".png", ".tif", ".npy", ".npz", ".mha"])
def test_odd_names(tmp_path: Path, name: str, suffix: str) -> None:
    labels = some_labels((4, 5))
    path = write(tmp_path / f"{name}{suffix}", labels)
    assert case_name(path) == name
    np.testing.assert_array_equal(np.sort(read_labels(path).labels, None), np.sort(labels, None))
    path.write_bytes(b"")
    with pytest.raises(RWLossError) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["notes.txt", "case", ".nii.gz", "case.gz", ""])
def test_names_of_no_case(name: str) -> None:
    with pytest.raises(RWLossError, match=r"ends with one of \.nii\.gz"):
        case_name(name)


def test_shared_sets_are_readable(shared_data: Callable[[str], Path]) -> None:
    for name, top in (("hippocampus", 2), ("lung_patches", 1), ("hrf_vessels", 1)):
        for path in sorted((shared_data(name) / "labelsTr").iterdir())[:40]:
            assert read_labels(path).labels.max() <= top
    for path in sorted(shared_data("ms_lesions").glob("*/*.nii.gz"))[:4]:
        assert read_image(path).ndim == 3
