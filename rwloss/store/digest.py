"""Digests that identify the labels of a case and the files of a map."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def labels_digest(
    labels: NDArray[Any],
    spacing_mm: tuple[float, ...],
    affine: NDArray[np.float64] | None = None,
) -> str:
    """SHA-256 of label values, shape, spacing and affine; whatever their dtype or memory order.

    >>> labels_digest(np.zeros((2, 3), np.uint8), (1.0, 1.0)) == labels_digest(
    ...     np.zeros((2, 3), np.int64, order="F"), (1.0, 1.0))
    True
    """
    geometry = [labels.shape, tuple(map(float, spacing_mm))]
    if affine is not None:
        geometry.append(tuple(np.asarray(affine, dtype=np.float64).ravel().tolist()))
    digest = hashlib.sha256(repr(tuple(geometry)).encode())
    # As narrow as the values allow, and first axis fastest, as volumes come out of their files:
    # hashing is a large part of the time for a case that is already done.
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    narrow = low >= 0 and high < 2**8
    dtype = "<u1" if narrow else "<i8"
    digest.update(dtype.encode())
    digest.update(np.ascontiguousarray(labels.T, dtype=dtype).data)
    return digest.hexdigest()


def files_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of files by name; of a single file without a name, that of its bytes alone."""
    if files.keys() == {""}:
        return hashlib.sha256(files[""]).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()
