"""NumPy files: .npy, and .npz that hold one array."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from rwloss.data.readers import DEFLATE_RATIO, Decoded, check_bytes, check_shape
from rwloss.errors import RWLossError


def read_array(path: Path, max_voxels: int) -> Decoded:
    """Values (*s) of the one array in the file; no spacing. Never unpickles.

    Raises RWLossError for an archive with no or several arrays, for object arrays and for a file
    with more or less content than its header announces; and whatever NumPy and zipfile raise.
    """
    if path.suffix.lower() == ".npy":
        with path.open("rb") as stream:
            return _read_stream(stream, path.stat().st_size, max_voxels)
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) != 1:
            names = ", ".join(repr(info.filename.removesuffix(".npy")) for info in members)
            raise RWLossError(
                f"expected one array in the archive, got {len(members)} ({names or 'none'}): "
                "save only the labels, as .npy"
            )
        # The sizes in an archive's directory are claims like those in the array's header. Other
        # compressions have no limit to what a small file may expand to.
        if members[0].compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise RWLossError("it is not compressed in NumPy's way: save it with savez_compressed")
        check_bytes(members[0].file_size, path.stat().st_size, ratio=DEFLATE_RATIO)
        with archive.open(members[0]) as stream:
            return _read_stream(stream, members[0].file_size, max_voxels)


def _read_stream(stream: IO[bytes], size: int, max_voxels: int) -> Decoded:
    """The array of an open .npy of `size` bytes; its header is checked first."""
    version = np.lib.format.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise RWLossError(f"expected .npy format version 1.0 or 2.0, got {version}: save it again")
    begin = stream.tell()
    # NumPy allocates memory for any header length that the file gives.
    length = int.from_bytes(stream.read(2 * version[0]), "little")
    if length > size:
        raise RWLossError(f"it is cut short: {size} bytes, and the header alone has {length}")
    stream.seek(begin)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.kind not in "biuf":
        raise RWLossError(f"expected an array of numbers, got dtype {dtype}: it is never unpickled")
    check_shape(shape or (1,), max_voxels)
    needed, present = dtype.itemsize * math.prod(shape), size - stream.tell()
    check_bytes(needed, present)
    if present > needed:
        raise RWLossError(f"{present - needed} bytes follow its array: save only the labels")
    stream.seek(0)
    values = np.lib.format.read_array(stream, allow_pickle=False)
    stream.read()  # at its end, zipfile compares the checksum
    return Decoded(values=values)
