"""Write a label map in the format and with the geometry of an image."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.data.formats import MAX_VOXELS, case_name, suffix_of
from rwloss.data.readers.text_header import write_text_header
from rwloss.errors import RWLossError


def write_labels(path: str | Path, labels: NDArray[Any], like: str | Path) -> None:
    """Write labels (*s) in the format given by the file suffix, with the geometry of an image.

    like: an image file of the same suffix with the same voxels. NIfTI
    files get its header: version, byte order, sform, qform, spacing and unit; MHA and NRRD its
    spacing, origin and directions. PNG, TIFF and NumPy files carry no geometry.
    Labels are stored as uint8 where they fit, else as uint16.

    Not atomic: write to a temporary file of the same suffix, and rename it.

    Raises RWLossError for labels that are not integers of 0..65535 on 2 or 3 axes, a suffix that is
    unknown or not that of `like`, an image of another shape and a PNG with three axes; OSError if
    the file cannot be written.

    >>> from rwloss.data import read_labels, sample_dir
    >>> image = sample_dir("lung_patches") / "imagesTr/lung001_0_0000.png"
    >>> write_labels("lung001_0.png", np.ones((48, 48), int), like=image)
    >>> read_labels("lung001_0.png").labels.dtype.name
    'uint8'
    """
    path, like = Path(path), Path(like)
    case_name(path)  # names an unknown suffix
    suffix = suffix_of(path)
    if suffix_of(like) != suffix:
        raise RWLossError(
            f"expected an image that ends with {suffix} for {path.name!r}, got {like.name!r}"
        )
    try:
        packed = _packed(labels)
        match suffix:
            case ".nii" | ".nii.gz":
                _write_nifti(path, packed, like)
            case ".mha" | ".nrrd":
                write_text_header(path, packed, like, MAX_VOXELS)
            case ".npy" | ".npz":
                _write_array(path, packed)
            case _:
                _write_picture(path, packed)
    except RWLossError as error:
        raise RWLossError(f"cannot write {str(path)!r}: {error}") from error


def _packed(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels in the smallest unsigned type."""
    if labels.ndim not in {2, 3} or labels.size == 0 or labels.dtype.kind not in "biu":
        raise RWLossError(
            f"expected whole numbers on 2 or 3 axes, got {labels.dtype} {labels.shape}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise RWLossError(f"expected labels of 0..65535, got {low}..{high}")
    return labels.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _write_nifti(path: Path, labels: NDArray[Any], like: Path) -> None:
    import nibabel

    image: Any = nibabel.load(like)
    shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
    if labels.shape != shape:
        raise RWLossError(f"the labels have the shape {labels.shape}, {str(like)!r} {shape}")
    header = image.header.copy()
    header.extensions.clear()  # they say how the image was made
    header.set_data_dtype(labels.dtype)
    # Scale and display window belong to the image, and would hide labels.
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    # Without an explicit affine, nibabel keeps the header's sform and qform.
    content = type(image)(labels, None, header).to_bytes()
    is_deflated = path.name.lower().endswith(".gz")
    path.write_bytes(gzip.compress(content, 1, mtime=0) if is_deflated else content)


def _write_picture(path: Path, labels: NDArray[Any]) -> None:
    from PIL import Image

    is_png = path.suffix.lower() == ".png"
    if is_png and labels.ndim != 2:
        raise RWLossError(f"a PNG holds two axes, and the labels have the shape {labels.shape}")
    first, *more = map(Image.fromarray, labels[None] if labels.ndim == 2 else labels)
    if is_png:
        first.save(path, format="PNG")
        return
    options = {"save_all": True, "append_images": more} if more else {}
    first.save(path, format="TIFF", compression="tiff_deflate", **options)


def _write_array(path: Path, labels: NDArray[Any]) -> None:
    with path.open("wb") as stream:  # given the name, np.save would add a suffix to A.NPY
        if path.suffix.lower() == ".npy":
            np.save(stream, labels, allow_pickle=False)
        else:
            np.savez_compressed(stream, labels=labels)
