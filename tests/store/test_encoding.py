"""Arrays as NIfTI and as zarr: what nibabel and zarr alone make of them, and what comes back."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest
from encoded import AFFINE, RNG, decoded, in_memory, nifti, random, tree

from rwloss.errors import RWLossError
from rwloss.store import encoding
from rwloss.store.encoding import (
    DTYPES,
    MAX_ERROR,
    allowed_error,
    as_float32,
    decode_zarr,
    encode_nifti,
    encode_zarr,
)

zarr = pytest.importorskip("zarr")


def test_maps_below_one_are_stored_in_proportion():
    for largest, allowed in [
        (1e6, 3e-4), (1.5, 3e-4), (1.0, 3e-4), (0.75, 3e-4), (0.5, 1.5e-4), (0.26, 1.5e-4),
        (0.25, 0.75e-4), (2.0**-40, 3e-4 * 2.0**-40), (0.0, 0.0),
    ]:  # fmt: skip
        assert allowed_error(largest) == pytest.approx(allowed, rel=1e-12), largest
        assert allowed_error(largest) <= MAX_ERROR


def test_float32_and_its_error():
    for values in (np.linspace(-3, 3, 11), np.array([1.0 + 1e-9]), np.array([-1.0 - 1e-9, 0])):
        single, error = as_float32(values)
        assert single.dtype == np.float32
        assert error == np.abs(single - values).max() > 0
        assert as_float32(single) == (single, 0.0)
    assert as_float32(values[:0])[1] == 0.0


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_values_beyond_float32_are_refused(value):
    values = np.array([[0.0, value]])
    for encode in (
        as_float32,
        *(lambda v, d=d: encode_nifti(v, None, (1.0, 1.0), d) for d in DTYPES["nifti"]),
        *(lambda v, d=d: encode_zarr({"true": v}, 2, d) for d in DTYPES["zarr"]),
    ):
        with pytest.raises(RWLossError, match=r"up to 1e\+.*beyond float32: .* a smaller weight"):
            encode(values)


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)])
def test_values_in_16_bits(shape):
    """Within 3e-4, in proportion below 1; 0 and signs stay."""
    for scale in (1e-30, 1e-6, 0.1, 0.3, 0.99, 1.0, 1.7, 19.0):
        values = random(shape, scale)
        image, back, error = nifti(values, len(shape))
        assert image.get_data_dtype() == np.int16
        assert (back.dtype, back.shape) == (np.float32, shape)
        np.testing.assert_allclose(image.get_fdata(), back, rtol=1e-6, atol=0)
        array, half_error = tree(values, len(shape))
        assert (array.dtype == np.float16) == (0.1 <= scale <= 1), scale
        for found, stated in ((back, error), (array[...], half_error)):
            difference = np.abs(found.astype(float) - values).max()
            assert difference == pytest.approx(stated, rel=1e-6), scale
            assert stated <= allowed_error(scale)
            assert found.flat[0] == 0.0
            assert np.all(found.astype(float) * values >= 0)


def test_the_ends_of_the_range():
    for largest in (1.0, 2.0**-11, 16.0, 1 / 3, 32767 / 2048, 15.9995):
        values = np.array([[largest, -largest, 0.0, largest / 2]], dtype=np.float32)
        _, back, error = nifti(values, 2)
        assert error <= 3e-4
        np.testing.assert_allclose(back, values, rtol=0, atol=error)


def test_a_wide_range_goes_to_float32_and_is_exact():
    """Float16 also holds no small values: below 6e-8 it is 0, and near it a step is large."""
    for scale in (20.0, 300.0, 1e9):
        values = random((3, 4, 5), scale)
        image, back, error = nifti(values, 3)
        assert (image.get_data_dtype(), error) == (np.float32, 0.0)
        np.testing.assert_array_equal(back, values)
        np.testing.assert_array_equal(image.get_fdata(), values)
    for scale in (1e-30, 1e-9, 1e-6, 1.7, 300.0, 1e6):
        values = random((5, 6, 7), scale)
        array, error = tree(values, 3)
        assert (array.dtype, error) == (np.float32, 0.0)
        np.testing.assert_array_equal(array[...], values)


def test_a_type_that_is_asked_for():
    for scale in (1e-6, 1.0, 300.0, 1e9):
        values = random((3, 4, 5), scale)
        image, back, error = nifti(values, 3, "int16")
        assert image.get_data_dtype() == np.int16
        assert np.abs(back.astype(float) - values).max() == pytest.approx(error, rel=1e-3)
        assert error <= scale * 2.0**-11
        assert back.flat[0] == 0.0
        assert np.all(back.astype(float) * values >= 0)
        image, back, error = nifti(values, 3, "float32")
        assert (image.get_data_dtype(), error) == (np.float32, 0.0)
        np.testing.assert_array_equal(back, values)
        assert tree(values, 3, "float32")[0].dtype == np.float32
        array, error = tree(values, 3, "float16")
        assert array.dtype == (np.float32 if scale == 1e9 else np.float16)  # else it overflows
        difference = np.abs(array[...].astype(float) - values).max()
        assert difference == pytest.approx(error, rel=1e-6)


def test_float64_values_state_the_whole_error():
    for scale, dtype in itertools.product((1e-6, 1.0, 300.0), DTYPES["nifti"]):
        values = random((3, 4, 5), scale, np.float64)
        _, back, error = nifti(values, 3, dtype)
        assert back.dtype == np.float32
        assert np.abs(back - values).max() == pytest.approx(error, rel=5e-3)
        assert error > 0
    for dtype in ("auto", "float32"):
        array, error = tree(values, 3, dtype)
        assert array.dtype == np.float32
        assert np.abs(array[...] - values).max() == error > 0


def test_values_that_16_bits_hold_exactly_and_zeros():
    for dtype in DTYPES["zarr"]:
        for values in (np.array([[0.0, -1024.0, 0.25]], np.float32), np.zeros((2, 3), np.float32)):
            array, error = tree(values, 2, dtype)
            assert array.dtype == (np.float32 if dtype == "float32" else np.float16)
            assert error == 0.0
            np.testing.assert_array_equal(array[...], values)
    for dtype in DTYPES["nifti"]:
        image, back, error = nifti(np.zeros((2, 3), np.float32), 2, dtype)
        assert error == 0.0
        assert not back.any()
        assert not image.get_fdata().any()


# --- NIfTI


def test_classes_are_the_fourth_axis():
    for shape, dtype in itertools.product(
        [(3, 5, 6), (3, 4, 5, 6), (2, 1, 1), (2, 1, 1, 1), (5, 7, 1, 1)], DTYPES["nifti"]
    ):
        values = RNG.uniform(-1, 1, shape).astype(np.float32)
        image, back, error = nifti(values, len(shape) - 1, dtype)
        assert image.shape == (*shape[1:], *[1] * (4 - len(shape)), shape[0])
        assert back.shape == shape
        np.testing.assert_allclose(back, values, rtol=0, atol=max(error, 1e-12))
        for k in range(shape[0]):
            seen = image.get_fdata()[..., k].reshape(shape[1:])
            np.testing.assert_allclose(seen, back[k], rtol=1e-6, atol=0)


def test_order_in_memory_does_not_matter():
    plain = RNG.uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    orders = {
        "F": np.asfortranarray(plain),
        "strided": np.repeat(plain, 2, axis=1)[:, ::2],
        "backwards": plain[::-1].copy()[::-1],
    }
    for dtype, (order, values) in itertools.product(DTYPES["nifti"], orders.items()):
        found = encode_nifti(values, AFFINE, (1.0,) * 3, dtype)
        assert found == encode_nifti(plain, AFFINE, (1.0,) * 3, dtype), order


def test_more_voxels_than_are_packed_at_a_time():
    values = RNG.uniform(-1, 1, (50, 50, 50)).astype(np.float32)
    values[-1, -1, -1] = 7.0
    _, back, error = nifti(values, 3)
    assert np.abs(back - values).max() == error <= 3e-4
    values[-1, -1, -1] = 300.0  # known only at the end
    assert nifti(values, 3)[2] == 0.0


def test_labels_stay_whole():
    for dtype, values in [
        ("uint8", (0, 1, 255)), ("int16", (-1, 0, 300)), ("int16", (-1, 32767)),
        ("int32", (-1, 0, 40000)),
    ]:  # fmt: skip
        for order in "CF":
            cycle = itertools.cycle(values)
            labels = np.array([next(cycle) for _ in range(60)], dtype).reshape(3, 4, 5, order=order)
            image, back, error = nifti(labels, 3)
            assert (image.get_data_dtype(), error) == (labels.dtype, 0.0)
            assert back.dtype.kind in "iu"
            np.testing.assert_array_equal(back, labels)
            np.testing.assert_array_equal(np.asarray(image.dataobj), labels)


def test_the_affine_is_kept():
    for shape in [(4, 5, 6), (3, 4, 5, 6)]:
        zeros = np.zeros(shape, np.float32)
        image, _, _ = nifti(zeros, 3, affine=AFFINE, spacing_mm=(1.0, 2.0, 3.0))
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert image.header.get_zooms()[:3] == (1.0, 2.0, 3.0)
        assert image.header.get_xyzt_units()[0] == "mm"


def test_without_an_affine_the_spacing_is_in_the_header():
    for spacing_mm, lead in itertools.product([(0.5, 2.0), (0.5, 2.0, 3.25)], [(), (3,)]):
        n = len(spacing_mm)
        values = np.zeros((*lead, *(4, 5, 6)[:n]), np.float32)
        image, _, _ = nifti(values, n, spacing_mm=spacing_mm)
        assert image.header.get_zooms()[:n] == spacing_mm
        np.testing.assert_array_equal(np.diag(image.affine)[:n], spacing_mm)


def test_either_gzip_reads_what_the_other_wrote(monkeypatch):
    values = RNG.uniform(-1, 1, (4, 5, 6)).astype(np.float32)
    written = encode_nifti(values, None, (1.0,) * 3, "auto")[0]
    assert encode_nifti(values, None, (1.0,) * 3, "auto")[0] == written
    read = decoded(written)
    monkeypatch.setattr(encoding, "_gzip", lambda: gzip)
    assert encoding.gzip_name() == "zlib"
    np.testing.assert_array_equal(decoded(written), read)
    plain = encode_nifti(values, None, (1.0,) * 3, "auto")[0]
    assert gzip.decompress(plain) == gzip.decompress(written)
    monkeypatch.undo()
    np.testing.assert_array_equal(decoded(plain), read)


def test_an_axis_that_nifti_has_no_room_for_is_refused():
    with pytest.raises(RWLossError, match=r"up to 32767 voxels, got \(2, 40000\): use .* zarr"):
        encode_nifti(np.zeros((2, 40000), np.uint8), None, (1.0, 1.0), "auto")


def test_files_are_those_of_nibabel():
    for dtype, order in itertools.product([np.uint8, np.int16, np.int32, np.float32], "CF"):
        values = np.asarray(RNG.uniform(0, 100, (5, 4, 3)), dtype, order=order)
        content, _ = encode_nifti(values, AFFINE, (1.0, 2.0, 3.0), "float32")
        image = nibabel.Nifti1Image(values, AFFINE)
        image.header.set_xyzt_units("mm")
        assert gzip.decompress(content) == image.to_bytes()


# --- Zarr


@pytest.mark.parametrize("shape", [(5, 6), (300, 270), (4, 5, 6), (66, 64, 65)])
def test_zarr_reads_what_was_given(shape):
    for dtype, classes in itertools.product(["uint8", "int16", "float16"], [(), (3,)]):
        values = (random((*classes, *shape)) * 100).astype(dtype)
        files, _ = encode_zarr({"values": values}, len(shape), "float16")
        array = zarr.open_array(in_memory(files), path="values", mode="r")
        assert (array.metadata.zarr_format, array.dtype) == (3, dtype)
        np.testing.assert_array_equal(array[...], values)
        step = {2: 256, 3: 64}[len(shape)]
        assert array.chunks == (*[1] * len(classes), *(min(step, length) for length in shape))
        assert array.shards[: len(classes)] == classes
        axes = [f"axis_{i}" for i in range(len(shape))]
        assert list(array.metadata.dimension_names) == ["class"] * len(classes) + axes
        # One file of values, whatever the size: object stores charge by the file.
        assert sum("/c/" in name for name in files) == 1


def test_a_tree_is_a_group_of_its_arrays_and_repeats():
    arrays = {"labels": np.ones((70, 66, 5), np.uint8), "true": random((70, 66, 5))}
    encoded = encode_zarr(arrays, 3, "auto")
    assert encoded == encode_zarr(dict(reversed(arrays.items())), 3, "auto")
    group = zarr.open_group(in_memory(encoded[0]), mode="r")
    assert set(group.array_keys()) == {"labels", "true"}


def test_a_patch_of_a_damaged_tree_needs_its_own_chunks_alone():
    values = RNG.uniform(-1, 1, (70, 66, 80)).astype(np.float16)
    files, _ = encode_zarr({"true": values}, 3, "float16")
    shard = files["true/c/0/0/0"]
    store = in_memory(files | {"true/c/0/0/0": b"\xff" * 100 + shard[100:]})  # of the first chunk
    there = np.s_[60:70, 64:66, 70:80]
    found = decode_zarr(store, "here", "true", values.shape, 3, there)
    np.testing.assert_array_equal(found, values[there])
    for cut in (np.s_[0:2, 0:2, 0:2], ()):
        with pytest.raises(RWLossError, match="here can't be read"):
            decode_zarr(store, "here", "true", values.shape, 3, cut)
