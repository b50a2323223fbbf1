"""Encode arrays of a map as NIfTI files and zarr version 3 trees, with their precision."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.store.manifest import DType, Format, PartName

DTYPES: Mapping[Format, tuple[DType, ...]] = {
    "nifti": ("auto", "int16", "float32"),
    "zarr": ("auto", "float16", "float32"),
}
NIFTI_SUFFIX = ".nii.gz"
MAX_ERROR = 3e-4
"""Largest error of a default store."""

_INT16_MAX = 32767
# The header of a NIfTI file, and four bytes for: no extension follows.
_DATA_OFFSET = 352
# Relative to the largest value, rounded up to a power of two and at most 1: coarse enough to
# compress well, and powers of two are exact.
_STEP = 2.0**-11
# Voxels packed at a time: what fits in the cache of a core.
_SLAB = 2**16
# Voxels of a chunk along each spatial axis, by number of axes: about a patch of training.
_CHUNK = {2: 256, 3: 64}
_BLOCK = 16


# --- Precision


def allowed_error(largest: float) -> float:
    """The largest error of stored values in a map whose largest exact value is given.

    MAX_ERROR, and less in proportion below 1, so that a map of a small weight keeps its shape.
    """
    return MAX_ERROR * min(1.0, 2.0 ** math.ceil(math.log2(largest))) if largest > 0 else 0.0


def as_float32(array: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """The values in float32, and the largest error. Raises RWLossError for values beyond it."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32, copy=False)
    error = _largest_error(single, array)
    if not math.isfinite(error):
        raise RWLossError(
            f"its map has values up to {float(np.abs(array).max()):g}, beyond float32: give the "
            "expression a smaller weight"
        )
    return single, error


def _largest_error(stored: NDArray[Any], exact: NDArray[Any]) -> float:
    """Largest difference between stored and exact values. Infinite where one overflowed."""
    return _largest(np.subtract(stored, exact, dtype=np.result_type(exact.dtype, np.float32)))


def _largest(array: NDArray[Any]) -> float:
    """The largest absolute value; 0 for no values."""
    return max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))


def _numbers(values: Any) -> NDArray[Any]:
    """The values, if they are real numbers. Raises ValueError."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"it holds values of type {array.dtype}")
    return array


# --- NIfTI


def encode_nifti(
    array: NDArray[Any],
    affine: NDArray[np.float64] | None,
    spacing_mm: tuple[float, ...],
    dtype: DType,
) -> tuple[bytes, float]:
    """The file of one array (*s), or (k *s) with the classes as the fourth axis, and its error.

    Whole numbers are kept as they are. Floating values become int16 times one factor where that is
    within 3e-4 of each value (or dtype asks for it; 0 stays 0, signs stay or become 0), else
    float32. affine: of the label file (4 4), or None for a format without one: then the spacing.
    Raises RWLossError for an axis that is too long for NIfTI.
    """
    import nibabel

    if max(array.shape) > _INT16_MAX:
        raise RWLossError(
            f"NIfTI holds axes of up to {_INT16_MAX} voxels, got {array.shape}: use the format zarr"
        )
    if affine is None:
        affine = np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))])
    values, slope, error = _as_int16(array, dtype)
    if array.ndim > len(spacing_mm):
        values = np.moveaxis(values, 0, -1).reshape(_shape_in_file(array.shape))
    image = nibabel.Nifti1Image(values, affine)
    header = image.header
    header.set_slope_inter(slope, 0.0)
    header.set_xyzt_units("mm")
    header.set_data_offset(_DATA_OFFSET)
    # What nibabel's own `to_bytes` writes, without its copies in between.
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    content = header.binaryblock + bytes(4) + values.tobytes("F")
    return _gzip().compress(content, 1 if _gzip() is gzip else 2, mtime=0), error


def decode_nifti(
    where: str, content: bytes, shape: tuple[int, ...], *, has_classes: bool
) -> NDArray[Any]:
    """An array (*s), or (k *s) if it has classes, that `encode_nifti` was given.

    where: for messages. shape: as the manifest says. Values that were stored in 16 bits are
    float32. Raises RWLossError.
    """
    import nibabel

    in_file = _shape_in_file(shape) if has_classes else shape
    try:
        # As a whole, because gzip has its checksum at the end.
        image = nibabel.Nifti1Image.from_bytes(_inflated(content, math.prod(shape)))
        if image.shape != in_file:
            raise ValueError(f"it has shape {image.shape}, the manifest says {in_file}")
        stored = image.dataobj
        array, slope = _numbers(stored.get_unscaled()), float(stored.slope)
    except Exception as error:  # nibabel and gzip raise many kinds for a damaged file
        raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error
    if has_classes:
        array = np.moveaxis(array, -1, 0).reshape(shape)
    return array if slope == 1.0 else array.astype(np.float32) * np.float32(slope)


def _shape_in_file(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(k *s) with the classes as the fourth axis: a 2-D image is one slice."""
    return (*shape[1:], *[1] * (4 - len(shape)), shape[0])


