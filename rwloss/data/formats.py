"""Reading label and image files of every supported format into NumPy."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.data.readers import Decoded, array_file, nifti, picture, text_header
from rwloss.data.spacing import agreed_spacing, check_affine
from rwloss.errors import RWLossError

PICTURES = (".png", ".tif", ".tiff")
_READERS: dict[str, Callable[[Path, int], Decoded]] = {
    **dict.fromkeys((".nii.gz", ".nii"), nifti.read_nifti),
    **dict.fromkeys(PICTURES, picture.read_picture),
    **dict.fromkeys((".npy", ".npz"), array_file.read_array),
    **dict.fromkeys((".mha", ".nrrd"), text_header.read_text_header),
}

SUFFIXES: tuple[str, ...] = tuple(_READERS)
"""File endings that can be read, in lower case; upper case is accepted too."""

MAX_VOXELS = 2**31
"""Files whose headers announce more voxels are refused before any memory is allocated."""


def check_max_voxels(max_voxels: int) -> None:
    """Raise RWLossError for a limit that would refuse every file."""
    if max_voxels < 1:
        raise RWLossError(f"expected max_voxels of 1 or more, got {max_voxels}")


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """The labels (*s) of one case, *s 2-D or 3-D, with the geometry from its file.

    labels: any integer type in native byte order, in the axis order of the file's library: (x, y,
    z) for NIfTI, MHA and NRRD, (rows, columns) or (pages, rows, columns) for PNG and TIFF, as
    stored for NumPy. Not necessarily C-contiguous.
    spacing_mm: one length per axis, in the same order; None if neither file nor caller gave one.
    affine: float64 (4 4), voxel indices to RAS millimeters; None for formats without one.
    """

    labels: NDArray[np.integer[Any]]
    spacing_mm: tuple[float, ...] | None
    affine: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class ImageVolume:
    """The gray values (*s) of one channel, float32, and the affine of its file, if any."""

    values: NDArray[np.float32]
    affine: NDArray[np.float64] | None


def read_labels(
    path: str | Path, *, spacing_mm: Sequence[float] | None = None, max_voxels: int = MAX_VOXELS
) -> LabelVolume:
    """Read the labels (*s) of one file, as integers, with the spacing in mm if known.

    Integers stored as float are converted to the smallest integer type that holds them, and bool to
    uint8. Scaled NIfTI files may be off an integer by half of their own step. spacing_mm: for
    formats without a spacing (PNG, TIFF, NumPy), one length per axis. A file with a different
    spacing is an error.

    Raises RWLossError, which names the file, for everything that is not one 2-D or 3-D label map: a
    missing, empty, truncated or damaged file, an unknown suffix, color, NaN, fractions, another
    number of axes, an impossible spacing or affine, or more than max_voxels voxels.

    >>> from rwloss.data import sample_dir
    >>> volume = read_labels(sample_dir("hippocampus") / "labelsTr/hippocampus_003.nii.gz")
    >>> volume.labels.shape, volume.labels.dtype.name, volume.spacing_mm
    ((34, 52, 35), 'uint8', (1.0, 1.0, 1.0))
    """
    decoded = _decode(Path(path), max_voxels)
    try:
        labels = _whole(decoded.values, decoded.step)
        spacing = agreed_spacing(spacing_mm, decoded.spacing_mm, labels.ndim)
        if decoded.affine is not None:
            check_affine(decoded.affine, decoded.spacing_mm, labels.shape)
    except RWLossError as exc:
        raise RWLossError(f"cannot use {str(path)!r} as labels: {exc}") from exc
    return LabelVolume(np.require(labels, requirements="W"), spacing, decoded.affine)


def read_image(path: str | Path, *, max_voxels: int = MAX_VOXELS) -> NDArray[np.float32]:
    """Read the gray values (*s) of one channel as float32, *s 2-D or 3-D, axes as in `read_labels`.

    Raises RWLossError, which names the file, for an unreadable file, color or a palette, NaN or
    infinity, values beyond float32, another number of axes, or more than max_voxels voxels.

    >>> from rwloss.data import sample_dir
    >>> image = read_image(sample_dir("lung_patches") / "imagesTr/lung001_0_0000.png")
    >>> image.shape, image.dtype.name
    ((48, 48), 'float32')
    """
    return _image(Path(path), _decode(Path(path), max_voxels)).values


def read_channels(
    paths: Sequence[str | Path], num_channels: int | None = None, *, max_voxels: int = MAX_VOXELS
) -> tuple[ImageVolume, ...]:
    """Read the channels of one image: one file per channel, or color pictures with several
    channels.

    Raises RWLossError as `read_image`, for files of different shapes, and if the number of channels
    is not num_channels, if given.

    paths: in the order of the channels. num_channels: how many there must be.

    >>> from rwloss.data import sample_dir
    >>> len(read_channels([sample_dir("lung_patches") / "imagesTr/lung001_0_0000.png"]))
    1
    """
    channels: list[ImageVolume] = []
    for path in map(Path, paths):
        decoded = _decode(path, max_voxels, colours=True)
        image = _image(path, decoded)
        values = image.values if decoded.colours else image.values[None]
        if channels and values.shape[1:] != channels[0].values.shape:
            raise RWLossError(
                f"image {str(path)!r} has shape {values.shape[1:]}, {Path(paths[0]).name!r} "
                f"{channels[0].values.shape}: channels must lie on the same voxels"
            )
        channels += [ImageVolume(channel, image.affine) for channel in values]
    if num_channels not in {None, len(channels)}:
        names = ", ".join(Path(path).name for path in paths)
        raise RWLossError(
            f"expected {num_channels} channels, found {len(channels)} in {names}: one file per "
            f"channel, or a color picture"
        )
    return tuple(channels)


def suffix_of(path: str | Path) -> str:
    """The known suffix of a file name, in lower case, or "" if it has none of them.

    >>> suffix_of("case.v2.NII.gz"), suffix_of("notes.txt")
    ('.nii.gz', '')
    """
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix) and name != suffix), "")


def case_name(path: str | Path) -> str:
    """The file's name without folder and known suffix.

    Raises RWLossError if the suffix is not one of SUFFIXES.

    >>> case_name("labelsTr/hippocampus_003.nii.gz")
    'hippocampus_003'
    """
    suffix = suffix_of(path)
    if not suffix:
        raise RWLossError(
            f"cannot read {str(path)!r}: expected a file that ends with one of {' '.join(SUFFIXES)}"
        )
    return Path(path).name[: -len(suffix)]


def _image(path: Path, decoded: Decoded) -> ImageVolume:
    try:
        if decoded.is_palette:
            raise RWLossError("its values are indices of a palette: save it as gray values")
        _check_finite(decoded.values)
        with np.errstate(over="ignore"):
            image = decoded.values.astype(np.float32)
        if not np.isfinite(image).all():
            raise RWLossError(f"values reach {np.abs(decoded.values).max():g}, beyond float32")
    except RWLossError as exc:
        raise RWLossError(f"cannot use {str(path)!r} as an image: {exc}") from exc
    return ImageVolume(image, decoded.affine)


def _decode(path: Path, max_voxels: int, *, colours: bool = False) -> Decoded:
    """Read a file with the reader of its suffix; any error becomes one sentence."""
    case_name(path)
    try:
        # Never open what is not a file: a named pipe would block for ever.
        if not path.is_file():
            nothing = "it is a broken link" if path.is_symlink() else "there is no such file"
            raise RWLossError("it is not a file" if path.exists() else nothing)
        if path.stat().st_size == 0:
            raise RWLossError("it is empty (0 bytes)")
        decoded = _READERS[suffix_of(path)](path, max_voxels)
        if decoded.colours and not colours:
            raise RWLossError(
                f"expected one channel, got a picture of mode {decoded.colours} "
                f"({', '.join(decoded.colours)}): {picture.SAVE_GREY}"
            )
        shape = decoded.values.shape[bool(decoded.colours) :]
        if len(shape) in {2, 3}:
            return decoded
        raise RWLossError(
            f"expected 2 or 3 axes, got {len(shape)} (shape {shape}): save each case and channel "
            f"as a separate file"
        )
    # Four libraries parse foreign bytes here, and damaged ones make them raise nearly anything.
    except Exception as exc:
        raise RWLossError(f"cannot read {str(path)!r}: {_cause(exc, suffix_of(path))}") from exc


def _cause(exc: Exception, suffix: str) -> str:
    """The error of a reader, in plain words."""
    if isinstance(exc, RWLossError):
        return str(exc)
    if isinstance(exc, MemoryError):
        return "it needs more memory than there is"
    detail = " ".join(f"{type(exc).__name__}: {exc}".split())
    if isinstance(exc, OSError) and exc.errno is not None:
        return exc.strerror or detail
    if isinstance(exc, (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)):
        return f"it is cut short or damaged ({detail})"
    return f"it is damaged, or a kind of {suffix} file that cannot be read ({detail})"


def _check_finite(values: NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    finite = np.isfinite(values)
    if not finite.all():
        where = _first(~finite)
        raise RWLossError(
            f"expected numbers, got {values[where]} at voxel {where} "
            f"({finite.size - np.count_nonzero(finite)} such voxels)"
        )


def _whole(values: NDArray[Any], step: float) -> NDArray[np.integer[Any]]:
    """The values as integers in native byte order. Raises RWLossError for a fraction."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind in "iu":
        native: NDArray[np.integer[Any]] = values.astype(values.dtype.newbyteorder("="), copy=False)
        return native
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        _check_finite(values)
    if low < -(2.0**63) or high >= 2.0**63:
        raise RWLossError(f"expected labels, got values from {low:g} to {high:g}")
    rounded = np.rint(values) if step else values
    least, most = (round(low), round(high)) if step else (math.floor(low), math.ceil(high))
    smallest = np.min_scalar_type(most if least >= 0 else min(least, -most - 1))
    labels: NDArray[np.integer[Any]] = rounded.astype(smallest)
    if step:
        # A file of scaled integers holds an integer only to half a step, and its float32 step
        # itself to 1e-7.
        misses = np.abs(values - rounded)
        fractional = misses > (step / 2 if step < 1 else 0) + 1e-6 * (1 + np.abs(rounded))
        # Half a coarse step must not accept a real fraction, because two values would share a
        # label.
        if misses.max() > 0.01 and np.unique(values).size > np.unique(labels).size:
            fractional = misses > 0.01
    else:
        fractional = labels != values
    if fractional.any():
        where = _first(fractional)
        raise RWLossError(
            f"expected whole numbers, got {values[where]} at voxel {where} "
            f"({np.count_nonzero(fractional)} such voxels): resample labels with nearest neighbor"
        )
    return labels


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))
