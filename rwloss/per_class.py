"""Counts, maxima and look-ups by class, for NumPy arrays and torch tensors on any device."""

from __future__ import annotations

from typing import Any

import numpy as np

from rwloss.arrays import Array, is_torch, namespace, on_device

# Classes up to which one masked maximum each is faster than one pass that looks every voxel up.
_FEW = 12
_SLAB = 2**18  # voxels looked up at a time


def counts(labels: Array, num_classes: int) -> Array:
    """Voxels of each class in each image; labels below 0 do not count. (b *s) -> (b k), int64."""
    if is_torch(labels):
        xp = namespace(labels)
        ones = xp.ones((1, 1), dtype=xp.int64, device=labels.device).expand(
            *labels.flatten(1).shape
        )
        return _empty(labels, num_classes, xp.int64).scatter_add_(1, _index(labels), ones)[:, 1:]
    found = np.zeros((len(labels), num_classes), dtype=np.int64)
    for image, row in zip(labels, found, strict=True):
        row[:] = np.bincount(_index(image).reshape(-1), minlength=num_classes + 1)[1:]
    return found


def maxima(values: Array, labels: Array, num_classes: int) -> Array:
    """Largest value of each class in each image, 0 where absent or below. (b *s) -> (b k)."""
    if is_torch(values):
        empty = _empty(labels, num_classes, values.dtype)
        return empty.scatter_reduce_(1, _index(labels), values.flatten(1), "amax")[:, 1:]
    peaks = np.zeros((len(values), num_classes), dtype=values.dtype)
    for image, there, row in zip(values, labels, peaks, strict=True):
        if num_classes <= _FEW:
            here = np.empty_like(there, dtype=np.bool_)
            for k in range(num_classes):
                row[k] = np.max(image, where=np.equal(there, k, out=here), initial=0)
        else:
            padded = np.zeros(num_classes + 1, dtype=values.dtype)
            np.maximum.at(padded, there.reshape(-1), image.reshape(-1))  # -1 is the last
            row[:] = padded[:-1]
    return peaks


def look_up(table: Array, labels: Array) -> Array:
    """Each voxel gets the value of its class, 0 below class 0. (b k), (b *s) -> (b *s)."""
    if is_torch(table):
        xp = namespace(table)
        padded = xp.concat([xp.zeros_like(table[:, :1]), table], axis=1)
        return padded.gather(1, _index(labels)).reshape(labels.shape)
    # A 0 at the end, which is where -1 points.
    padded = np.concatenate([table, np.zeros_like(table[:, :1])], axis=1)
    found = np.empty_like(labels, dtype=table.dtype)
    for row, whole, target in zip(padded, labels, found, strict=True):
        # Volumes come out of their files with the first axis fastest: as they lie in memory.
        turned = whole.flags.f_contiguous and target.flags.f_contiguous
        image, out = (whole.T, target.T) if turned else (whole, target)
        # In slabs: take makes an index of eight bytes a voxel, and fresh memory costs more than
        # the look-up itself.
        slab = max(1, _SLAB * len(image) // max(image.size, 1))
        for first in range(0, len(image), slab):
            np.take(row, image[first : first + slab], out=out[first : first + slab], mode="wrap")
    return found


def _index(labels: Array) -> Array:
    """Labels + 1 as an index, so that 0 is what belongs to no class; flat an image for torch."""
    if is_torch(labels):
        return labels.flatten(1).long() + 1
    return np.add(labels, 1, dtype=np.intp)


def _empty(labels: Array, num_classes: int, dtype: Any) -> Array:
    return namespace(labels).zeros((len(labels), num_classes + 1), dtype=dtype, **on_device(labels))
