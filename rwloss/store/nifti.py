"""Arrays of a map as NIfTI: scaled int16 where that is precise enough, else float32."""

from __future__ import annotations

import gzip
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.store.manifest import DType
from rwloss.store.precision import MAX_ERROR, as_float32, largest_of

SUFFIX = ".nii.gz"
DTYPES: tuple[DType, ...] = ("auto", "int16", "float32")
_INT16_MAX = 32767
# The header, and four bytes for: no extension follows.
_DATA_OFFSET = 352
# Relative to the largest value, rounded up to a power of two and at most 1: coarse enough to
# compress well, and powers of two are exact.
_STEP = 2.0**-11
# Voxels packed at a time: what fits in the cache of a core.
_SLAB = 2**16


def encode(
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
    values, slope, error = _packed(array, dtype)
    if array.ndim > len(spacing_mm):
        values = np.moveaxis(values, 0, -1)
        while values.ndim < 4:  # a 2-D image is one slice, so that classes stay the fourth axis
            values = values[..., None, :]
    image = nibabel.Nifti1Image(values, affine)
    header = image.header
    header.set_slope_inter(1.0 if slope is None else slope, 0.0)
    header.set_xyzt_units("mm")
    header.set_data_offset(_DATA_OFFSET)
    # What nibabel's own `to_bytes` writes, without its copies in between.
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    content = header.binaryblock + bytes(4) + values.tobytes("F")
    return _gzip().compress(content, 1 if _gzip() is gzip else 2, mtime=0), error


def decode(
    where: str, content: bytes, shape: tuple[int, ...], *, has_classes: bool
) -> NDArray[Any]:
    """An array (*s), or (k *s) if it has classes, that `encode` was given.

    where: for messages. shape: as the manifest says. Values that were stored in 16 bits are
    float32. Raises RWLossError.
    """
    import nibabel

    try:
        # Decompressed as a whole, because gzip checks sum and length only at the end.
        stored = nibabel.Nifti1Image.from_bytes(_gzip().decompress(content)).dataobj
        array, slope = np.asarray(stored.get_unscaled()), float(stored.slope)
        if has_classes:
            array = np.moveaxis(array, -1, 0)
            array = array.reshape(array.shape[: len(shape)])
    except Exception as error:  # nibabel and gzip raise many kinds for a damaged file
        raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error
    if array.shape != shape:
        raise RWLossError(
            f"{where} has shape {array.shape}, the manifest says {shape}: precompute it again"
        )
    return array if slope == 1.0 else array.astype(np.float32) * np.float32(slope)


def _packed(array: NDArray[Any], dtype: DType) -> tuple[NDArray[Any], float | None, float]:
    """Values as they go to the file, their factor, and the largest error."""
    if array.dtype.kind in "iu":
        return array, None, 0.0
    largest = largest_of(array)
    if dtype != "float32" and largest <= float(np.finfo(np.float32).max):
        step = _step(largest)
        whole, error = _rounded(array, step, math.inf if dtype == "int16" else MAX_ERROR)
        if whole is not None:
            return whole, float(step), error
    single, error = as_float32(array)
    return single, None, error


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
    """Which library compresses here: the same maps, but other bytes in the files."""
    return "zlib" if _gzip() is gzip else "isal"
