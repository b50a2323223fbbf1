"""Digests: what a case and a file are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def labels_digest(labels: NDArray[Any], spacing_mm: tuple[float, ...]) -> str:
    """SHA-256 of label values, shape and spacing; the same whatever dtype or memory order.

    >>> labels_digest(np.zeros((2, 3), np.uint8), (1.0, 1.0)) == labels_digest(
    ...     np.zeros((2, 3), np.int64, order="F"), (1.0, 1.0))
    True
    """
    digest = hashlib.sha256(repr((labels.shape, tuple(map(float, spacing_mm)))).encode())
    # Two bytes a voxel where they suffice: hashing is a large part of a case that is done already.
    fits = labels.size == 0 or -(2**15) <= int(labels.min()) <= int(labels.max()) < 2**15
    digest.update(np.ascontiguousarray(labels, dtype="<i2" if fits else "<i8").data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
