"""Squared distances on a GPU in Triton: the whole batch, all labels, each axis one kernel.

Exact and separable like the torch engine, whose docstring has the formula. A program has a tile of
ROWS voxels along the axis of COLS neighboring lines. It finds the ends of the runs of equal labels,
which give the distance along the axis alone. Then it goes through the rows that can be nearest to
any of the tile: those whose offset² · spacing² is less than the largest distance that the tile has,
and of many only those between the nearest of its top and the nearest of its bottom. Lines that are
neighbors in memory are neighbors in a tile, so that nothing has to be transposed, and no table of
pairs is stored: two arrays of the size of the result are all.

What has one label only is left out by every kernel. `triton_signed` has the distances to every
class.

Nothing here waits for the GPU. It needs an NVIDIA or AMD GPU, or Triton's interpreter
(TRITON_INTERPRET=1 before the first import), which is how its tests run without one.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from rwloss.arrays import from_numpy, operation
from rwloss.distance.triton_signed import signed_distances_mm as signed_distances_mm  # noqa: PLC0414

# 32 neighboring lines are one full read of a warp. 32 rows let a thread use each number that it
# reads eight times, and keep the tile small enough for the bound to end the search early.
TILE = (32, 32)
WARPS = 4
# Of voxels in one program that looks for a second label.
BLOCK = (4096, 1)

_FAR = tl.constexpr(1 << 28)  # steps; more than a line can have


def squared_to_other_label_mm2(labels: Tensor, spacings_mm: Sequence[tuple[float, ...]]) -> Tensor:
    """Squared distance in mm² of each voxel to the nearest voxel of another label.

    labels (b *s), any integer type, with a spacing for each image -> (b *s) float32 on the same
    device; infinite in an image that holds one label only.
    """
    return _distances(labels, spacings_mm, [math.inf] * len(labels), root=False)


def distance_mm(
    labels: Tensor, spacings_mm: Sequence[tuple[float, ...]], alone_mm: Sequence[float]
) -> Tensor:
    """Distance in mm to the nearest voxel of another label. labels (b *s) -> (b *s) float32.

    alone_mm: one number per image, its result where it holds one label only.
    """
    return _distances(labels, spacings_mm, alone_mm)


def _distances(
    labels: Tensor,
    spacings_mm: Sequence[tuple[float, ...]],
    alone: Sequence[float],
    *,
    root: bool = True,
) -> Tensor:
    """Distances or their squares. alone: the result of each image with one label only."""
    squares = [[mm**2 for mm in row] for row in spacings_mm]
    rows = [[*row, value] for row, value in zip(squares, alone, strict=True)]
    table = from_numpy(np.array(rows, dtype=np.float32).T.copy(), labels)
    return _transform(labels, table, root)


@operation("distance_transform(Tensor labels, Tensor table, bool root) -> Tensor")
def _transform(labels: Tensor, table: Tensor, root: bool) -> Tensor:
    """Distances of labels (b *s) -> (b *s).

    table (axes + 1, b): squared spacings by axis, then what an image with one label gets.
    """
    batch, *size = labels.shape
    if not labels.numel():
        return table.new_empty(labels.shape)
    labels = labels.contiguous()
    labels = labels.view(torch.uint8) if labels.dtype is torch.bool else labels
    voxels = math.prod(size)
    mixed = torch.zeros(batch, dtype=torch.int32, device=labels.device)
    # Triton warns where nobody says whether a product and a sum may be one operation.
    shared: dict[str, Any] = {"enable_fp_fusion": True}
    with torch.cuda.device_of(labels):
        block, images = BLOCK
        programs = -(-voxels // block) * -(-batch // images)
        find_mixed[(programs,)](labels, mixed, voxels, batch, **shared, BLOCK=block, IMAGES=images)
        rows, cols = TILE
        found = before = table
        # The first pass has no search, so it takes the axis where a search would be longest. No
        # distance runs along an axis of length 1.
        order = sorted(range(len(size)), key=lambda axis: -size[axis])
        order = [axis for axis in order if size[axis] > 1] or order[:1]
        for step, axis in enumerate(order):
            n = size[axis]
            lines = voxels // n
            before, found = found, before if step > 1 else table.new_empty(labels.shape)
            programs = -(-n // rows) * -(-lines * batch // cols)
            along_axis[(programs,)](
                labels,
                before,
                found,
                mixed,
                table[axis],
                table[-1],
                n,
                math.prod(size[axis + 1 :]),
                lines,
                lines * batch,
                **shared,
                FIRST=step == 0,
                LAST=step == len(order) - 1,
                ROOT=root,
                ROWS=rows,
                COLS=cols,
                num_warps=WARPS,
            )
    return found


# Rows of a tile are (ROWS 1) and lines (1 COLS) from the start. Vectors would change their place
# among the threads in the inner loop.


@triton.jit
def find_mixed(
    labels, mixed, voxels, images, BLOCK: tl.constexpr, IMAGES: tl.constexpr
):  # fmt: skip
    """Store 1 for each image that holds more than one label."""
    blocks = tl.cdiv(voxels, BLOCK)
    image = (tl.program_id(0) // blocks) * IMAGES + tl.arange(0, IMAGES)[None, :]
    voxel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)[:, None]
    there = image < images
    start = labels + image.to(tl.int64) * voxels
    first = tl.load(start, mask=there, other=0)
    there = there & (voxel < voxels)
    here = tl.load(start + voxel, mask=there, other=0)
    differs = tl.max((there & (here != first)).to(tl.int32), axis=0, keep_dims=True)
    tl.store(mixed + image, 1, mask=differs > 0)  # several programs may: all store the same


@triton.jit
def along_axis(
    labels, before, found, mixed, squares, alone, n, stride, lines_per_image, lines,
    FIRST: tl.constexpr, LAST: tl.constexpr, ROOT: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Distances after one more axis of n voxels, `stride` apart. before -> found.

    squares, alone: of each image, spacing² along the axis and the value where it has one label.
    """
    tiles = tl.cdiv(n, ROWS)
    top = (tl.program_id(0) % tiles) * ROWS
    line = (tl.program_id(0) // tiles) * COLS + tl.arange(0, COLS)[None, :]
    image = line // lines_per_image
    inside = line - image * lines_per_image
    # Only whole images may need 64 bits: one has less than 2**31 voxels.
    first = (inside // stride) * n * stride + inside % stride
    labels += image.to(tl.int64) * lines_per_image * n + first
    before += image.to(tl.int64) * lines_per_image * n + first
    found += image.to(tl.int64) * lines_per_image * n + first
    there = line < lines
    live = there & (tl.load(mixed + image, mask=there, other=0) > 0)
    square = tl.load(squares + image, mask=there, other=1.0)

    row = top + tl.arange(0, ROWS)[:, None]
    here = live & (row < n)
    steps = _steps_to_other_label(labels, live, top, n, stride, ROWS, COLS)
    steps = steps.to(tl.float32)
    best = tl.where(steps < n, steps * steps * square, float("inf"))
    if not FIRST:
        best = tl.minimum(best, tl.load(before + row * stride, mask=here, other=float("inf")))
        most = tl.max(tl.where(here, best / square, 0.0))  # steps²
        if most > 0:
            reach = tl.sqrt(tl.minimum(most, tl.cast(n, tl.float32) * n)).to(tl.int32) + 1
            low, high = tl.maximum(top - reach, 0), tl.minimum(top + ROWS + reach, n)
            if high - low > 2 * ROWS:
                low, high = _between(before, live, square, top, low, high, stride, ROWS, COLS)
            best = _nearest(before, live, square, best, row, low, high, stride)
    if LAST:
        here = there & (row < n)
        if ROOT:
            best = tl.sqrt_rn(best)
        best = tl.where(live, best, tl.load(alone + image, mask=there, other=0.0))
    tl.store(found + row * stride, best, mask=here)


@triton.jit
def _between(before, live, square, top, low, high, stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Of rows low..high-1 those that can be nearest to any row of the tile: first, and last + 1.

    The nearest row of a row does not come before that of the row before it. So none of the tile has
    its nearest row before the first that is nearest to the tile's top, or after the last that is
    nearest to its bottom.
    """
    least = tl.full((1, COLS), float("inf"), tl.float32)
    least_below, first, last = (
        least,
        tl.full((1, COLS), _FAR, tl.int32),
        tl.full((1, COLS), -1, tl.int32),
    )
    for start in range(low, high, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        there = tl.load(before + row * stride, mask=live & (row < high), other=float("inf"))
        offset = (row - top).to(tl.float32)
        cost = there + offset * offset * square
        found = tl.min(cost, axis=0, keep_dims=True)
        at = tl.min(tl.where(cost == found, row, _FAR), axis=0, keep_dims=True)
        first = tl.where(found < least, at, first)
        least = tl.minimum(least, found)
        offset = (row - (top + ROWS - 1)).to(tl.float32)
        cost = there + offset * offset * square
        found = tl.min(cost, axis=0, keep_dims=True)
        at = tl.max(tl.where((cost == found) & (row < high), row, -1), axis=0, keep_dims=True)
        last = tl.where((found <= least_below) & (found < float("inf")), at, last)
        least_below = tl.minimum(least_below, found)
    return tl.minimum(tl.min(first), high), tl.max(last) + 1


@triton.jit
def _nearest(before, live, square, best, row, low, high, stride):
    """min(best, distances before at rows low..high-1 + spacing² · offset²)."""
    row = row.to(tl.float32)
    for j in range(low, high):
        there = tl.load(before + j * stride, mask=live, other=float("inf"))
        offset = row - tl.cast(j, tl.float32)
        best = tl.minimum(best, there + offset * offset * square)
    return best


@triton.jit
def _steps_to_other_label(
    labels, live, top, n, stride, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """Steps along the axis to the nearest other label, or more than n. (ROWS COLS), int32."""
    row = tl.arange(0, ROWS)[:, None]
    begin = tl.where(_changes(labels, live, top, n, stride, ROWS), top + row, -_FAR)
    begin = tl.associative_scan(begin, 0, _larger)  # where the run of this voxel begins
    end = tl.where(_changes(labels, live, top + 1, n, stride, ROWS), top + 1 + row, _FAR)
    end = tl.associative_scan(end, 0, _smaller, reverse=True)  # where the next one begins
    # Beyond the tile, block by block, until each line has a change on this side or ends.
    last = tl.full((1, COLS), -_FAR, tl.int32)
    low = top - ROWS
    while (low >= 0) & (tl.min(tl.where(live, last, 0)) < 0):
        there = _changes(labels, live, low, n, stride, ROWS)
        there = tl.max(tl.where(there, low + row, -_FAR), axis=0, keep_dims=True)
        last = tl.maximum(last, there)
        low -= ROWS
    next = tl.full((1, COLS), _FAR, tl.int32)
    low = top + ROWS + 1
    while (low < n) & (tl.max(tl.where(live, next, 0)) == _FAR):
        there = _changes(labels, live, low, n, stride, ROWS)
        there = tl.min(tl.where(there, low + row, _FAR), axis=0, keep_dims=True)
        next = tl.minimum(next, there)
        low += ROWS
    row += top
    return tl.minimum(row - tl.maximum(begin, last) + 1, tl.minimum(end, next) - row)


@triton.jit
def _changes(labels, live, top, n, stride, ROWS: tl.constexpr):
    """Whether rows top..top+ROWS-1 have another label than the row before. (ROWS COLS)."""
    row = top + tl.arange(0, ROWS)[:, None]
    there = live & (row > 0) & (row < n)
    at = labels + row * stride
    here = tl.load(at, mask=there, other=0)
    return there & (here != tl.load(at - stride, mask=there, other=0))


@triton.jit
def _larger(one, two):
    return tl.maximum(one, two)


@triton.jit
def _smaller(one, two):
    return tl.minimum(one, two)
