"""Files that are not one label map or image: each is refused with the reason."""

import itertools
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from written_files import (
    NIFTI_MAGIC,
    NIFTI_OFFSET,
    NIFTI_PIXDIM,
    NIFTI_ROWS,
    NIFTI_SLOPE,
    NIFTI_UNITS,
    huge,
    patch,
    save_nifti,
    some_labels,
    tiff_bytes,
    write,
)

from rwloss.data import SUFFIXES, case_name, read_image, read_labels
from rwloss.errors import RWLossError

FLAT, DEEP = some_labels((4, 5)), some_labels((4, 5, 6))
NAN, INF = float("nan"), float("inf")
Make = Callable[[Path], Any]


def nifti(at, code, *values, labels=DEEP):
    """A NIfTI file with another number in its header."""
    return lambda path: patch(save_nifti(path, labels), at, code, *values)


def array(values):
    return lambda path: np.save(path, values) if path.suffix == ".npy" else np.savez(path, values)


def pages(*sizes, text=""):
    """A TIFF of such pages, or an animated PNG."""
    first, *others = (Image.new("L", size, number) for number, size in enumerate(sizes))
    options = {"tiffinfo": {270: text}} if text else {}
    return lambda path: first.save(path, save_all=True, append_images=others, **options)


def voxels_of(dtype):
    return lambda path: Nifti1Image(np.zeros((3, 3, 3), dtype), np.eye(4)).to_filename(path)


def vectors(path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.zeros((3, 4, 2), np.uint8), isVector=True)
    sitk.WriteImage(image, str(path))


def no_offset_and_magic_of_two_files(path):
    patch(nifti(NIFTI_OFFSET, "<f", 0.0)(path), NIFTI_MAGIC, "<4s", b"ni1\0")


def archive(compression=zipfile.ZIP_STORED, arrays=1, members=1):
    """An .npz whose member holds so many arrays one after the other."""

    def make(path):
        with zipfile.ZipFile(path, "w", compression) as opened:
            for _ in range(members):
                with opened.open("x.npy", "w") as stream:
                    for _ in range(arrays):
                        np.save(stream, FLAT)

    return make


def two_arrays(path):
    with path.open("wb") as stream:
        np.save(stream, FLAT)
        np.save(stream, FLAT)


def false_size(size):
    """An .npz whose directory gives its array another size."""

    def make(path):
        content = bytearray(write(path, FLAT).read_bytes())
        struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, size)
        path.write_bytes(content)

    return make


