import nibabel
import numpy as np
import pytest

from rwloss.errors import RWLossError
from rwloss.store import nifti

RNG = np.random.default_rng(7)
AFFINE = np.array([[0, 2, 0, 5], [-1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], dtype=float)


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 19.0])
def test_values_within_3e_4_as_scaled_int16(tmp_path, shape, scale):
    values = (RNG.uniform(-1, 1, shape) * scale).astype(np.float32)
    values.flat[0] = 0.0
    values.flat[1] = -scale
    path = tmp_path / "v.nii.gz"
    error = nifti.write(path, values, AFFINE, (1.0,) * len(shape))
    back = nifti.read_values(path, ndim=len(shape), classes=False)
    assert nibabel.load(path).get_data_dtype() == np.int16
    assert back.dtype == np.float32
    assert back.shape == shape
    assert np.abs(back.astype(float) - values).max() == error <= 3e-4
    assert back.flat[0] == 0.0
    assert np.all(np.sign(back[back != 0]) == np.sign(values[back != 0]))


def test_a_wide_range_goes_to_float32_and_is_exact(tmp_path):
    values = RNG.uniform(-300, 300, (3, 4, 5)).astype(np.float32)
    path = tmp_path / "v.nii.gz"
    assert nifti.write(path, values, None, (1.0, 1.0, 2.5)) == 0.0
    assert nibabel.load(path).get_data_dtype() == np.float32
    assert np.array_equal(nifti.read_values(path, ndim=3, classes=False), values)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 4, 5, 6)])
def test_classes_are_the_fourth_axis(tmp_path, shape):
    values = RNG.uniform(-1, 1, shape).astype(np.float32)
    path = tmp_path / "v.nii.gz"
    ndim = len(shape) - 1
    nifti.write(path, values, None, (1.0,) * ndim)
    assert nibabel.load(path).shape[3] == 3
    back = nifti.read_values(path, ndim=ndim, classes=True)
    assert back.shape == shape
    assert np.allclose(back, values, atol=3e-4)


def test_labels_stay_whole_and_the_affine_is_kept(tmp_path):
    labels = RNG.integers(-1, 4, (4, 5, 6)).astype(np.int16)
    path = tmp_path / "l.nii.gz"
    nifti.write(path, labels, AFFINE, (1.0, 2.0, 3.0))
    assert np.array_equal(nifti.read_labels(path), labels)
    assert np.array_equal(nibabel.load(path).affine, AFFINE)


def test_without_an_affine_the_spacing_is_in_the_header(tmp_path):
    path = tmp_path / "l.nii.gz"
    nifti.write(path, np.zeros((4, 5), np.uint8), None, (0.5, 2.0))
    assert nibabel.load(path).header.get_zooms() == (0.5, 2.0)


def test_zeros(tmp_path):
    path = tmp_path / "v.nii.gz"
    assert nifti.write(path, np.zeros((2, 3), np.float32), None, (1.0, 1.0)) == 0.0
    assert not nifti.read_values(path, ndim=2, classes=False).any()


def test_same_values_same_bytes(tmp_path):
    values = RNG.uniform(-1, 1, (4, 5, 6))
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(tmp_path / name, values, AFFINE, (1.0, 1.0, 1.0))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "v.nii.gz"
    nifti.write(path, RNG.uniform(-1, 1, (9, 9, 9)), None, (1.0, 1.0, 1.0))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RWLossError, match=r"v\.nii\.gz can't be read: .*precompute it again"):
        nifti.read_values(path, ndim=3, classes=False)
