"""MHA and NRRD files, read with SimpleITK where it is installed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from rwloss.data.readers.decoded import Decoded, check_bytes, check_shape
from rwloss.errors import RWLossError

_HEADER_BYTES = 1 << 20
_MHA_DATA = re.compile(rb"(?m)^ElementDataFile *= *([^\r\n]*)")
_NRRD_DATA = re.compile(rb"(?mi)^data ?file *:")


def read(path: Path, max_voxels: int) -> Decoded:
    """Values (x, y[, z]) with spacing and affine in mm, as the same image would be in NIfTI.

    The affine leads to RAS, as nibabel's do (ITK's own axes are LPS). Raises RWLossError without
    SimpleITK, for several numbers a voxel and for voxels in another file; and whatever SimpleITK
    raises. (A damaged MHA header can end the process inside ITK: its issue 6853.)
    """
    try:
        sitk: Any = importlib.import_module("SimpleITK")
    except ImportError as exc:
        raise RWLossError(
            "MHA and NRRD files need SimpleITK: pip install rwloss[itk], or save it as NIfTI"
        ) from exc

    _check_attached(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = tuple(int(length) for length in reader.GetSize())
    check_shape(shape, max_voxels)
    if reader.GetNumberOfComponents() != 1:
        raise RWLossError(
            f"expected one number a voxel, got {reader.GetNumberOfComponents()}: save one channel"
        )
    # One byte a voxel at least; ITK fills what the file does not hold with zeros, silently.
    check_bytes(int(np.prod(shape, dtype=object)), path.stat().st_size, deflated=True)
    image = reader.Execute()
    ndim = len(shape)
    affine = np.eye(4)
    if ndim <= 3:
        direction = np.array(image.GetDirection()).reshape(ndim, ndim)
        affine[:ndim, :ndim] = direction * np.array(image.GetSpacing())
        affine[:ndim, 3] = image.GetOrigin()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return Decoded(
        values=sitk.GetArrayFromImage(image).T,
        spacing_mm=tuple(float(length) for length in image.GetSpacing()),
        affine=affine,
    )


def _check_attached(path: Path) -> None:
    """Refuse a header that sends ITK to other files: the data's author must not choose them."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if path.suffix.lower() == ".mha":
        data = _MHA_DATA.search(head)
        if data is None or data[1].strip() != b"LOCAL":
            raise RWLossError(
                "it is cut short, or its voxels lie in another file (expected ElementDataFile = "
                "LOCAL): save it as one whole file"
            )
    # The header of NRRD ends with an empty line.
    elif _NRRD_DATA.search(re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]):
        raise RWLossError("its voxels lie in another file: save it as one whole file")
