"""MHA and NRRD files, read with SimpleITK in a process of its own.

ITK's parsers crash on some damaged headers (ITK issue 6853; long lines in NRRD), take minutes over
others, follow some to other files, and fill what is missing of the voxels with zeros. So a crash
ends another process, and ITK's voxels count only where they are the bytes that the file holds.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rwloss.data.readers import DEFLATE_RATIO, Decoded, check_bytes, check_shape
from rwloss.data.spacing import mm_per_unit
from rwloss.errors import RWLossError
from rwloss.work.isolated import ProcessDied, run_isolated

R = TypeVar("R")

# A header takes milliseconds, and minutes where it has 1e308 among its directions.
_HEADER_S = 20.0


@dataclass(frozen=True)
class ItkGeometry:
    """Shape of an image, and its place in ITK's own axes (LPS); directions as ITK flattens them."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[float, ...]
    directions: tuple[float, ...]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to RAS millimetres, as nibabel's. (4 4)."""
        ndim = len(self.shape)
        affine = np.eye(4)
        affine[:ndim, :ndim] = np.reshape(self.directions, (ndim, ndim)) * self.spacing_mm
        affine[:ndim, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def read_itk(path: Path, max_voxels: int) -> Decoded:
    """Values (x, y[, z]) with spacing and affine in mm, as the same image would be in NIfTI.

    Raises RWLossError without SimpleITK, where ITK fails, crashes or hangs, for several numbers per
    voxel, for voxels in another file, and for a file that does not hold all of its voxels.
    """
    itk_geometry(path, max_voxels)
    values, geometry = _isolated(read_itk_voxels, path)
    return Decoded(values=values, spacing_mm=geometry.spacing_mm, affine=geometry.affine)


def itk_geometry(path: Path, max_voxels: int) -> ItkGeometry:
    """Shape and place of a file, before its voxels take any memory. Raises as `read_itk` does."""
    if importlib.util.find_spec("SimpleITK") is None:
        raise RWLossError(
            "MHA and NRRD files need SimpleITK: pip install rwloss[itk], or save it as NIfTI"
        )
    return _isolated(read_itk_header, path, max_voxels, timeout_s=_HEADER_S)


def _isolated(function: Callable[..., R], *args: Any, timeout_s: float | None = None) -> R:
    try:
        return run_isolated(function, *args, timeout_s=timeout_s)
    except ProcessDied as error:
        raise RWLossError(f"it is damaged, and ITK failed on it: {error}") from error
    except RuntimeError as error:  # many lines, with the innermost reason last
        lines = [line for line in str(error).splitlines() if not line.startswith("Reason:")]
        reason = re.sub(r".*\(0x\w+\): ", "", lines[-1] if lines else "no reason given")
        raise RWLossError(f"it is damaged, or not of a kind that ITK reads ({reason})") from error


# What follows runs in the other process.


def read_itk_header(path: Path, max_voxels: int) -> ItkGeometry:
    """What the header says, if the file can hold as many voxels."""
    sitk: Any = importlib.import_module("SimpleITK")
    header, stored = _split(path)
    reader = _reader(path)
    reader.ReadImageInformation()
    shape = tuple(map(int, reader.GetSize()))
    if len(shape) not in {2, 3}:
        raise RWLossError(f"expected 2 or 3 axes, got {len(shape)}")
    check_shape(shape, max_voxels)
    if reader.GetNumberOfComponents() != 1:
        raise RWLossError(
            f"expected one number per voxel, got {reader.GetNumberOfComponents()}: save one channel"
        )
    one_voxel = sitk.Image([1] * len(shape), reader.GetPixelIDValue())
    needed = one_voxel.GetSizeOfPixelComponent() * math.prod(shape)
    check_bytes(needed, len(stored), ratio=DEFLATE_RATIO)
    return _geometry(reader, header)


def read_itk_voxels(path: Path) -> tuple[NDArray[Any], ItkGeometry]:
    """The voxels (x, y[, z]), if they are those that the file holds, and their place."""
    image = _reader(path).Execute()
    values: NDArray[Any] = importlib.import_module("SimpleITK").GetArrayFromImage(image)
    header, stored = _split(path)
    in_either_byte_order = values.tobytes(), values.byteswap().tobytes()
    if (
        not stored.startswith(in_either_byte_order)
        and _inflated(stored, values.nbytes) not in in_either_byte_order
    ):
        raise RWLossError("it is damaged, or stored in a way that is not read here: save it again")
    return values.T, _geometry(image, header)


def _reader(path: Path) -> Any:
    # ITK's parsers print what they think of a file: the error says it, or it does not matter.
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    reader: Any = importlib.import_module("SimpleITK").ImageFileReader()
    reader.SetImageIO("MetaImageIO" if path.suffix.lower() == ".mha" else "NrrdImageIO")
    reader.SetFileName(str(path))
    return reader


def _geometry(source: Any, header: bytes) -> ItkGeometry:
    """What a reader or an image of ITK says, in the unit of the header, which ITK ignores."""
    units = set(re.findall(rb"(?m)^(?:space )?units:.*$", header))
    units = {each for line in units for each in re.findall(rb'"([^"]*)"', line)}
    units |= set(re.findall(rb"(?m)^DistanceUnits *= *([^\s?]+)", header))
    factors = {mm_per_unit(unit.decode("utf-8", "replace")) for unit in units - {b""}} or {1.0}
    if len(factors) > 1:
        raise RWLossError("its axes have different units: save it in mm")
    [factor] = factors
    return ItkGeometry(
        shape=tuple(map(int, source.GetSize())),
        spacing_mm=tuple(length * factor for length in source.GetSpacing()),
        origin=tuple(place * factor for place in source.GetOrigin()),
        directions=tuple(source.GetDirection()),
    )


def _split(path: Path) -> tuple[bytes, bytes]:
    """Header and voxels. Raises RWLossError for headers that ITK reads, but must not."""
    content = path.read_bytes()
    if path.suffix.lower() == ".mha":
        header, *rest = content.split(b"ElementDataFile")
        local = re.match(rb" *= *local *\r?\n", rest[0], re.IGNORECASE) if len(rest) == 1 else None
        stored = rest[0][local.end() :] if local else None
    else:
        header, *rest = re.split(rb"\n\r?\n", content, maxsplit=1)
        stored = rest[0] if rest else None
    if stored is None or re.search(rb"(?im)^[ \t]*data[ \t]*file[ \t]*:", content):
        raise RWLossError(
            "it is cut short in its header, or its voxels lie in another file: save it as one "
            "whole file"
        )
    # ITK takes a spacing of 1 for what it cannot represent.
    if re.search(rb"(?im)^[^#:=\n]*spac[^:=\n]*[:=].*(\bnan\b|\binf|e\+?\d{3})", header):
        raise RWLossError("its header has a spacing that is no possible length: correct it")
    return header, stored


def _inflated(stored: bytes, needed: int) -> bytes:
    """The content of a zlib or gzip stream, to its checksum, which ITK does not compare."""
    inflate = zlib.decompressobj(wbits=47)
    try:
        held = inflate.decompress(stored, needed + 1)
    except zlib.error:
        held = b""
    if len(held) != needed or not inflate.eof:
        raise RWLossError(f"it is cut short or damaged: expected {needed} bytes of voxels")
    return held
