"""NumPy files: .npy, and .npz that hold one array."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from rwloss.data.readers.decoded import Decoded, check_bytes, check_shape
from rwloss.errors import RWLossError

_CHUNK = 1 << 20


def read(path: Path, max_voxels: int) -> Decoded:
    """Values (*s) of the one array in the file; no spacing. Never unpickles.

    Raises RWLossError for an archive with no or several arrays, for object arrays and for a file
    that cannot hold what its header announces; and whatever NumPy and zipfile raise.
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
                "save the labels alone, as .npy"
            )
        with archive.open(members[0]) as stream:
            decoded = _read_stream(stream, members[0].file_size, max_voxels)
            # Reaching the end makes zipfile compare the checksum.
            while stream.read(_CHUNK):
                pass
            return decoded


def _read_stream(stream: IO[bytes], size: int, max_voxels: int) -> Decoded:
    """The array of an open .npy of `size` bytes, its header judged first."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise RWLossError(f"expected .npy format version 1.0 or 2.0, got {version}: save it again")
    if dtype.kind not in "biuf":
        raise RWLossError(f"expected an array of numbers, got dtype {dtype}: it is never unpickled")
    check_shape(shape or (1,), max_voxels)
    check_bytes(dtype.itemsize * int(np.prod(shape, dtype=object)), size - stream.tell())
    stream.seek(0)
    return Decoded(values=np.lib.format.read_array(stream, allow_pickle=False))