def _inflated(content: bytes, voxels: int) -> bytes:
    """The bytes of a gzip file of so many voxels. A small file may announce any size."""
    if _gzip() is gzip:
        unpacker: Any = zlib.decompressobj(wbits=31)
    else:
        from isal import isal_zlib

        unpacker = isal_zlib.decompressobj(wbits=31)
    most = _DATA_OFFSET + 8 * voxels
    inflated = unpacker.decompress(content, most + 1)
    if len(inflated) > most:
        raise ValueError(f"it holds more than the {voxels} voxels of the manifest")
    if not unpacker.eof:
        raise ValueError("it ends too early")
    return bytes(inflated)


def _as_int16(array: NDArray[Any], dtype: DType) -> tuple[NDArray[Any], float, float]:
    """Values as they go to the file, their factor, and the largest error."""
    if array.dtype.kind in "iu":
        return array, 1.0, 0.0
    largest = _largest(array)
    if dtype != "float32" and largest <= float(np.finfo(np.float32).max):
        step = _step(largest)
        whole, error = _rounded(array, step, math.inf if dtype == "int16" else MAX_ERROR)
        if whole is not None:
            return whole, float(step), error
    single, error = as_float32(array)
    return single, 1.0, error


def _step(largest: float) -> np.float32:
    """The factor of int16 values up to this one: a power of two where that is fine enough."""
    if largest == 0.0:
        return np.float32(1.0)
    step = np.float32(_STEP * min(1.0, 2.0 ** math.ceil(math.log2(largest))))
    if largest > _INT16_MAX * step:  # every bit is needed
        step = np.nextafter(np.float32(largest / _INT16_MAX), np.float32(np.inf))
    return max(step, np.finfo(np.float32).tiny)


def _rounded(
    array: NDArray[Any], step: np.float32, allowed: float
) -> tuple[NDArray[np.int16] | None, float]:
    """Values in steps as int16, and the largest error in float32, as they will be read.

    None as soon as an error is larger than allowed.
    """
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    whole = np.empty_like(array, dtype=np.int16)
    values, out = array.ravel("K"), whole.ravel("K")  # as they lie in memory, without a copy
    room = np.empty(min(_SLAB, values.size), dtype=array.dtype)
    error = 0.0
    for first in range(0, values.size, _SLAB):
        exact = values[first : first + _SLAB]
        slab = np.divide(exact, step, out=room[: exact.size])
        out[first : first + _SLAB] = np.rint(slab, out=slab)
        np.multiply(slab, step, out=slab)
        np.subtract(slab, exact, out=slab)
        error = max(error, float(slab.max()), -float(slab.min()))
        if error > allowed:
            return None, error
    return whole, error


@cache
def _gzip() -> Any:
    """isal's gzip where it is installed: several times faster, and as small."""
    try:
        from isal import igzip
    except ImportError:
        return gzip
    return igzip


def gzip_name() -> str:
    """The library that compresses: it changes the bytes of the files, not the maps."""
    return "zlib" if _gzip() is gzip else "isal"


# --- Zarr: chunks to read patches from, one shard per array


def encode_zarr(
    arrays: Mapping[PartName, NDArray[Any]], ndim: int, dtype: DType
) -> tuple[dict[str, bytes], dict[PartName, float]]:
    """Files of a group by path, and the error of each array, (*s) or (k *s) with ndim axes *s.

    Whole numbers are kept as they are. Floating values become float16 where that is within 3e-4 of
    each value (in proportion for a map below 1), or dtype asks for it; else float32.
    """
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    content: dict[str, Any] = {}
    errors = {}
    store = MemoryStore(store_dict=content)
    zarr.create_group(store, zarr_format=3)
    for name, exact in arrays.items():
        array, errors[name] = _as_float16(exact, dtype)
        chunks, shards = _grid(array.shape, ndim)
        out = zarr.create_array(
            store,
            name=name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunks,
            shards=shards,
            compressors=ZstdCodec(level=1, checksum=True),
            fill_value=0,
            dimension_names=["class"] * (array.ndim - ndim) + [f"axis_{i}" for i in range(ndim)],
            zarr_format=3,
            # Every shard is written, so that a lost one is not read as zeros.
            config={"write_empty_chunks": True},
        )
        out[...] = _in_rows(array)
    return {path: buffer.to_bytes() for path, buffer in content.items()}, errors


