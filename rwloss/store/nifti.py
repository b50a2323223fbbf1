"""Arrays of a map as NIfTI: scaled int16 where that is exact enough, else float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.store.atomic import whole_file

SUFFIX = ".nii.gz"
# A default store is within this of the exact map (NIfTI knows no float16).
MAX_ERROR = 3e-4
_INT16_MAX = 32767


def write(
    path: Path,
    array: NDArray[Any],
    affine: NDArray[np.float64] | None,
    spacing_mm: tuple[float, ...],
) -> float:
    """Write one array (*s), or (k *s) with the classes as the fourth axis; the largest error.

    Whole numbers are kept as they are. Floating values are kept as int16 times one factor where
    that is within 3e-4 of each value (0 stays 0, signs stay), else as float32.
    affine: of the label file (4 4), or None for a format without one: then the spacing alone.
    """
    import nibabel

    if affine is None:
        affine = np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))])
    values, slope, error = _packed(array)
    if array.ndim > len(spacing_mm):
        values = np.moveaxis(values, 0, -1)
        while values.ndim < 4:  # a 2-D image is one slice, so that classes stay the fourth axis
            values = values[..., None, :]
    image = nibabel.Nifti1Image(values, affine)
    header = image.header
    if slope is not None:
        header.set_slope_inter(slope, 0.0)
    header.set_xyzt_units("mm")
    with whole_file(path) as part:
        nibabel.save(image, part)
    return error


def read_labels(path: Path) -> NDArray[Any]:
    """Labels (*s) that `write` was given, as whole numbers."""
    values, _ = _stored(path)
    return np.ascontiguousarray(values)


def read_values(path: Path, *, ndim: int, classes: bool) -> NDArray[np.float32]:
    """Floating values that `write` was given: (*s) of ndim axes, or (k *s) with `classes`."""
    stored, slope = _stored(path)
    values = stored.astype(np.float32)
    if slope != 1.0:
        values *= np.float32(slope)
    if classes:
        values = np.moveaxis(values, -1, 0)
        values = values.reshape(values.shape[: ndim + 1])
    return np.ascontiguousarray(values)


def _stored(path: Path) -> tuple[NDArray[Any], float]:
    """The numbers in the file and their factor."""
    import nibabel

    try:
        stored = nibabel.Nifti1Image.from_filename(path).dataobj
        return np.asarray(stored.get_unscaled()), float(stored.slope)
    except Exception as error:  # nibabel and gzip raise many kinds for a damaged file
        raise RWLossError(f"{path} can't be read: {error}; precompute it again") from error


def _packed(array: NDArray[Any]) -> tuple[NDArray[Any], float | None, float]:
    """Values as they go to the file, their factor, and the largest error."""
    if array.dtype.kind in "iu":
        return array, None, 0.0
    wide = np.asarray(array, dtype=np.float64)
    largest = float(np.max(np.abs(wide), initial=0.0))
    if largest == 0.0:
        return np.zeros(array.shape, dtype=np.int16), 1.0, 0.0
    # The header holds the factor as float32: take the next one up where rounding went down.
    slope = np.float32(largest / _INT16_MAX)
    if largest / float(slope) > _INT16_MAX + 0.5:
        slope = np.nextafter(slope, np.float32(np.inf))
    whole = np.rint(wide / float(slope)).astype(np.int16)
    error = float(np.max(np.abs(whole * slope - wide)))  # in float32, as it will be read
    if error <= MAX_ERROR:
        return whole, float(slope), error
    single = array.astype(np.float32)
    return single, None, float(np.max(np.abs(single - wide)))