REFUSED: dict[str, tuple[str, Make, str]] = {
    "unit": (".nii", nifti(NIFTI_UNITS, "<B", 7), "unknown unit of length 'of code 7'"),
    "scale": (".nii", nifti(NIFTI_SLOPE, "<2f", 0.5, 0.0), r"expected whole numbers, got 0\.5"),
    "shear": (
        ".nii",
        nifti(NIFTI_ROWS, "<12f", 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0),
        "3 independent axes",
    ),
    "zero sform": (".nii", nifti(NIFTI_ROWS, "<12f", *[0] * 12), "3 independent axes"),
    "two files": (".nii", no_offset_and_magic_of_two_files, "in another file"),
    "axis of -4": (".nii", lambda path: huge(path, (-4, 5, 6)), "which holds no voxel"),
    "axis of 0": (".nii", lambda path: huge(path, (0, 5, 6)), "which holds no voxel"),
    "default limit": (
        ".nii.gz",
        lambda path: huge(path, (30_000, 29_000, 28_000)),
        r"more than the limit of 2147483648.*max_voxels",
    ),
    "colour": (".nii", voxels_of([("R", "u1"), ("G", "u1"), ("B", "u1")]), "one number per voxel"),
    "complex": (".nii", voxels_of(np.complex64), "expected one number per voxel"),
    "vectors": (".nrrd", vectors, "expected one number per voxel, got 2"),
    "fractions": (
        ".npy",
        array(np.array([[0, 1, 1], [2, 0.25, 0.5]], np.float32)),
        r"got 0\.25 at voxel \(1, 1\) \(2 such voxels\)",
    ),
    "1e300": (".npy", array(np.full((3, 4), 1e300)), "expected labels"),
    "no voxel": (".npy", array(np.zeros((0, 4), np.uint8)), "holds no voxel"),
    "dates": (".npy", array(np.zeros((4, 4), "M8[s]")), "array of numbers"),
    "pickle": (".npy", array(np.array([[print]])), "array of numbers, got dtype object"),
    "pickle in npz": (".npz", array(np.array([[print]])), "array of numbers, got dtype object"),
    "gigabytes of header": (
        ".npy",
        lambda path: patch(write(path, FLAT), 6, "<BBI", 2, 0, 2**32 - 1),
        "the header alone has 4294967295",
    ),
    "two arrays": (".npy", two_arrays, "148 bytes follow its array"),
    "two arrays in npz": (".npz", archive(arrays=2), "148 bytes follow its array"),
    "two members": (
        ".npz",
        lambda path: np.savez(path, seg=FLAT, other=FLAT),
        r"expected one array.*got 2 \('seg', 'other'\)",
    ),
    "no member": (".npz", archive(members=0), r"got 0 \(none\)"),
    "bzip2": (".npz", archive(zipfile.ZIP_BZIP2), "not compressed in NumPy's way"),
    "lzma": (".npz", archive(zipfile.ZIP_LZMA), "not compressed in NumPy's way"),
    "false size": (".npz", false_size(2**31), r"case\.npz': it is"),
    "false small size": (".npz", false_size(10), r"case\.npz': it is"),
    "white is zero": (
        ".tif",
        lambda path: path.write_bytes(tiff_bytes(FLAT, photometric=0)),
        "white as zero",
    ),
    "two sizes": (".tif", pages((4, 4), (2, 2)), "4 x 4 and, on page 2, 2 x 2"),
    "too few pages": (".tif", pages((4, 4), text="ImageJ=1.53\nimages=9\n"), "says 9 images"),
    "two channels": (
        ".tif",
        pages((4, 4), (4, 4), text="ImageJ=1.53\nimages=2\nchannels=2\n"),
        "got 2 channels",
    ),
    "animation": (".png", pages((4, 4), (4, 4), (4, 4)), "animation of 3"),
}
REFUSED |= {
    f"spacing of {bad} on {labels.ndim} axes": (
        ".nii",
        nifti(NIFTI_PIXDIM + 8, "<f", bad, labels=labels),
        r"case\.nii.*spacing.*above zero",
    )
    for bad, labels in itertools.product([0.0, -0.8, NAN, INF], [FLAT, DEEP])
}
REFUSED |= {
    f"spacing of {length}": (
        ".nii",
        nifti(NIFTI_PIXDIM + 8, "<f", length),
        r"from 1e-09 to 1e\+09 mm",
    )
    for length in (1e-30, 1e30)
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path, what):
    suffix, make, words = REFUSED[what]
    path = tmp_path / f"case{suffix}"
    make(path)
    with pytest.raises(RWLossError, match=words) as caught:
        read_labels(path)
    assert path.name in str(caught.value)


def test_image_beyond_float32(tmp_path):
    np.save(tmp_path / "case.npy", np.full((3, 4), 1e300))
    with pytest.raises(RWLossError, match=r"1e\+300, beyond float32"):
        read_image(tmp_path / "case.npy")


def test_given_spacing_that_cannot_be(tmp_path):
    path = save_nifti(tmp_path / "case.nii", DEEP)
    assert read_labels(path, spacing_mm=[0.8, 1, 2.5]).spacing_mm == (0.8, 1.0, 2.5)
    refused = dict.fromkeys([(1.0,), (1.0, 1.0, 1.0, 1.0)], "expected 3 lengths")
    refused |= dict.fromkeys([(1.0, 1.0, bad) for bad in (0.0, -1.0, NAN, INF)], "above zero")
    refused |= {(1, 1, 1): r"carries the spacing \(0\.8, 1\.0, 2\.5\) mm.*\(1, 1"}
    for spacing_mm, words in refused.items():
        with pytest.raises(RWLossError, match=words):
            read_labels(path, spacing_mm=spacing_mm)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 6, 2), (4, 5, 6, 1, 1)])
