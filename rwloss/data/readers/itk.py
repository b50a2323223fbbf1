"""MHA and NRRD files, read with SimpleITK where it is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from rwloss.data.readers.decoded import Decoded, check_shape
from rwloss.data.readers.itk_header import check
from rwloss.errors import RWLossError


def read(path: Path, max_voxels: int) -> Decoded:
    """Values (x, y[, z]) with spacing and affine in mm, as the same image would be in NIfTI.

    The affine leads to RAS, as nibabel's do (ITK's own axes are LPS). Raises RWLossError without
    SimpleITK, for several numbers a voxel and for files that `itk_header.check` refuses; and
    whatever SimpleITK raises.
    """
    try:
        sitk: Any = importlib.import_module("SimpleITK")
    except ImportError as exc:
        raise RWLossError(
            "MHA and NRRD files need SimpleITK: pip install rwloss[itk], or save it as NIfTI"
        ) from exc

    check(path, max_voxels)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if path.suffix.lower() == ".mha" else "NrrdImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = tuple(int(length) for length in reader.GetSize())
    check_shape(shape, max_voxels)
    if reader.GetNumberOfComponents() != 1:
        raise RWLossError(
            f"expected one number a voxel, got {reader.GetNumberOfComponents()}: save one channel"
        )
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
