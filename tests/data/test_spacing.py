"""Spacings: from affines in any unit, and axes that are not at right angles."""

import math
import struct

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from rwloss import RWLossError
from rwloss.data import read_labels
from rwloss.data.spacing import MAX_COSINE, mm_per_unit, spacing_from_affine

SPACING = (0.8, 1.0, 2.5)


def turned(degrees=0.0, shear=0.0):
    """An affine (4 4) of SPACING, turned about z, whose z leans over x by a cosine of `shear`."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    columns = np.vstack([turn, [0, 0, 1]])
    columns[:, 2] = shear * columns[:, 0] + math.sqrt(1 - shear**2) * columns[:, 2]
    affine = np.eye(4)
    affine[:3] = np.column_stack([columns * SPACING, [10, -20, 30]])
    return affine


def test_lengths_of_the_columns_in_mm():
    for affine in (turned(), turned(30), np.diag([-1, -1, 1, 1]) @ turned(90), turned(12)[:, :]):
        assert spacing_from_affine(affine) == pytest.approx(SPACING)
    assert spacing_from_affine(turned(30), unit="micron") == pytest.approx((8e-4, 1e-3, 2.5e-3))
    assert spacing_from_affine(turned(30), shape=(4, 5)) == pytest.approx(SPACING[:2])
    assert spacing_from_affine(np.diag([2, 3, 1])) == (2, 3)


def test_units_of_names_and_of_nifti_codes():
    factors = {"mm": 1, " MM ": 1, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "microns": 1e-3, "nm": 1e-6}
    factors |= {"micrometer": 1e-3, "cm": 10, "m": 1000, "meters": 1000, "pm": 1e-9}
    codes = {0: 1, 1: 1000, 2: 1, 3: 1e-3, 2 + 8: 1, 3 + 16: 1e-3}  # with seconds, milliseconds
    for unit, factor in (factors | codes).items():
        assert mm_per_unit(unit) == factor, unit
    for unit in ("", "pixel", "sec", 5, 7):
        with pytest.raises(RWLossError, match="unknown unit of length"):
            mm_per_unit(unit)


@pytest.mark.parametrize("degrees", [0, 30])
def test_sheared_axes_are_refused(degrees, tmp_path):
    for shear in (0, 1e-6, MAX_COSINE * 0.99):
        assert spacing_from_affine(turned(degrees, shear)) == pytest.approx(SPACING, rel=1e-6)
    for shear in (MAX_COSINE * 1.01, 0.26, -0.26):
        with pytest.raises(RWLossError, match=r"axes 0 and 2 meet at .* resample first"):
            spacing_from_affine(turned(degrees, shear))
    # No distance goes along an axis of one voxel, so it may lean.
    assert spacing_from_affine(turned(degrees, 0.26), shape=(4, 5, 1)) == pytest.approx(SPACING)


def test_every_reader_refuses_a_tilted_gantry(tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    for shear, name in ((1e-5, "straight.nii"), (math.sin(math.radians(15)), "tilted.nii")):
        Nifti1Image(labels, turned(shear=shear)).to_filename(tmp_path / name)
    assert read_labels(tmp_path / "straight.nii").spacing_mm == pytest.approx(SPACING)
    with pytest.raises(RWLossError, match=r"tilted\.nii.*75\.00 degrees.*resample first"):
        read_labels(tmp_path / "tilted.nii")
    Nifti1Image(labels[..., :1], turned(shear=0.26)).to_filename(tmp_path / "one_slice.nii")
    assert read_labels(tmp_path / "one_slice.nii").spacing_mm == pytest.approx(SPACING)


def test_a_spacing_that_is_not_that_of_the_affine(tmp_path):
    image = Nifti1Image(np.zeros((4, 5, 6), np.uint8), turned())
    image.header["pixdim"][3] = 2.0
    image.to_filename(tmp_path / "case.nii")
    header = bytearray((tmp_path / "case.nii").read_bytes())
    struct.pack_into("<f", header, 76 + 3 * 4, 2.0)
    (tmp_path / "case.nii").write_bytes(header)
    with pytest.raises(RWLossError, match=r"its spacing is \(0.8, 1.0, 2.0\) mm, and that of"):
        read_labels(tmp_path / "case.nii")


def test_affines_that_are_none():
    for number in (np.nan, np.inf, 1e38, 0):
        affine = turned()
        affine[0, 0] = number
        with pytest.raises(RWLossError, match="finite numbers and 3 independent axes"):
            spacing_from_affine(affine)
