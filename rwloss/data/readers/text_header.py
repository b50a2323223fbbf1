"""MHA and NRRD files: a header in plain text, then the voxels, plain or compressed.

Read here rather than with SimpleITK, whose parsers crash on some damaged headers (ITK issue 6853),
follow others to other files, and fill what is missing of the voxels with zeros.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.data.readers import DEFLATE_RATIO, Decoded, check_bytes, check_shape
from rwloss.data.spacing import mm_per_unit
from rwloss.errors import RWLossError

_MHA_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"}
_MHA_TYPES |= {"LONG": "i4", "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8"}
_MHA_TYPES |= {"FLOAT": "f4", "DOUBLE": "f8"}
# Names without "signed", "int", "_t" and spaces: "unsigned short int" is "ushort".
_NRRD_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "": "i4", "u": "u4"}
_NRRD_TYPES |= {"longlong": "i8", "ulonglong": "u8", "float": "f4", "double": "f8"}
_NRRD_TYPES |= {"8": "i1", "u8": "u1", "16": "i2", "u16": "u2", "32": "i4", "u32": "u4"}
_NRRD_TYPES |= {"64": "i8", "u64": "u8"}
# Signs that take the first two axes of a space to left and posterior.
_TO_LPS = {"right-anterior-superior": (-1, -1), "ras": (-1, -1)}
_TO_LPS |= {"left-anterior-superior": (1, -1), "las": (1, -1)}


@dataclass(frozen=True, eq=False)
class TextHeader:
    """Shape and voxels of an image, and its place in LPS; directions has one unit vector per axis.

    ends_file: other bytes may come before the voxels. stored_bytes: of the voxels, if given.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    directions: NDArray[np.float64]
    dtype: np.dtype[Any]
    is_compressed: bool
    ends_file: bool
    stored_bytes: int | None = None

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to RAS millimeters, as nibabel's. (4 4)."""
        ndim = len(self.shape)
        affine = np.eye(4)
        with np.errstate(all="ignore"):  # what is not finite is an error further on
            affine[:ndim, :ndim] = self.directions.T * self.spacing_mm
            affine[:ndim, 3] = self.origin_mm
            return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def read_text_header(path: Path, max_voxels: int) -> Decoded:
    """Values (x, y[, z]) with spacing and affine in mm, like the same image in NIfTI.

    Raises RWLossError for a damaged header, for several numbers per voxel, for voxels in another
    file or in text, and for a file without all of its voxels.
    """
    header, stored = _read(path, max_voxels)
    shape = header.shape
    needed = header.dtype.itemsize * math.prod(shape)
    check_bytes(needed, len(stored), ratio=DEFLATE_RATIO if header.is_compressed else 1)
    if header.stored_bytes not in {None, len(stored)}:
        raise RWLossError(f"it is damaged: {len(stored)} bytes, not {header.stored_bytes}")
    if header.is_compressed:
        stored = _inflated(stored, needed)
    elif header.ends_file:
        stored = stored[-needed:]
    elif len(stored) > needed:
        raise RWLossError(f"it is damaged: {len(stored) - needed} bytes follow its voxels")
    values = np.frombuffer(stored, header.dtype, math.prod(shape)).reshape(shape, order="F")
    return Decoded(values.copy("K"), header.spacing_mm, header.affine)


def write_text_header(path: Path, labels: NDArray[Any], like: Path, max_voxels: int) -> None:
    """Write labels (x, y[, z]), uint8 or uint16, compressed, with the geometry of an image of their
    shape.

    Raises like `read_text_header`, and for an image of another shape.
    """
    place, _ = _read(like, max_voxels)
    if labels.shape != place.shape:
        raise RWLossError(f"the labels have the shape {labels.shape}, {str(like)!r} {place.shape}")
    sizes, size = " ".join(map(str, labels.shape)), labels.dtype.itemsize
    voxels = labels.astype(labels.dtype.newbyteorder("<"), copy=False).tobytes("F")
    if path.suffix.lower() == ".mha":
        content = zlib.compress(voxels)
        lines = [
            f"ObjectType = Image\nNDims = {labels.ndim}",
            "BinaryData = True\nBinaryDataByteOrderMSB = False",
            f"CompressedData = True\nCompressedDataSize = {len(content)}",
            f"TransformMatrix = {_joined(np.ravel(place.directions), ' ')}",
            f"Offset = {_joined(place.origin_mm, ' ')}",
            f"ElementSpacing = {_joined(place.spacing_mm, ' ')}",
            f"DimSize = {sizes}\nElementType = {'MET_UCHAR' if size == 1 else 'MET_USHORT'}",
            "ElementDataFile = LOCAL\n",
        ]
    else:
        deflate = zlib.compressobj(wbits=31)  # with gzip's header
        content = deflate.compress(voxels) + deflate.flush()
        vectors = np.multiply(place.directions, np.reshape(place.spacing_mm, (-1, 1)))
        lines = [
            f"NRRD0004\ntype: uint{8 * size}\ndimension: {labels.ndim}",
            "space: left-posterior-superior" if labels.ndim == 3 else "space dimension: 2",
            f"sizes: {sizes}",
            "space directions: " + " ".join(f"({_joined(row, ',')})" for row in vectors),
            f"endian: little\nencoding: gzip\nspace origin: ({_joined(place.origin_mm, ',')})",
            "\n",
        ]
    path.write_bytes("\n".join(lines).encode() + content)


