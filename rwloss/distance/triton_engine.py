"""Squared distances on a GPU in Triton: the whole batch, all labels, two kernels per axis.

Exact and separable like the torch engine, whose docstring has the formula: along each axis, first
the distance to another label on the same line, and then, for all axes but the first, the minimum
over pairs of rows. `triton_lines` says how, and `triton_signed` has the distances to every class.
The first axis is the last one, whose voxels are neighbors in memory, so that the others can be
read line by line. Two arrays of the size of the result are all that is stored.

Nothing here waits for the GPU. It needs an NVIDIA or AMD GPU, or Triton's interpreter
(TRITON_INTERPRET=1 before the first import), which is how its tests run without one.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from numpy.typing import NDArray
from torch import Tensor

from rwloss.arrays import operation
from rwloss.distance import triton_lines
from rwloss.distance.triton_launch import Launch, constant_rows
from rwloss.distance.triton_lines import FAR, first_from, last_until, minimum_over_rows
from rwloss.distance.triton_signed import signed_distances_mm as signed_distances_mm  # noqa: PLC0414


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
    if not labels.numel():
        return labels.new_empty(labels.shape, dtype=torch.float32)
    rows = constant_rows(_rows, (tuple(spacings_mm), tuple(alone)), labels)
    return _transform(labels, rows, root)


def _rows(spacings_mm: Sequence[tuple[float, ...]], alone: Sequence[float]) -> NDArray[np.float32]:
    """Squared spacings by axis, then what an image with one label gets. (axes + 1, b)."""
    squares = [[mm**2 for mm in row] for row in spacings_mm]
    rows = [[*row, value] for row, value in zip(squares, alone, strict=True)]
    return np.array(rows, dtype=np.float32).T.copy()


@operation("distance_transform(Tensor labels, Tensor[] rows, bool root) -> Tensor")
def _transform(labels: Tensor, rows: Sequence[Tensor], root: bool) -> Tensor:
    """Distances of labels (b *s) -> (b *s). rows: of `_rows`, (b) each."""
    alone = rows[-1]
    if labels.numel() == len(labels):
        return alone.reshape(labels.shape).clone()
    labels = labels.contiguous()
    labels = labels.view(torch.uint8) if labels.dtype is torch.bool else labels
    before = found = alone
    steps = _steps(tuple(labels.shape), root, triton_lines.LINES, triton_lines.TILE)
    with torch.cuda.device_of(labels):
        for step, (axis, along, across) in enumerate(steps):
            before, found = found, before if step > 1 else alone.new_empty(labels.shape)
            along(labels, found, rows[axis], alone)
            if across is not None:
                across(before, found, rows[axis], alone)
    return found


@lru_cache(maxsize=256)
def _steps(
    shape: tuple[int, ...], root: bool, *tiles: tuple[int, int]
) -> list[tuple[int, Launch, Launch | None]]:
    """Axes in their order, with their kernels. tiles: the numbers of `triton_lines` for these."""
    batch, *size = shape
    lines_tile, rows_tile = tiles
    voxels, steps = math.prod(size), list[tuple[int, Launch, Launch | None]]()
    # No distance runs along an axis of length 1. After the last axis comes the shortest, because
    # the smaller the numbers are already, the fewer pairs of rows are left.
    last, *others = [axis for axis in reversed(range(len(size))) if size[axis] > 1]
    order = [last, *sorted(others, key=lambda axis: size[axis])]
    for axis in order:
        n, inner = size[axis], math.prod(size[axis + 1 :])
        outer = voxels // (n * inner)
        scale, across = (n, inner, outer, batch * outer), None
        lines, cols = triton_lines.lines_and_cols(n, *lines_tile)
        span, programs = _programs(lines, inner, batch * outer)
        along = Launch(
            along_lines, (programs * triton.cdiv(n, cols),), scale, LAST=len(order) == 1,
            ROOT=root, SPAN=span, LINES=lines, COLS=cols, num_warps=triton_lines.WARPS,
        )  # fmt: skip
        if axis != last:
            rows, lines = rows_tile
            span, programs = _programs(lines, inner, batch * outer)
            across = Launch(
                across_lines, (programs * triton.cdiv(n, rows),), scale, LAST=axis == order[-1],
                ROOT=root, SPAN=span, ROWS=rows, COLS=lines, num_warps=1,
            )  # fmt: skip
        steps.append((axis, along, across))
    return steps


# For an axis of n voxels the batch is (planes n inner), with `outer` planes per image. A program
# has lines that are neighbors in memory: SPAN of one plane, or of each of several narrow planes.


def _programs(lines: int, inner: int, planes: int) -> tuple[int, int]:
    """SPAN where a program has so many lines, and the number of programs that have all lines."""
    span = min(lines, triton.next_power_of_2(inner))
    return span, triton.cdiv(inner, span) * triton.cdiv(planes, lines // span)


@triton.jit
def along_lines(
    labels, found, squares, alone, n, inner, outer, planes, LAST: tl.constexpr, ROOT: tl.constexpr,
    SPAN: tl.constexpr, LINES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Squared distance to another label on the same line.

    squares, alone: of each image, spacing² along the axis and the value where it has one label.
    """
    blocks = tl.cdiv(n, COLS)
    start = (tl.program_id(0) % blocks) * COLS
    program, line = tl.program_id(0) // blocks, tl.arange(0, LINES)[:, None]
    image, first, live = _lines(program, line, n, inner, outer, planes, LINES, SPAN)
    labels += first
    col = start + tl.arange(0, COLS)[None, :]
    # Where the run of this voxel begins, and where the next one does.
    left = last_until(_begins(labels, col, live, n, inner), col)
    right = first_from(_begins(labels, col + 1, live, n, inner), col + 1)
    for other in range(0, n, COLS):  # a long line has other blocks
        if other != start:
            there = other + tl.arange(0, COLS)[None, :]
            begins = _begins(labels, there, live, n, inner)
            before = tl.where(begins & (other < start), there, -FAR)
            left = tl.maximum(left, tl.max(before, axis=1, keep_dims=True))
            after = tl.where(begins & (other > start), there, FAR)
            right = tl.minimum(right, tl.min(after, axis=1, keep_dims=True))
    steps = tl.minimum(col - left + 1, right - col).to(tl.float32)
    square = tl.load(squares + image, mask=live, other=1.0)
    best = tl.where(steps < n, steps * steps * square, float("inf"))
    if LAST:
        best = _finished(best, alone + image, live, ROOT)
    tl.store(found + first + col * inner, best, mask=live & (col < n))