def _grid(shape: tuple[int, ...], ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunks and shards: one shard, which is one file. Classes are chunks of their own in it."""
    size, outer = shape[-ndim:], shape[:-ndim]
    chunk = tuple(min(_CHUNK[ndim], max(length, 1)) for length in size)
    shard = (-(-length // step) * step for length, step in zip(size, chunk, strict=True))
    return (*[1] * len(outer), *chunk), (*outer, *shard)


def decode_zarr(
    store: Any,
    where: str,
    name: str,
    shape: tuple[int, ...],
    ndim: int,
    cut: tuple[slice, ...] = (),
) -> NDArray[Any]:
    """One array of a tree, (*s) or (k *s), or the part that `cut` leaves: one slice per axis of *s.

    where: for messages. shape: of the whole array with ndim axes *s, as the manifest says. Raises
    RWLossError.
    """
    import zarr

    try:
        files = _complete()(store)
        array: Any = zarr.open_array(files, path=name, mode="r", zarr_format=3)
        if array.shape != shape:
            raise ValueError(f"it has shape {array.shape}, the manifest says {shape}")
        # A small file may announce chunks of any size.
        [codec] = (codec.to_dict() for codec in array.metadata.codecs)
        inner = [each["name"] for each in codec.get("configuration", {}).get("codecs", ())]
        if (array.chunks, array.shards) != _grid(shape, ndim) or inner != ["bytes", "zstd"]:
            raise ValueError("its chunks do not fit a map")
        files.chunks = math.prod(array.shards) // math.prod(array.chunks)
        files.most = math.prod(array.chunks) * array.dtype.itemsize
        inside: Any = (..., *cut)
        return _numbers(array[inside])
    except Exception as error:  # zarr and its codecs raise many kinds for a damaged tree
        raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error


def _zstd_size(frame: bytes) -> int:
    """Bytes that a frame of zstd announces, by its first 18 (RFC 8878)."""
    if frame[:4] != b"\x28\xb5\x2f\xfd" or len(frame) < 6:
        raise ValueError("a chunk is not zstd")
    flags = frame[4]
    single, dictionary = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    length = (single, 2, 4, 8)[flags >> 6]
    start = 5 + (not single) + dictionary
    if not length:
        raise ValueError("a chunk does not give its size")
    return int.from_bytes(frame[start : start + length], "little") + 256 * (length == 2)


def _as_float16(array: NDArray[Any], dtype: DType) -> tuple[NDArray[Any], float]:
    """Values as they are stored, and the largest error."""
    if array.dtype.kind in "iu":
        return array, 0.0
    if dtype != "float32":
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        error = _largest_error(half.astype(np.float32), array)
        if error <= allowed_error(_largest(array)) or (dtype == "float16" and math.isfinite(error)):
            return half, error
    return as_float32(array)


def _in_rows(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its last axis fastest, as zarr's chunks are.

    Volumes come with the first axis fastest, and turning one as a whole misses the caches: in
    blocks it takes a third of the time.
    """
    if array.flags.c_contiguous or array.ndim < 2:
        return array
    rows = np.empty(array.shape, array.dtype)
    for first in range(0, array.shape[0], _BLOCK):
        for last in range(0, array.shape[-1], _BLOCK):
            block = (slice(first, first + _BLOCK), ..., slice(last, last + _BLOCK))
            rows[block] = array[block]
    return rows


@cache
def _complete() -> Any:
    """A zarr store in which a missing or empty file is an error, and not the fill value.

    chunks: of a shard; 0 before an array is read. most: bytes of a chunk. One of more is an error.
    """
    from zarr.abc.store import RangeByteRequest
    from zarr.storage import WrapperStore

    class Complete(WrapperStore[Any]):
        chunks = most = 0

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found = await super().get(key, prototype, byte_range)
            if found is None or not len(found):
                raise FileNotFoundError(f"{key} is {'missing' if found is None else 'empty'}")
            content, starts = found.as_numpy_array(), []
            if self.chunks and byte_range is None:  # a shard: its index is at the end
                index = content[-16 * self.chunks - 4 : -4].tobytes()
                starts = np.frombuffer(index, "<u8")[::2].tolist()
            elif isinstance(byte_range, RangeByteRequest):
                starts = [0]
            for start in starts:
                if _zstd_size(content[start : start + 18].tobytes()) > self.most:
                    raise ValueError("a chunk holds more than the manifest says")
            return found

    return Complete
