"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz): headers by nibabel, voxels straight into an array."""

from __future__ import annotations

import gzip
import importlib
import math
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.data.readers import DEFLATE_RATIO, Decoded, check_bytes, check_shape
from rwloss.data.spacing import mm_per_unit
from rwloss.errors import RWLossError

# Small enough to reuse the same memory pages: new pages cost more than inflating into them.
_BLOCK = 1 << 19
# Some programs pad the last block of a file.
_PADDING = 1 << 16


def read_nifti(path: Path, max_voxels: int) -> Decoded:
    """Values (*s) in nibabel's axis order, scaled as the header says; spacing and affine in mm.

    The spacing is the header's pixdim, as in ITK and nnU-Net. A fourth axis of length one is
    dropped, extensions are not read. Decompresses with isal if installed. Raises RWLossError for
    color and complex voxels, for a spacing of zero or less, and where the header announces more
    than the file can hold, or less than half of what it holds; and whatever nibabel and gzip raise.
    """
    from nibabel.volumeutils import apply_read_scaling

    deflated = path.name.lower().endswith(".gz")
    with _open(path, deflated) as stream:
        header = _header(stream)
        # The shape as written, without nibabel's special cases for other programs' headers.
        if not 1 <= (ndim := int(header["dim"][0])) <= 7:
            raise RWLossError(
                f"its header announces {ndim} axes: it is damaged, or not a NIfTI file"
            )
        shape = tuple(int(length) for length in header["dim"][1 : 1 + ndim])
        check_shape(shape, max_voxels)
        lengths_mm, factor = _lengths_mm(header, len(shape))
        # nibabel fixes zero and negative spacings here and only logs it; they were refused above.
        header.check_fix()
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf":
            raise RWLossError(f"expected one number per voxel, got the NIfTI data type {dtype}")
        start, needed = header.get_data_offset(), dtype.itemsize * math.prod(shape)
        if start < header.sizeof_hdr:
            raise RWLossError(
                f"its voxels begin at byte {start}, inside the header or in another file: correct "
                f"vox_offset ({header.single_vox_offset} without extensions)"
            )
        check_bytes(start + needed, path.stat().st_size, ratio=DEFLATE_RATIO if deflated else 1)
        values = _bytes(stream, start, needed).view(dtype).reshape(shape, order="F")
        _check_end(stream, needed)
    with np.errstate(all="ignore"):  # what is not finite in the end is an error further on
        slope, intercept = header.get_slope_inter()
        values = apply_read_scaling(values, slope, intercept)
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= factor
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    return Decoded(
        values=values,
        spacing_mm=lengths_mm[: values.ndim],
        affine=affine,
        step=0.0 if dtype.kind == "f" or slope in {None, 1.0} else abs(slope),
    )


def _open(path: Path, deflated: bool) -> BufferedIOBase:
    """The file's bytes, decompressed if necessary. Checksums are compared at the end."""
    if not deflated:
        return path.open("rb")
    library: Any = gzip
    with suppress(ImportError):
        library = importlib.import_module("isal.igzip")
    opened: BufferedIOBase = library.open(path)
    return opened


def _header(stream: BufferedIOBase) -> Any:
    """nibabel's header, not yet checked, in the version and byte order that its length gives."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    known: dict[int, Any] = {348: Nifti1Header, 540: Nifti2Header}
    head = stream.read(540)
    sizes = {"<": int.from_bytes(head[:4], "little"), ">": int.from_bytes(head[:4], "big")}
    for order, size in sizes.items():
        if size in known and len(head) < size:
            raise RWLossError(f"it is cut short: {len(head)} bytes, the header alone has {size}")
        if size in known:
            return known[size](head[:size], endianness=order, check=False)
    raise RWLossError(
        "it is empty" if not head else "it is not a NIfTI file: the header does not begin as one"
    )


def _lengths_mm(header: Any, ndim: int) -> tuple[tuple[float, ...], float]:
    """Spacing of each axis in mm, and the millimeters of the header's unit."""
    factor = mm_per_unit(int(header["xyzt_units"]))
    with np.errstate(over="ignore"):
        pixdim = header["pixdim"][1 : 1 + ndim].astype(np.float32)
    if not all(0 < length < math.inf for length in pixdim[:3]):
        raise RWLossError(
            f"its header gives the spacing {pixdim.tolist()}: every axis needs a spacing above "
            "zero; correct pixdim"
        )
    # Through the shortest decimal: a stored float32 0.8 means 0.8, not 0.800000012.
    return tuple(float(str(length)) * factor for length in pixdim), factor


def _bytes(stream: BufferedIOBase, start: int, needed: int) -> NDArray[np.uint8]:
    """This many bytes, from `start` on."""
    content = np.empty(needed, dtype=np.uint8)
    stream.seek(start)
    at = 0
    while at < needed:
        got = stream.readinto(content.data[at : at + _BLOCK])
        if not got:
            raise RWLossError(f"it is cut short: {at} of {needed} bytes of voxels")
        at += got
    return content


def _check_end(stream: BufferedIOBase, needed: int) -> None:
    """Read to the end, where the checksum of a compressed file is."""
    more = 0
    while block := stream.read(_PADDING):
        more += len(block)
        if more > max(needed, _PADDING):
            raise RWLossError(
                f"its header announces {needed} bytes of voxels, and the file holds more than "
                "twice as many: the header is damaged, correct dim"
            )
