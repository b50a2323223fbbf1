"""Tables of classes: counts and maxima of the voxels of each class, and their values per voxel.

labels (b *s) are 0..K-1, or -1 where ignored: those voxels do not count, and get 0. Arrays may be
NumPy arrays or torch tensors; results are of the same kind, on the same device. On a GPU with
Triton each is one kernel: a torch scatter would need indices of eight bytes per voxel, and send
every voxel to a few addresses that wait for each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rwloss.arrays import Array
from rwloss.distance import engine_name


def counts(labels: Array, num_classes: int) -> Array:
    """Voxels of each class in each image. (b *s) -> (b k), int64."""
    shape = len(labels), num_classes + 1
    if not isinstance(labels, np.ndarray):
        if kernels := _kernels(labels):
            return kernels.counts(labels, num_classes)
        index = _index(labels)
        one = index.new_ones((1, 1)).expand_as(index)
        return index.new_zeros(shape).scatter_add_(1, index, one)[:, 1:]
    found = np.zeros(shape, dtype=np.int64)
    for image, row in zip(labels, found, strict=True):
        index = np.add(image, 1, dtype=np.intp).ravel(order="K")
        row[:] = np.bincount(index, minlength=shape[1])
    return found[:, 1:]  # what is ignored comes first


def maxima(values: Array, labels: Array, num_classes: int) -> Array:
    """Largest value of each class in each image, of values of 0 or more; 0 where absent. (b k)."""
    shape = len(labels), num_classes + 1
    if not isinstance(values, np.ndarray):
        if kernels := _kernels(labels):
            return kernels.maxima(values, labels, num_classes)
        found = values.new_zeros(shape)
        return found.scatter_reduce_(1, _index(labels), values.flatten(1), "amax")[:, 1:]
    peaks = np.zeros(shape, dtype=values.dtype)
    for image, there, row in zip(values, labels, peaks, strict=True):
        order: Any = "F" if there.flags.f_contiguous else "C"  # without a copy
        np.maximum.at(row, there.reshape(-1, order=order), image.reshape(-1, order=order))
    return peaks[:, :-1]  # -1 is the last


def look_up(table: Array, labels: Array) -> Array:
    """Each voxel gets the value of its class, 0 below class 0. (b k), (b *s) -> (b *s)."""
    if not isinstance(table, np.ndarray):
        if kernels := _kernels(labels):
            return kernels.look_up(table, labels)
        padded = table.new_zeros((len(table), table.shape[1] + 1))
        padded[:, 1:] = table
        return padded.gather(1, _index(labels)).reshape(labels.shape)
    # A 0 at the end, where -1 points.
    padded = np.concatenate([table, np.zeros_like(table[:, :1])], axis=1)
    found = np.empty_like(labels, dtype=table.dtype)
    for row, whole, target in zip(padded, labels, found, strict=True):
        # NIfTI volumes have the first axis fastest: walk them in the order of their memory.
        turned = whole.flags.f_contiguous and target.flags.f_contiguous
        image, out = (whole.T, target.T) if turned else (whole, target)
        # In slabs: `take` makes an index of eight bytes per voxel, and allocating that for a whole
        # volume costs more than the look-up.
        slab = max(1, 2**18 * len(image) // max(image.size, 1))  # voxels
        for first in range(0, len(image), slab):
            np.take(row, image[first : first + slab], out=out[first : first + slab], mode="wrap")
    return found


def _kernels(labels: Array) -> Any:
    """Triton's kernels for a tensor where distances use Triton too, else None."""
    if labels.device.type == "cpu" or engine_name(like=labels) != "triton":
        return None
    from rwloss.per_class import triton_kernels

    return triton_kernels


def _index(labels: Array) -> Array:
    """Labels of a tensor + 1 as an index, so that ignored voxels are 0. (b *s) -> (b i), int64."""
    return labels.flatten(1).long() + 1
