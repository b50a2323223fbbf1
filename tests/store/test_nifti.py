"""Arrays as NIfTI: what nibabel alone makes of the files, and what comes back."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from rwloss.errors import RWLossError
from rwloss.store import nifti
from rwloss.store.precision import allowed_error

RNG = np.random.default_rng(7)
# A turn about the third axis, a shear-free tilt and an offset: exact in the file's float32.
AFFINE = np.array([[0, 2, 0, 5], [-1, 0, 0, 6.5], [0, 0, 3, -7], [0, 0, 0, 1]], dtype=float)


def stored(array, ndim, dtype="auto", affine=None, spacing_mm=None):
    """The file as plain nibabel reads it, what we read, and the error that we state."""
    content, error = nifti.encode(array, affine, spacing_mm or (1.0,) * ndim, dtype)
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    back = nifti.decode("f", content, array.shape, has_classes=array.ndim > ndim)
    if array.dtype.kind == "f":
        back = back.astype(np.float32, copy=False)  # zeros have no factor
    return image, back, error


def decoded(content, shape=(4, 5, 6)):
    return nifti.decode("f", content, shape, has_classes=False)


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 0.3, 1.0, 1.7, 19.0])
def test_values_as_scaled_int16(shape, scale):
    values = (RNG.uniform(-1, 1, shape) * scale).astype(np.float32)
    values.flat[[0, 1, 2]] = 0.0, -scale, scale
    image, back, error = stored(values, len(shape))
    assert image.get_data_dtype() == np.int16
    assert back.dtype == np.float32
    assert back.shape == shape
    assert np.abs(back.astype(float) - values).max() == pytest.approx(error, rel=1e-6)
    assert error <= allowed_error(scale)
    assert back.flat[0] == 0.0
    assert np.all(np.sign(back[back != 0]) == np.sign(values[back != 0]))
    np.testing.assert_allclose(image.get_fdata(), back, rtol=1e-6, atol=0)


@pytest.mark.parametrize("largest", [1.0, 2.0**-11, 16.0, 1 / 3, 32767 / 2048, 15.9995])
def test_the_ends_of_the_range(largest):
    values = np.array([[largest, -largest, 0.0, largest / 2]], dtype=np.float32)
    _, back, error = stored(values, 2)
    assert error <= 3e-4
    np.testing.assert_allclose(back, values, rtol=0, atol=error)


@pytest.mark.parametrize("scale", [20.0, 300.0, 1e9])
def test_a_wide_range_goes_to_float32_and_is_exact(scale):
    values = (RNG.uniform(-1, 1, (3, 4, 5)) * scale).astype(np.float32)
    values.flat[0] = scale
    image, back, error = stored(values, 3)
    assert image.get_data_dtype() == np.float32
    assert error == 0.0
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(image.get_fdata(), values)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0, 1e9])
def test_int16_where_it_is_asked_for(scale):
    values = (RNG.uniform(-1, 1, (3, 4, 5)) * scale).astype(np.float32)
    values.flat[[0, 1]] = scale, 0.0
    image, back, error = stored(values, 3, "int16")
    assert image.get_data_dtype() == np.int16
    assert np.abs(back.astype(float) - values).max() == pytest.approx(error, rel=1e-3)
    assert error <= scale * 2.0**-11
    assert back.flat[1] == 0.0
    assert np.all(back * values >= 0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_float32_where_it_is_asked_for(scale):
    values = (RNG.uniform(-1, 1, (3, 4, 5)) * scale).astype(np.float32)
    image, back, error = stored(values, 3, "float32")
    assert image.get_data_dtype() == np.float32
    assert error == 0.0
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("dtype", nifti.DTYPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_float64_values_state_the_whole_error(dtype, scale):
    values = RNG.uniform(-1, 1, (3, 4, 5)) * scale
    _, back, error = stored(values, 3, dtype)
    assert back.dtype == np.float32
    assert error > 0
    assert np.abs(back - values).max() == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 4, 5, 6), (2, 1, 1), (2, 1, 1, 1), (5, 7, 1, 1)])
@pytest.mark.parametrize("dtype", nifti.DTYPES)
def test_classes_are_the_fourth_axis(shape, dtype):
    values = RNG.uniform(-1, 1, shape).astype(np.float32)
    image, back, error = stored(values, len(shape) - 1, dtype)
    assert image.shape == (*shape[1:], *[1] * (4 - len(shape)), shape[0])
    assert back.shape == shape
    np.testing.assert_allclose(back, values, rtol=0, atol=max(error, 1e-12))
    for k in range(shape[0]):
        seen = image.get_fdata()[..., k].reshape(shape[1:])
        np.testing.assert_allclose(seen, back[k], rtol=1e-6, atol=0)


@pytest.mark.parametrize("order", ["C", "F", "strided", "backwards"])
@pytest.mark.parametrize("dtype", nifti.DTYPES)
def test_order_in_memory_does_not_matter(order, dtype):
    plain = RNG.uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    values = {
        "C": plain,
        "F": np.asfortranarray(plain),
        "strided": np.repeat(plain, 2, axis=1)[:, ::2],
        "backwards": plain[::-1].copy()[::-1],
    }[order]
    assert nifti.encode(values, AFFINE, (1.0,) * 3, dtype) == nifti.encode(
        plain, AFFINE, (1.0,) * 3, dtype
    )


def test_more_voxels_than_are_packed_at_a_time():
    values = RNG.uniform(-1, 1, (50, 50, 50)).astype(np.float32)
    values[-1, -1, -1] = 7.0
    _, back, error = stored(values, 3)
    assert np.abs(back - values).max() == error <= 3e-4
    values[-1, -1, -1] = 300.0  # known only at the end
    assert stored(values, 3)[2] == 0.0


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint8", (0, 1, 255)),
        ("int16", (-1, 0, 300)),
        ("int16", (-1, 32767)),
        ("int32", (-1, 0, 40000)),
    ],
)
@pytest.mark.parametrize("order", "CF")
def test_labels_stay_whole(dtype, values, order):
    cycle = itertools.cycle(values)
    labels = np.array([next(cycle) for _ in range(60)], dtype).reshape(3, 4, 5, order=order)
    image, back, error = stored(labels, 3)
    assert image.get_data_dtype() == labels.dtype
    assert error == 0.0
    assert back.dtype.kind in "iu"
    np.testing.assert_array_equal(back, labels)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)


@pytest.mark.parametrize("shape", [(4, 5, 6), (3, 4, 5, 6)])
def test_the_affine_is_kept(shape):
    image, _, _ = stored(np.zeros(shape, np.float32), 3, affine=AFFINE, spacing_mm=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.header.get_zooms()[:3] == (1.0, 2.0, 3.0)
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("spacing_mm", [(0.5, 2.0), (0.5, 2.0, 3.25)])
@pytest.mark.parametrize("classes", [False, True])
def test_without_an_affine_the_spacing_is_in_the_header(spacing_mm, classes):
    shape = (4, 5, 6)[: len(spacing_mm)]
    values = np.zeros((3, *shape) if classes else shape, np.float32)
    image, _, _ = stored(values, len(shape), spacing_mm=spacing_mm)
    assert image.header.get_zooms()[: len(shape)] == spacing_mm
    np.testing.assert_array_equal(np.diag(image.affine)[: len(shape)], spacing_mm)


@pytest.mark.parametrize("dtype", nifti.DTYPES)
def test_zeros(dtype):
    image, back, error = stored(np.zeros((2, 3), np.float32), 2, dtype)
    assert error == 0.0
    assert not back.any()
    assert not image.get_fdata().any()


def test_same_values_same_bytes():
    values = RNG.uniform(-1, 1, (4, 5, 6))
    files = {nifti.encode(values, AFFINE, (1.0,) * 3, "auto") for _ in range(2)}
    assert len(files) == 1


def test_either_gzip_reads_what_the_other_wrote(monkeypatch):
    values = RNG.uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    written = nifti.encode(values, None, (1.0,) * 3, "auto")[0]
    read = decoded(written)
    monkeypatch.setattr(nifti, "_gzip", lambda: gzip)
    assert nifti.gzip_name() == "zlib"
    np.testing.assert_array_equal(decoded(written), read)
    plain = nifti.encode(values, None, (1.0,) * 3, "auto")[0]
    assert gzip.decompress(plain) == gzip.decompress(written)
    monkeypatch.undo()
    np.testing.assert_array_equal(decoded(plain), read)


# --- Damage


@pytest.mark.parametrize("plain", [False, True])
def test_no_flipped_byte_gives_other_values(plain, monkeypatch):
    if plain:
        monkeypatch.setattr(nifti, "_gzip", lambda: gzip)
    values = RNG.uniform(-1, 1, (5, 4, 3)).astype(np.float32)
    content, _ = nifti.encode(values, None, (1.0,) * 3, "auto")
    whole = decoded(content, (5, 4, 3))
    refused = 0
    for at in range(len(content)):
        damaged = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        try:
            found = decoded(damaged, (5, 4, 3))
        except RWLossError:
            refused += 1
        else:  # the header of gzip has bytes that mean nothing
            np.testing.assert_array_equal(found, whole)
    assert refused >= len(content) - 10


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_named(share):
    content, _ = nifti.encode(RNG.uniform(-1, 1, (9, 9, 9)), None, (1.0,) * 3, "auto")
    cut = content[: int(share * len(content))]
    with pytest.raises(RWLossError, match=r"f can't be read: .*precompute it again"):
        decoded(cut, (9, 9, 9))


def test_what_is_no_nifti_is_named():
    with pytest.raises(RWLossError, match=r"f can't be read: .*precompute it again"):
        decoded(gzip.compress(b"a thesis"))


def test_another_shape_is_named():
    content, _ = nifti.encode(np.zeros((4, 5, 6)), None, (1.0,) * 3, "auto")
    with pytest.raises(RWLossError, match=r"f has shape \(4, 5, 6\), the manifest says \(4, 5, 7"):
        decoded(content, (4, 5, 7))


@pytest.mark.parametrize("dtype", ["auto", "int16", "float32"])
def test_values_beyond_float32_are_refused(dtype):
    with pytest.raises(RWLossError, match=r"values up to 1e\+300, beyond float32"):
        nifti.encode(np.full((3, 3), -1e300), None, (1.0, 1.0), dtype)


def test_an_axis_that_nifti_has_no_room_for_is_refused():
    with pytest.raises(RWLossError, match=r"up to 32767 voxels, got \(2, 40000\): use .* zarr"):
        nifti.encode(np.zeros((2, 40000), np.uint8), None, (1.0, 1.0), "auto")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_are_those_of_nibabel(dtype, order):
    values = np.asarray(RNG.uniform(0, 100, (5, 4, 3)), dtype, order=order)
    affine = np.array([[0, 2.0, 0, -7], [-1.5, 0, 0, 3], [0, 0, 2.5, 1], [0, 0, 0, 1]])
    content, _ = nifti.encode(values, affine, (1.5, 2.0, 2.5), "float32")
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    assert gzip.decompress(content) == image.to_bytes()