@triton.jit
def _lines(program, line, n, inner, outer, planes, LINES: tl.constexpr, SPAN: tl.constexpr):
    """Of the lines 0..LINES-1 of a program: image, first voxel, and which of them exist."""
    blocks = tl.cdiv(inner, SPAN)
    plane = (program // blocks) * (LINES // SPAN) + line // SPAN
    place = (program % blocks) * SPAN + line % SPAN
    # Only whole planes may need 64 bits: one has less than 2**31 voxels.
    first = plane.to(tl.int64) * n * inner + place
    return plane // outer, first, (plane < planes) & (place < inner)


@triton.jit
def _begins(labels, col, live, n, inner):
    """Whether voxels of a line have another label than the one before."""
    there = live & (col > 0) & (col < n)
    here = tl.load(labels + col * inner, mask=there, other=0)
    return there & (here != tl.load(labels + (col - 1) * inner, mask=there, other=0))


@triton.jit
def _finished(best, alone, live, ROOT: tl.constexpr):
    """Distances, or their squares, with the given values in images with one label."""
    found = tl.sqrt_rn(best) if ROOT else best
    return tl.where(best < float("inf"), found, tl.load(alone, mask=live, other=0.0))


@triton.jit(do_not_specialize=["n", "inner", "outer", "planes"])
def across_lines(
    before, found, squares, alone, n, inner, outer, planes, LAST: tl.constexpr, ROOT: tl.constexpr,
    SPAN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Squared distances after one more axis. before -> found, which has those along the axis."""
    tiles = tl.cdiv(n, ROWS)
    top = (tl.program_id(0) % tiles) * ROWS
    row = top + tl.arange(0, ROWS)[:, None]
    program, line = tl.program_id(0) // tiles, tl.arange(0, COLS)[None, :]
    image, first, live = _lines(program, line, n, inner, outer, planes, COLS, SPAN)
    first = tl.max_contiguous(first, (1, SPAN))  # Triton 3.6 does not see it in narrow planes
    here = live & (row < n)
    square = tl.load(squares + image, mask=live, other=1.0)
    before += first
    at = found + first + row * inner
    best = tl.load(before + row * inner, mask=here, other=float("inf"))
    best = tl.minimum(best, tl.load(at, mask=here, other=float("inf")))
    best = minimum_over_rows(before, live, square, best, here, top, 0, n, inner, ROWS)
    if LAST:
        best = _finished(best, alone + image, live, ROOT)
    tl.store(at, best, mask=here)
