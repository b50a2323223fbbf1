"""Headers of MHA and NRRD files, judged before ITK sees them.

ITK's own parsers end the process on some damaged headers (ITK issue 6853; long lines in NRRD),
follow others to files elsewhere, and take for voxels what a damaged stream leaves of them. So ITK
is given only what is understood here, and only whole.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rwloss.data.readers.decoded import DEFLATE_RATIO, check_bytes, check_shape
from rwloss.errors import RWLossError

_BLOCK = 1 << 18
_MOST_LINES, _LONGEST_LINE = 10_000, 1 << 14
# The parsers copy what they know of, or complain of, into buffers of 256 bytes.
_LONGEST_VALUE = 200
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
# ITK takes minutes over a matrix with 1e308 in it.
_LARGEST = 1e12

_TRUE, _FALSE = {"True", "true", "TRUE", "1"}, {"False", "false", "FALSE", "0"}
_MHA_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
# MetaIO reads these as one number, one an axis, and axes x axes numbers: the exponent of the axes.
_MHA_EXPONENTS = {
    **dict.fromkeys(("NDims", "ID", "ParentID", "CompressionLevel", "CompressedDataSize"), 0),
    **dict.fromkeys(("HeaderSize", "ElementMin", "ElementMax", "ElementNBits"), 0),
    **dict.fromkeys(("ElementNumberOfChannels", "ElementToIntensityFunctionSlope"), 0),
    "ElementToIntensityFunctionOffset": 0,
    **dict.fromkeys(("DimSize", "ElementSpacing", "ElementSize", "SequenceID"), 1),
    **dict.fromkeys(("Position", "Offset", "Origin", "CenterOfRotation", "ImagePosition"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}

_NRRD_BYTES = {
    r"signed char|uchar|unsigned char|u?int8(_t)?": 1,
    r"u?short|(un)?signed short|((un)?signed )?short int|u?int16(_t)?|short": 2,
    r"u?int|((un)?signed )?int|u?int32(_t)?|float": 4,
    r"u?longlong|((un)?signed )?long long( int)?|u?int64(_t)?|double": 8,
}
_NRRD_GEOMETRY = {"spacings", "spacedirections", "spaceorigin"}


def check(path: Path, max_voxels: int) -> None:
    """Refuse an .mha or .nrrd file that ITK can't be trusted with, before it takes any memory.

    Raises RWLossError for a header that is damaged or leads to other files, for more than
    max_voxels voxels, and for a file that does not hold all of them.
    """
    with path.open("rb") as stream:
        voxels = _mha(stream) if path.suffix.lower() == ".mha" else _nrrd(stream)
        check_shape(voxels.shape, max_voxels)
        needed = voxels.bytes_each * math.prod(voxels.shape)
        present = path.stat().st_size - stream.tell()
        check_bytes(needed, present, ratio=DEFLATE_RATIO if voxels.deflated else 1)
        if voxels.stream_bytes not in {None, present}:
            raise RWLossError(
                f"it is cut short or damaged: its header gives CompressedDataSize = "
                f"{voxels.stream_bytes}, and {present} bytes follow"
            )
        if voxels.deflated:
            _check_inflated(stream, needed)


@dataclass(frozen=True)
class _Voxels:
    """What a header says of the bytes behind it; stream_bytes where it gives their number."""

    shape: list[int]
    bytes_each: int
    deflated: bool
    stream_bytes: int | None = None


def _mha(stream: BinaryIO) -> _Voxels:
    """The header of an MHA file. Leaves the stream at the voxels."""
    fields = _mha_fields(stream)
    if fields.get("ElementDataFile") not in {"LOCAL", "Local", "local"}:
        raise RWLossError(
            "it is cut short, or its voxels lie in another file (expected ElementDataFile = "
            "LOCAL): save it as one whole file"
        )
    channels, kind = fields.get("ElementNumberOfChannels", "1"), fields.get("ElementType", "")
    if channels != "1":
        raise RWLossError(f"expected one number a voxel, got {channels}: save one channel")
    if kind not in _MHA_BYTES or "DimSize" not in fields:
        raise RWLossError(f"its header gives no DimSize, or an ElementType unknown here: {kind!r}")
    if fields.get("BinaryData") not in _TRUE or fields.get("HeaderSize", "0") != "0":
        raise RWLossError("expected BinaryData = True and no HeaderSize: save it again")
    shape, compressed = _lengths(fields["DimSize"]), fields.get("CompressedData", "False")
    if compressed in _FALSE:
        return _Voxels(shape, _MHA_BYTES[kind], deflated=False)
    # Without a size, MetaIO inflates its own header; it takes any word with a T for True.
    if compressed not in _TRUE or not fields.get("CompressedDataSize", "").isdecimal():
        raise RWLossError("its header gives no CompressedDataSize: save it again")
    return _Voxels(shape, _MHA_BYTES[kind], True, int(fields["CompressedDataSize"]))


def _mha_fields(stream: BinaryIO) -> dict[str, str]:
    """Up to ElementDataFile, which is the last; each field as MetaIO will take it."""
    fields: dict[str, str] = {}
    axes = 0
    for line in _lines(stream):
        key, equals, value = (part.strip() for part in line.partition("="))
        # MetaIO takes a colon for "=" too, and without either looks for one on the next line.
        if not equals or not key or ":" in key or key in fields:
            raise _damaged(line)
        # A name that is no plain word is none of MetaIO's own: its value may have any length.
        if key.isalpha() and len(value) > _LONGEST_VALUE:
            raise _damaged(line)
        if key == "NDims":
            if value not in {"2", "3"}:
                raise RWLossError(f"expected 2 or 3 axes, got NDims = {value}")
            axes = int(value)
        count = 4 if key == "Color" else axes ** _MHA_EXPONENTS.get(key, 0)
        if (key in _MHA_EXPONENTS or key == "Color") and not _are_numbers(value, count):
            raise _damaged(line)
        fields[key] = value
        if key == "ElementDataFile":
            return fields
    return fields


def _nrrd(stream: BinaryIO) -> _Voxels:
    """The header of an NRRD file. Leaves the stream at the voxels."""
    fields: dict[str, str] = {}
    lines = _lines(stream)
    first = next(lines)
    if not re.fullmatch(r"NRRD000[1-6]", first):
        raise _damaged(first)
    for line in lines:
        if not line:
            break
        if line.startswith("#") or re.match(r"[^:]+:=", line):
            continue
        key, colon, value = line.partition(": ")
        key = key.lower().replace(" ", "")
        if not colon or key in fields or len(line) > _LONGEST_VALUE:
            raise _damaged(line)
        if key in _NRRD_GEOMETRY:
            words = [word for word in re.split(r"[\s(),]+", value) if word not in {"", "none"}]
            if not _are_numbers(" ".join(words), len(words)):
                raise _damaged(line)
        fields[key] = value.strip()
    if "datafile" in fields:
        raise RWLossError("its voxels lie in another file: save it as one whole file")
    encoding = fields.get("encoding", "")
    skips = {fields.get("lineskip", "0"), fields.get("byteskip", "0")}
    if encoding not in {"raw", "gzip", "gz"} or skips != {"0"}:
        raise RWLossError(
            f"expected encoding raw or gzip and no skip, got {encoding!r}: save it again"
        )
    kind = fields.get("type", "")
    voxel_bytes = next((n for names, n in _NRRD_BYTES.items() if re.fullmatch(names, kind)), 0)
    if not voxel_bytes:
        raise RWLossError(f"its header gives the type {kind!r}, unknown here")
    shape = _lengths(fields.get("sizes", ""))
    if fields.get("dimension") != str(len(shape)):
        raise RWLossError(
            f"its header gives the sizes {shape} and another dimension: it is damaged"
        )
    return _Voxels(shape, voxel_bytes, deflated=encoding != "raw")


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The header's lines. Raises RWLossError where there are none, or no end to them."""
    for _ in range(_MOST_LINES):
        line = stream.readline(_LONGEST_LINE)
        text = line.decode("ascii", "surrogateescape").rstrip("\r\n")
        if not line.endswith(b"\n") or re.search(r"[\x00-\x08\x0b-\x1f]", text):
            raise _damaged(text)
        yield text
    raise RWLossError(f"its header has more than {_MOST_LINES} lines: it is damaged")


def _are_numbers(text: str, count: int) -> bool:
    words = text.split()
    return len(words) == count and all(
        _NUMBER.fullmatch(word) and abs(float(word)) <= _LARGEST for word in words
    )


def _lengths(text: str) -> list[int]:
    words = text.split()
    if not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        raise _damaged(text)
    return [int(word) for word in words]


def _check_inflated(stream: BinaryIO, needed: int) -> None:
    """Read a zlib or gzip stream to its checksum, which ITK does not compare."""
    inflate = zlib.decompressobj(wbits=47)
    held, block = 0, b""
    while not inflate.eof:
        block = inflate.unconsumed_tail or stream.read(_BLOCK)
        if not block:
            raise RWLossError(f"it is cut short: {held} of {needed} bytes of voxels")
        held += len(inflate.decompress(block, _BLOCK))
        if held > needed:
            break
    if held != needed:
        raise RWLossError(f"its header announces {needed} bytes of voxels, and the file has others")


def _damaged(line: str) -> RWLossError:
    return RWLossError(f"it is damaged, or cut short in its header: {line[:80]!r}")