def _joined(numbers: Iterable[float], separator: str) -> str:
    return separator.join(repr(float(number)) for number in numbers)


def _read(path: Path, max_voxels: int) -> tuple[TextHeader, bytes]:
    """The header, and the bytes behind it."""
    is_mha, content = path.suffix.lower() == ".mha", path.read_bytes()
    end = r"\n[ \t]*ElementDataFile *= *local *\r?\n" if is_mha else r"\n\r?\n"
    text, *rest = re.split(f"(?i){end}".encode(), content, maxsplit=1)
    elsewhere = rb"(?im)^[ \t]*(element *data *file *[=:]|data[ \t]*file[ \t]*:)"
    if not rest or re.search(elsewhere, text):
        raise RWLossError(
            "it is cut short in its header, or its voxels are in another file: save it as one file"
        )
    try:
        lines = text.decode("latin-1").splitlines()
        header, stored = (_mha(lines), rest[0]) if is_mha else (_nrrd(lines), rest[0])
    except (ValueError, OverflowError) as error:
        raise RWLossError(f"its header is damaged, or of an unsupported kind: {error}") from error
    check_shape(header.shape, max_voxels)
    return header, stored


def _mha(lines: Sequence[str]) -> TextHeader:
    fields = _fields(lines, "=")
    ndim = _two_or_three(_one_of(fields, "ndims"))
    shape = _numbers(_one_of(fields, "dimsize"))
    turn = _one_of(fields, "transformmatrix", "rotation", "orientation", default="")
    skip = _one_of(fields, "headersize", default="0")
    is_big = _one_of(fields, "binarydatabyteordermsb", "elementbyteordermsb", default="false")
    _check_channels([int(_one_of(fields, "elementnumberofchannels", default="1"))])
    if skip not in {"0", "-1"} or not _flag(_one_of(fields, "binarydata", default="true")):
        raise ValueError("its voxels are in text, or begin elsewhere")
    name = _one_of(fields, "elementtype").removeprefix("MET_")
    packed = fields.get("compresseddatasize")
    return _header(
        ndim,
        shape,
        _numbers(_one_of(fields, "elementspacing", "elementsize", default="1 " * ndim)),
        _numbers(_one_of(fields, "offset", "position", "origin", default="0 " * ndim)),
        np.reshape(_numbers(turn) if turn else np.eye(ndim), (ndim, ndim)),
        {fields.get("distanceunits", "mm")} - {"?"},
        dtype=_dtype(_MHA_TYPES, name, ">" if _flag(is_big) else "<"),
        is_compressed=_flag(_one_of(fields, "compresseddata", default="false")),
        ends_file=skip == "-1",
        stored_bytes=None if packed is None else int(packed),
    )


