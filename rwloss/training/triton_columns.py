"""Patches of images as the columns of a matrix (im2col), and the sum of columns back: two kernels.

torch would pad, copy with an index of seven axes, and for the way back add one slice per voxel of
the convolution's kernel. Here each number is written once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

BLOCK = 1024
"""Columns, or voxels, of one program."""


def gathered(
    many: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    places: Sequence[int],
) -> Tensor:
    """What the kernel sees at each place. (m b c *s) -> (m c·kernel b·places)."""
    members, images, channels, *size = many.shape
    rows, places_of_all = channels * math.prod(kernel), images * math.prod(places)
    columns = many.new_empty((members, rows, places_of_all))
    numbers = images, channels, *_three(size, 1), *_three(places, 1), *_three(padding, 0)
    blocks = members * channels * triton.cdiv(places_of_all, BLOCK)
    with torch.cuda.device_of(many):
        gather[(blocks,)](many.contiguous(), columns, *numbers, **_constants(kernel, stride))
    return columns


def scattered(
    columns: Tensor,
    images: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    places: Sequence[int],
    many: Sequence[int],
) -> Tensor:
    """The adjoint: each voxel gets the sum of where it was seen. -> (m b c *s), *s = `many`."""
    members, rows, _ = columns.shape
    channels = rows // math.prod(kernel)
    found = columns.new_empty((members, images, channels, *many))
    numbers = images, channels, *_three(many, 1), *_three(places, 1), *_three(padding, 0)
    blocks = members * images * channels * triton.cdiv(math.prod(many), BLOCK)
    is_double = columns.dtype == torch.float64
    with torch.cuda.device_of(columns):
        scatter[(blocks,)](
            columns.contiguous(), found, *numbers, **_constants(kernel, stride), DOUBLE=is_double
        )
    return found


def _constants(kernel: Sequence[int], stride: Sequence[int]) -> dict[str, Any]:
    """What the kernels are compiled for."""
    sizes = (("KERNEL", _three(kernel, 1)), ("STRIDE", _three(stride, 1)))
    named = {
        f"{name}_{axis}": n for name, each in sizes for axis, n in zip("ZYX", each, strict=True)
    }
    return {**named, "BLOCK": BLOCK, "enable_fp_fusion": True}


def _three(values: Sequence[int], one: int) -> tuple[int, ...]:
    """Three axes, the last ones of which are given."""
    return (*(one,) * (3 - len(values)), *values)


# A compilation takes a second, so it is made for each kernel and stride, and not for each size.
_SIZES = ["images", "channels", "depth", "height", "width", "of_z", "of_y", "of_x"]
_SIZES += ["pad_z", "pad_y", "pad_x"]


# A row of columns is a channel of a member and a voxel of the kernel; its numbers are the places of
# all images. Only whole channels may need 64 bits: one has less than 2**31 numbers.


@triton.jit(do_not_specialize=_SIZES)
def gather(
    many, columns, images, channels, depth, height, width, of_z, of_y, of_x, pad_z, pad_y, pad_x,
    KERNEL_Z: tl.constexpr, KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr,
    STRIDE_Z: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store what each voxel of the kernel sees at a block of places, 0 outside the image."""
    places = of_z * of_y * of_x
    row, at, there = _block(images * places, BLOCK)
    image, place = at // places, at % places
    first = ((row // channels) * images + image).to(tl.int64) * channels + row % channels
    z = place // (of_y * of_x) * STRIDE_Z - pad_z
    y = place // of_x % of_y * STRIDE_Y - pad_y
    x = place % of_x * STRIDE_X - pad_x
    many += first * (depth * height * width) + (z * height + y) * width + x
    columns += row.to(tl.int64) * (KERNEL_Z * KERNEL_Y * KERNEL_X) * (images * places) + at
    for dz in range(KERNEL_Z):
        in_z = there & (z + dz >= 0) & (z + dz < depth)
        for dy in range(KERNEL_Y):
            in_y = in_z & (y + dy >= 0) & (y + dy < height)
            for dx in range(KERNEL_X):
                inside = in_y & (x + dx >= 0) & (x + dx < width)
                value = tl.load(many + (dz * height + dy) * width + dx, mask=inside, other=0.0)
                tl.store(columns, value, mask=there)
                columns += images * places


@triton.jit(do_not_specialize=_SIZES)
def scatter(
    columns, found, images, channels, depth, height, width, of_z, of_y, of_x, pad_z, pad_y, pad_x,
    KERNEL_Z: tl.constexpr, KERNEL_Y: tl.constexpr, KERNEL_X: tl.constexpr,
    STRIDE_Z: tl.constexpr, STRIDE_Y: tl.constexpr, STRIDE_X: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Store for a block of voxels the sum over the voxels of the kernel that saw them."""
    voxels, places = depth * height * width, of_z * of_y * of_x
    row, voxel, there = _block(voxels, BLOCK)
    image, channel = row // channels % images, row % channels
    from_row = (row // channels // images * channels + channel).to(tl.int64)
    columns += from_row * (KERNEL_Z * KERNEL_Y * KERNEL_X) * (images * places) + image * places
    z = voxel // (height * width) + pad_z
    y = voxel // width % height + pad_y
    x = voxel % width + pad_x
    total = tl.zeros((BLOCK,), tl.float64 if DOUBLE else tl.float32)
    for dz in range(KERNEL_Z):
        at_z = (z - dz) // STRIDE_Z
        in_z = there & (z >= dz) & (at_z * STRIDE_Z == z - dz) & (at_z < of_z)
        for dy in range(KERNEL_Y):
            at_y = (y - dy) // STRIDE_Y
            in_y = in_z & (y >= dy) & (at_y * STRIDE_Y == y - dy) & (at_y < of_y)
            for dx in range(KERNEL_X):
                at_x = (x - dx) // STRIDE_X
                inside = in_y & (x >= dx) & (at_x * STRIDE_X == x - dx) & (at_x < of_x)
                place = (at_z * of_y + at_y) * of_x + at_x
                total += tl.load(columns + place, mask=inside, other=0.0).to(total.dtype)
                columns += images * places
    tl.store(
        found + row.to(tl.int64) * voxels + voxel, total.to(found.dtype.element_ty), mask=there
    )


@triton.jit
def _block(numbers, BLOCK: tl.constexpr):
    """The row of this program, its numbers there, and which of them exist."""
    blocks = tl.cdiv(numbers, BLOCK)
    at = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(0) // blocks, at, at < numbers
