"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz), read with nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from rwloss.data.readers.decoded import Decoded, check_bytes, check_shape
from rwloss.errors import RWLossError

# Millimetres of the header's unit codes: unknown (taken as mm by everyone), metre, mm, micron.
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_HEADER_BYTES = {348, 540}
_CHUNK = 1 << 20


def read(path: Path, max_voxels: int) -> Decoded:
    """Values (*s) in nibabel's axis order, scaled as the header says; spacing and affine in mm.

    The spacing is the header's pixdim, as ITK and nnU-Net take it. A fourth axis of length one is
    dropped. Raises RWLossError for colour and complex voxels, for a zero spacing and for a file
    that cannot hold what its header announces; and whatever nibabel and gzip raise.
    """
    from nibabel.fileholders import FileHolder
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    deflated = path.name.lower().endswith(".gz")
    with gzip.open(path) if deflated else path.open("rb") as stream:
        start = stream.read(540)
        size = _header_bytes(start)
        image_class: Any = Nifti1Image if size == 348 else Nifti2Image
        if len(start) < size:
            raise RWLossError(f"it is cut short: {len(start)} bytes, the header alone has {size}")
        header = image_class.header_class(start[:size], check=False)
        shape = _shape(header)
        check_shape(shape, max_voxels)
        dtype = header.get_data_dtype()
        if dtype.kind not in "biuf":
            raise RWLossError(f"expected one number a voxel, got the NIfTI data type {dtype}")
        check_bytes(
            dtype.itemsize * int(np.prod(shape, dtype=object)),
            path.stat().st_size,
            deflated=deflated,
        )
        # nibabel turns a zero spacing into 1 and only logs it: that is a guess.
        if 0 in header["pixdim"][1 : 1 + min(len(shape), 3)]:
            raise RWLossError(
                f"its header gives the spacing {header['pixdim'][1 : 1 + len(shape)].tolist()}: "
                "every axis needs a spacing above zero; correct pixdim"
            )
        unit = int(header["xyzt_units"]) & 7
        if unit not in _MM:
            raise RWLossError(f"its header gives the unknown unit code {unit}: correct xyzt_units")
        factor = _MM[unit]
        stream.seek(0)
        holder = FileHolder(fileobj=stream)
        # Without mmap: a file that shrinks while it is mapped kills the process.
        image = image_class.from_file_map({"image": holder, "header": holder}, mmap=False)
        values = np.asanyarray(image.dataobj)
        slope = float(image.dataobj.slope)
        if deflated:
            # The checksum stands at the end, and nibabel stops reading before it.
            while stream.read(_CHUNK):
                pass
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    zooms = image.header.get_zooms()[: values.ndim]
    return Decoded(
        values=values,
        # By way of the shortest decimal: a stored float32 0.8 means 0.8, not 0.800000012.
        spacing_mm=tuple(float(str(np.float32(zoom))) * factor for zoom in zooms),
        affine=np.diag([factor, factor, factor, 1.0]) @ np.asarray(image.affine, dtype=np.float64),
        step=0.0 if dtype.kind == "f" or slope == 1.0 else abs(slope),
    )


def _header_bytes(start: bytes) -> int:
    """The header's own length, in either byte order: 348 is NIfTI-1, 540 NIfTI-2."""
    for size in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
        if size in _HEADER_BYTES:
            return size
    raise RWLossError(
        "it is empty" if not start else "it is not a NIfTI file: the header does not begin as one"
    )


def _shape(header: Any) -> tuple[int, ...]:
    """The shape as written, without nibabel's special cases for other programs' headers."""
    ndim = int(header["dim"][0])
    if not 1 <= ndim <= 7:
        raise RWLossError(f"its header announces {ndim} axes: it is damaged, or not a NIfTI file")
    return tuple(int(length) for length in header["dim"][1 : 1 + ndim])
