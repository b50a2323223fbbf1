"""Headers of NIfTI files: units, scales, places, byte orders, and damaged ones."""

import gzip
import itertools
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from written_files import (
    NIFTI_DIM,
    NIFTI_OFFSET,
    NIFTI_QFORM,
    NIFTI_QUATERNION,
    NIFTI_ROWS,
    SPACING,
    patch,
    save_nifti,
    some_labels,
)

from rwloss.data import read_image, read_labels
from rwloss.errors import RWLossError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", ["u1", "i2"])
def test_labels_that_nibabel_scaled_are_whole_again(tmp_path, dtype):
    labels = some_labels((4, 5, 6), np.float64)
    image = Nifti1Image(labels, np.eye(4))
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / "case.nii.gz")
    stored = np.asanyarray(nib.load(tmp_path / "case.nii.gz").dataobj)
    assert not np.array_equal(stored, labels)
    found = read_labels(tmp_path / "case.nii.gz").labels
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == np.uint8


def test_scaled_labels_miss_by_up_to_half_a_step(tmp_path):
    """Whole numbers that were stored scaled are read; real fractions are not rounded away."""
    labels = np.tile(np.arange(13), (4, 4, 1))
    for step in (12 / 255, 12 / 4095, 0.4, 0.7):
        image = Nifti1Image(np.round(labels / step).astype(np.uint16), np.eye(4))
        image.header.set_slope_inter(step, 0)
        image.to_filename(tmp_path / "case.nii")
        np.testing.assert_array_equal(read_labels(tmp_path / "case.nii").labels, labels, str(step))
    for step, codes in ((0.4, [0, 2, 3]), (0.5, [0, 1]), (1.5, [0, 1]), (2.5, [0, 1]), (0.25, [3])):
        image = Nifti1Image(np.full((2, 2, len(codes)), codes, np.uint8), np.eye(4))
        image.header.set_slope_inter(step, 0)
        image.to_filename(tmp_path / "case.nii")
        with pytest.raises(RWLossError, match=r"expected whole numbers, got .*nearest neighbor"):
            read_labels(tmp_path / "case.nii")


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001)])
def test_units_become_millimetres(tmp_path, unit, factor):
    image = Nifti1Image(some_labels((4, 5, 6)), np.diag([*SPACING, 1.0]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "case.nii")
    volume = read_labels(tmp_path / "case.nii")
    assert volume.spacing_mm == pytest.approx([length * factor for length in SPACING])
    expected = np.diag([*np.multiply(SPACING, factor), 1])
    np.testing.assert_allclose(np.asarray(volume.affine), expected, rtol=1e-6)


def test_big_endian_nifti(tmp_path):
    for dtype in (">i2", ">f4"):
        labels = some_labels((4, 5, 6), dtype)
        header = nib.Nifti1Header(endianness=">")
        header.set_data_dtype(dtype)
        Nifti1Image(labels, np.eye(4), header).to_filename(tmp_path / "case.nii.gz")
        volume = read_labels(tmp_path / "case.nii.gz")
        np.testing.assert_array_equal(volume.labels, labels)
        assert volume.labels.dtype.isnative
        assert volume.spacing_mm == (1.0, 1.0, 1.0)


def test_fourth_axis_of_one_is_dropped(tmp_path):
    labels = some_labels((4, 5, 6, 1))
    volume = read_labels(save_nifti(tmp_path / "case.nii", labels))
    np.testing.assert_array_equal(volume.labels, labels[..., 0])
    assert volume.spacing_mm == SPACING


def test_sform_of_no_numbers(tmp_path):
    for bad, row, column in itertools.product([NAN, INF, -INF, 1e38], range(3), range(4)):
        path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
        patch(path, NIFTI_ROWS + 16 * row + 4 * column, "<f", bad)
        if column == 3 and bad == 1e38:  # far away, but a place
            assert read_labels(path).labels.shape == (4, 5, 6)
            continue
        with pytest.raises(RWLossError, match=r"case\.nii.*affine of finite numb.*sform or qform"):
            read_labels(path)
        assert read_image(path).shape == (4, 5, 6)


def test_qform_of_no_rotation(tmp_path):
    for bad, at in itertools.product([NAN, INF, 2.0], range(6)):
        path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
        patch(path, NIFTI_QFORM, "<2h", 1, 0)
        assert read_labels(path).spacing_mm == SPACING
        patch(path, NIFTI_QUATERNION + 4 * at, "<f", bad)
        if at >= 3 and bad == 2:  # a shift, not a part of the rotation
            affine = read_labels(path).affine
            assert affine is not None
            assert affine[at - 3, 3] == 2
            continue
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
def test_voxels_that_begin_elsewhere(tmp_path, offset, words, suffix):
    path = save_nifti(tmp_path / "case.nii", some_labels((4, 5, 6)))
    patch(path, NIFTI_OFFSET, "<f", offset)
    if suffix == ".nii.gz":
        path = path.rename(path.with_name("plain"))
        (tmp_path / "case.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(RWLossError, match=words):
        read_labels(tmp_path / f"case{suffix}")


@pytest.mark.parametrize("size", [16, 2**31 - 16, -16, 0])
def test_extensions_are_skipped(tmp_path, size):
    labels = some_labels((4, 5, 6))
    image = Nifti1Image(labels, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of some length"))
    image.to_filename(tmp_path / "case.nii")
    patch(tmp_path / "case.nii", 352, "<i", size)
    np.testing.assert_array_equal(read_labels(tmp_path / "case.nii").labels, labels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_announces_less_than_the_file_holds(tmp_path, suffix):
    labels = some_labels((48, 48, 48))
    whole = save_nifti(tmp_path / "whole.nii", labels).read_bytes()
    pack = partial(gzip.compress, compresslevel=1) if suffix == ".nii.gz" else bytes
    path = tmp_path / f"case{suffix}"
    path.write_bytes(pack(whole + bytes(512)))
    np.testing.assert_array_equal(read_labels(path).labels, labels)
    patch(tmp_path / "whole.nii", NIFTI_DIM + 6, "<h", 16)
    path.write_bytes(pack((tmp_path / "whole.nii").read_bytes()))
    with pytest.raises(RWLossError, match="holds more than twice as many"):
        read_labels(path)


@pytest.mark.parametrize("order", "<>")
def test_length_and_axes_of_different_byte_orders(tmp_path, order):
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype("u1")
    Nifti1Image(some_labels((4, 5, 6)), np.eye(4), header).to_filename(tmp_path / "case.nii")
    assert read_labels(tmp_path / "case.nii").labels.shape == (4, 5, 6)
    patch(tmp_path / "case.nii", NIFTI_DIM, {"<": ">h", ">": "<h"}[order], 3)
    with pytest.raises(RWLossError, match="announces 768 axes"):
        read_labels(tmp_path / "case.nii")
