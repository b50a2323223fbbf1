"""Counts, maxima and look-ups of classes in Triton, one kernel each; nothing waits for the GPU."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from rwloss.arrays import operation
from rwloss.distance.triton_launch import Launch

# Voxels of one program. Many, because each sends a number per class that it meets to an address
# that all programs of the image share.
BLOCK = 4096


@operation("class_counts(Tensor labels, int num_classes) -> Tensor")
def counts(labels: Tensor, num_classes: int) -> Tensor:
    """Voxels of each class in each image. (b *s) -> (b k), int64."""
    found = labels.new_zeros((labels.shape[0], num_classes), dtype=torch.int64)
    _launch(of_each_class, labels, found, found, classes=num_classes, COUNT=True)
    return found


@operation("class_range(Tensor labels, int low, int num_classes) -> Tensor")
def in_range(labels: Tensor, low: int, num_classes: int) -> Tensor:
    """1 if all labels (b *s) are in low..num_classes-1, else 0. (), int32."""
    fine = torch.ones((), dtype=torch.int32, device=labels.device)
    _launch(that_are_in_range, labels, fine, classes=num_classes, LOW=low)
    return fine


@operation("class_maxima(Tensor values, Tensor labels, int num_classes) -> Tensor")
def maxima(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Largest value of each class in each image, of values of 0 or more. (b *s) -> (b k)."""
    found = values.new_zeros((labels.shape[0], num_classes))
    _launch(of_each_class, labels, values, found, classes=num_classes, COUNT=False)
    return found


@operation("class_look_up(Tensor table, Tensor labels) -> Tensor")
def look_up(table: Tensor, labels: Tensor) -> Tensor:
    """Each voxel gets the value of its class, 0 below class 0. (b k), (b *s) -> (b *s)."""
    found = table.new_empty(labels.shape)
    _launch(of_each_voxel, labels, table, table, found, classes=table.shape[1], SIGN=0)
    return found


@operation("class_divided(Tensor values, Tensor table, Tensor labels, bool negative) -> Tensor")
def divided(values: Tensor, table: Tensor, labels: Tensor, negative: bool) -> Tensor:
    """Values by that of their class, 0 below class 0. (b *s), (b k), (b *s) -> (b *s).

    negative: times -1.
    """
    found, sign = table.new_empty(labels.shape), -1 if negative else 1
    _launch(of_each_voxel, labels, values, table, found, classes=table.shape[1], SIGN=sign)
    return found


def _launch(kernel: Any, labels: Tensor, *tensors: Tensor, classes: int, **constants: int) -> None:
    """Run a kernel over blocks of the voxels of each image."""
    if not labels.numel():
        return
    images = labels.shape[0]
    launch = _launch_of(kernel, images, labels.numel() // images, classes, BLOCK, **constants)
    with torch.cuda.device_of(labels):
        launch(*(tensor.contiguous() for tensor in (labels, *tensors)))


@lru_cache(maxsize=256)
def _launch_of(
    kernel: Any, images: int, voxels: int, classes: int, block: int, **constants: int
) -> Launch:
    grid = (images * -(-voxels // block),)
    return Launch(kernel, grid, (voxels, classes), **constants, BLOCK=block, num_warps=8)


@triton.jit
def that_are_in_range(labels, fine, voxels, classes, LOW: tl.constexpr, BLOCK: tl.constexpr):
    """Store 0 if a label is below LOW or no class."""
    blocks = tl.cdiv(voxels, BLOCK)
    voxel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    labels += (tl.program_id(0) // blocks).to(tl.int64) * voxels
    label = tl.load(labels + voxel, mask=voxel < voxels, other=0).to(tl.int64)
    wrong = (label < LOW) | (label >= classes)
    if tl.max(wrong.to(tl.int32), 0) > 0:
        tl.store(fine, 0)


@triton.jit
def of_each_class(labels, values, found, voxels, classes, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Count the voxels of each class, or take their largest value. Each block adds its own."""
    image, voxel, there, label = _block(labels, voxels, BLOCK)
    found += image * classes
    value = there.to(tl.int32)
    if not COUNT:
        value = tl.load(values + image * voxels + voxel, mask=there, other=0.0)
    # Of the classes that a block may have: it has few, because neighbors mostly share theirs.
    for k in range(tl.maximum(tl.min(label, 0), 0), tl.minimum(tl.max(label, 0) + 1, classes)):
        own = tl.where(label == k, value, 0)
        if COUNT:
            number = tl.sum(own, 0)
            if number > 0:
                tl.atomic_add(found + k, number.to(tl.int64))
        else:
            largest = tl.max(own, 0)
            if largest > 0:
                tl.atomic_max(found + k, largest)


@triton.jit
def of_each_voxel(
    labels, values, table, found, voxels, classes, SIGN: tl.constexpr, BLOCK: tl.constexpr
):
    """Store the value of its class for each voxel; 0 below class 0.

    With a SIGN its own value by that, times the sign.
    """
    image, voxel, there, label = _block(labels, voxels, BLOCK)
    known = there & (label >= 0) & (label < classes)
    value = tl.load(table + image * classes + label, mask=known, other=0.0 if SIGN == 0 else 1.0)
    if SIGN != 0:
        own = tl.load(values + image * voxels + voxel, mask=known, other=0.0)
        value = tl.div_rn(own, value)
    if SIGN < 0:
        value = tl.where(known, -value, 0.0)  # no -0
    tl.store(found + image * voxels + voxel, value, mask=there)


@triton.jit
def _block(labels, voxels, BLOCK: tl.constexpr):
    """The image of this program, its voxels, which of them exist, and their labels, or -1."""
    blocks = tl.cdiv(voxels, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    voxel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    there = voxel < voxels
    label = tl.load(labels + image * voxels + voxel, mask=there, other=0).to(tl.int32)
    return image, voxel, there, tl.where(there, label, -1)