def _nrrd(lines: Sequence[str]) -> TextHeader:
    if not re.fullmatch("NRRD000[1-5]", lines[0]):
        raise ValueError(f"it begins with {lines[0][:40]!r}")
    # Lines with := hold any text.
    fields = _fields([each for each in lines[1:] if each[0:1] != "#" and ":=" not in each], ":")
    sizes = _numbers(_one_of(fields, "sizes"))
    kinds = zip(sizes, fields.get("kinds", "").split(), strict=False)
    _check_channels([n for n, kind in kinds if kind not in {"domain", "space", "none", "???"}])
    ndim = _two_or_three(_one_of(fields, "dimension"))
    vectors = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
    directions = np.array([each.split(",") for each in vectors], float) if vectors else np.eye(ndim)
    spacing = _numbers(_one_of(fields, "spacings", default="1 " * ndim))
    if vectors:
        spacing = np.linalg.norm(directions, axis=1).tolist()
        with np.errstate(all="ignore"):  # what is not finite is an error further on
            directions /= np.reshape(spacing, (-1, 1))
    origin = _numbers(re.sub("[(),]", " ", fields.get("space origin", "0 " * ndim)))
    signs = np.ones(ndim)
    signs[:2] = _TO_LPS.get(fields.get("space", "").lower(), (1, 1))
    skip, encoding = _one_of(fields, "byte skip", "byteskip", default="0"), fields.get("encoding")
    line_skip = _one_of(fields, "line skip", "lineskip", default="0")
    if encoding not in {"raw", "gzip", "gz"} or skip not in {"0", "-1"} or line_skip != "0":
        raise ValueError(f"encoding {encoding}, byte skip {skip}, line skip {line_skip}")
    units = f"{fields.get('space units', '')} {fields.get('units', '')}"
    name = re.sub(r"\bsigned |int|_t$| ", "", _one_of(fields, "type").replace("unsigned ", "u"))
    order = {"little": "<", "big": ">"}.get(fields.get("endian", ""), "")
    return _header(
        ndim,
        sizes,
        spacing,
        np.multiply(origin, signs).tolist(),
        directions * signs,
        set(re.findall('"([^"]*)"', units)) - {""},
        dtype=_dtype(_NRRD_TYPES, name, order),
        is_compressed=encoding != "raw",
        ends_file=skip == "-1",
    )


def _fields(lines: Iterable[str], separator: str) -> dict[str, str]:
    """The fields of a header by name in lower case."""
    found: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, *value = line.split(separator, 1)
        name = name.strip().lower()
        if not value or name in found:
            raise ValueError(f"{line[:40]!r} {'occurs twice' if value else 'is no field'}")
        found[name] = value[0].strip()
    return found


def _one_of(fields: Mapping[str, str], *names: str, default: str | None = None) -> str:
    """The first field that exists."""
    value = next((fields[name] for name in names if name in fields), default)
    if value is None:
        raise ValueError(f"it has no {names[0]}")
    return value


def _two_or_three(text: str) -> int:
    if text not in {"2", "3"}:
        raise ValueError(f"{text[:40]} axes")
    return int(text)


def _numbers(text: str) -> list[float]:
    return list(map(float, text.split()))


def _flag(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"expected True or False, got {text[:40]!r}")
    return text.lower() == "true"


def _check_channels(numbers: Sequence[float]) -> None:
    if numbers and numbers != [1]:
        raise RWLossError(f"expected one number per voxel, got {numbers[0]:g}: save one channel")


def _dtype(types: Mapping[str, str], name: str, order: str) -> np.dtype[Any]:
    if name not in types:
        raise ValueError(f"the type {name[:40]!r}")
    if not order and types[name][1] != "1":
        raise ValueError("it has no byte order")
    return np.dtype(order + types[name])


def _header(
    ndim: int,
    sizes: Sequence[float],
    spacing: Sequence[float],
    origin: Sequence[float],
    directions: NDArray[np.float64],
    units: set[str],
    **voxels: Any,
) -> TextHeader:
    shape = tuple(map(int, sizes))
    lengths = {len(shape), len(spacing), len(origin), *directions.shape}
    if lengths != {ndim} or any(map(float.__ne__, sizes, map(float, shape))):
        raise ValueError(f"{ndim} axes of sizes {sizes} with {len(spacing)} spacings")
    factors = {mm_per_unit(unit) for unit in units} or {1.0}
    if len(factors) > 1:
        raise RWLossError("its axes have different units: save it in mm")
    [factor] = factors
    return TextHeader(
        shape=shape,
        spacing_mm=tuple(length * factor for length in spacing),
        origin_mm=tuple(place * factor for place in origin),
        directions=directions,
        **voxels,
    )


def _inflated(stored: bytes, needed: int) -> bytes:
    """The content of a zlib or gzip stream, to its checksum."""
    inflate = zlib.decompressobj(wbits=47)
    try:
        held = inflate.decompress(stored, needed + 1)
    except zlib.error:
        held = b""
    if len(held) != needed or not inflate.eof:
        raise RWLossError(f"it is cut short or damaged: expected {needed} bytes of voxels")
    return held