def test_other_numbers_of_axes(tmp_path, shape):
    path = save_nifti(tmp_path / "case.nii.gz", some_labels(shape))
    for read in (read_labels, read_image):
        with pytest.raises(RWLossError, match=f"expected 2 or 3 axes, got {len(shape)}"):
            read(path)
    np.save(tmp_path / "case.npy", np.zeros(shape, np.uint8))
    with pytest.raises(RWLossError, match=f"got {len(shape)}"):
        read_labels(tmp_path / "case.npy")


@pytest.mark.parametrize("suffix", [".npy", ".nii.gz", ".tif"])
def test_not_finite(tmp_path, suffix):
    for bad in (NAN, INF, -INF):
        values = np.zeros((3, 4), np.float32)
        values[1, 2] = bad
        path = write(tmp_path / f"case{suffix}", values)
        for read in (read_labels, read_image):
            with pytest.raises(RWLossError, match=rf"got {bad} at voxel \(1, 2\) \(1 such"):
                read(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_colour_pictures(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    Image.new(mode, (5, 4)).save(tmp_path / f"case{suffix}")
    for read in (read_labels, read_image):
        with pytest.raises(
            RWLossError,
            match=f"expected one channel, got a picture of mode {mode} .*: save it as gray values, "
            "one file per channel; labels may also be a palette",
        ):
            read(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"case{suffix}").touch()
    for read in (read_labels, read_image):
        with pytest.raises(RWLossError, match=rf"case{suffix}': it is empty \(0 bytes\)"):
            read(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_file(tmp_path, suffix):
    content = write(path := tmp_path / f"case{suffix}", some_labels((40, 50))).read_bytes()
    for keep in (0.02, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(RWLossError, match=f"cannot read '.*case{suffix}': it is"):
            read_labels(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_foreign_content(tmp_path, suffix):
    if suffix in {".mha", ".nrrd"}:
        pytest.importorskip("SimpleITK")
    for content in (b"x" * 1000, b"\0" * 1000, b"\xff" * 1000, "Straße\n".encode() * 100):
        (tmp_path / f"case{suffix}").write_bytes(content)
        with pytest.raises(RWLossError, match=f"cannot read '.*case{suffix}'"):
            read_labels(tmp_path / f"case{suffix}")


def test_links_and_pipes(tmp_path):
    for suffix in SUFFIXES:
        loop, circle, broken = (tmp_path / f"{name}{suffix}" for name in "lcb")
        loop.symlink_to(loop.name)
        circle.symlink_to(tmp_path / f"third{suffix}")
        (tmp_path / f"third{suffix}").symlink_to(circle)
        broken.symlink_to(tmp_path / "gone")
        for link, read in itertools.product((loop, circle, broken), (read_labels, read_image)):
            with pytest.raises(RWLossError, match="it is a broken link"):
                read(link)
        os.mkfifo(tmp_path / f"pipe{suffix}")
        with pytest.raises(RWLossError, match="it is not a file"):
            read_labels(tmp_path / f"pipe{suffix}")


def test_names_that_no_file_can_have(tmp_path):
    for name in ("x" * 5000 + ".png", "a\0.png", "\ud800.png"):
        with pytest.raises(RWLossError, match=r"cannot read '.*\.png'"):
            read_labels(tmp_path / name)


def test_missing_folder_and_unknown_suffix(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "case.jpg").write_bytes(b"x")
    refused = {"nowhere.png": "there is no such file", "folder.png": "it is not a file"}
    for name, words in (refused | {"case.jpg": r"ends with one of \.nii\.gz \.nii \.png"}).items():
        with pytest.raises(RWLossError, match=words):
            read_labels(tmp_path / name)
    for name in ("notes.txt", "case", ".nii.gz", "case.gz", ""):
        with pytest.raises(RWLossError, match=r"ends with one of \.nii\.gz"):
            case_name(name)
