"""Signed distances of every class on a GPU in Triton: all images and classes, one kernel per axis.

For each class the squared distance to its nearest voxel, axis by axis as `triton_lines` says, the
last axis first. A first kernel finds the box around each class: the rows outside are infinite, so
the minimum over rows leaves them out.

A voxel's distance to its own class is 0. Inside, a signed distance is the distance to the nearest
other class, below 0: the last kernel takes the minimum over the other classes. Labels that are no
class (ignored ones) count as one more class for that. So an absent class costs the writing of its
zeros, and where one class fills the image, its distances stay 0.

Two arrays of the size of the result, with one class more, are all that is stored. Nothing here
waits for the GPU.
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

# Of voxels in one program that looks for classes, or that fills in the inside.
BLOCK = 2048


def signed_distances_mm(
    labels: Tensor,
    num_classes: int,
    spacings_mm: Sequence[tuple[float, ...]],
    less_mm: Sequence[float] | None = None,
) -> Tensor:
    """Signed distance in mm to the boundary of every class. labels (b *s) -> (b k *s) float32.

    Below 0 inside; 0 everywhere in an image where the class is absent or fills it.
    less_mm: one number per image, by which distances inside are nearer to 0; and 0 where only
    rounding is left.
    """
    if not labels.numel():
        shape = (len(labels), num_classes, *labels.shape[1:])
        return labels.new_empty(shape, dtype=torch.float32)
    less = None if less_mm is None else tuple(less_mm)
    rows = constant_rows(_rows, (tuple(spacings_mm), less), labels)
    return _signed(labels, rows, num_classes, less is not None)


def _rows(
    spacings_mm: Sequence[tuple[float, ...]], less_mm: Sequence[float] | None
) -> NDArray[np.float32]:
    """Squared spacings by axis, then the numbers of images. (axes + 1, b)."""
    squares = np.array(spacings_mm, dtype=np.float64) ** 2
    less = np.zeros(len(squares)) if less_mm is None else np.array(less_mm)
    return np.vstack([squares.T, less[None]]).astype(np.float32, order="C")


@operation("signed_distances(Tensor labels, Tensor[] rows, int num_classes, bool less) -> Tensor")
def _signed(labels: Tensor, rows: Sequence[Tensor], num_classes: int, less: bool) -> Tensor:
    """Signed distances of every class. labels (b *s), rows (b) as of `_rows` -> (b k *s).

    The result is the first part of a larger piece of memory.
    """
    *squares, less_mm = rows
    batch, *size = labels.shape
    shape, voxels = (batch, num_classes, *size), math.prod(size)
    if voxels < 2 or not math.prod(shape):
        return squares[0].new_zeros(shape)
    labels = labels.contiguous()
    labels = labels.view(torch.uint8) if labels.dtype is torch.bool else labels
    channels = batch * (num_classes + 1)
    boxes = torch.zeros(channels * 6, dtype=torch.int32, device=labels.device)
    before, found = (squares[0].new_empty(channels * voxels) for _ in range(2))
    tiles = (BLOCK, *triton_lines.LINES), triton_lines.TILE
    find, (axis, along), passes, fill = _steps(tuple(labels.shape), num_classes, less, *tiles)
    with torch.cuda.device_of(labels):
        find(labels, boxes)
        along(labels, found, boxes, squares[axis])
        for axis, across in passes:
            before, found = found, before
            across(before, found, boxes, squares[axis])
        fill(labels, found, boxes, less_mm)
    return found[: math.prod(shape)].view(shape)


@lru_cache(maxsize=256)
def _steps(
    shape: tuple[int, ...],
    num_classes: int,
    less: bool,
    block_and_lines: tuple[int, ...],
    tile: tuple[int, int],
) -> tuple[Launch, tuple[int, Launch], list[tuple[int, Launch]], Launch]:
    """The kernels, with the axes of their distances.

    block_and_lines, tile: `BLOCK`, and the numbers of `triton_lines` for tiles.
    """
    block, *lines_tile = block_and_lines
    batch, *size = shape
    # Always three axes. No distance runs along one of length 1: these may be added or left out.
    axes = [axis for axis, length in enumerate(size) if length > 1]
    lengths = [1] * (3 - len(axes)) + [size[axis] for axis in axes]
    z, y, x = [0] * (3 - len(axes)) + axes
    depth, height, width = lengths
    channels, counts, voxels = batch * (num_classes + 1), (batch, num_classes), math.prod(size)
    blocks = (batch * triton.cdiv(voxels, block),)
    find = Launch(find_boxes, blocks, (*counts, *lengths), BLOCK=block)
    lines, cols = triton_lines.lines_and_cols(width, *lines_tile)
    programs = channels * triton.cdiv(depth * height, lines) * triton.cdiv(width, cols)
    along = Launch(
        along_rows, (programs,), (*counts, *lengths), LINES=lines, COLS=cols,
        num_warps=triton_lines.WARPS,
    )  # fmt: skip
    passes = []
    sizes = [(1, y, height, depth, width), (0, z, depth, 1, height * width)]
    for place, axis, n, outer, inner in sizes[: 1 if depth == 1 else 2]:
        rows, cols = tile
        cols = min(cols, max(32, triton.next_power_of_2(inner)))
        programs = channels * outer * triton.cdiv(inner, cols) * triton.cdiv(n, rows)
        across = Launch(
            across_rows, (programs,), (*counts, n, outer, inner), AXIS=place, LAST=outer == 1,
            ROWS=rows, COLS=cols, num_warps=1,
        )  # fmt: skip
        passes.append((axis, across))
    fill = Launch(fill_inside, blocks, (*counts, voxels), LESS=less, BLOCK=block)
    return find, (x, along), passes, fill


# A channel is a class of an image, and after all of these the rest of each image: what is no class.
# Its box is six numbers. For each axis they are the length less the first place that the class has,
# and its last place plus 1: both are the largest over its voxels, and both 0 without any.


@triton.jit
def find_boxes(labels, boxes, images, classes, depth, height, width, BLOCK: tl.constexpr):
    """Find the box around each class of each image. boxes: zeros, (channels 3 2) int32."""
    voxels = depth * height * width
    blocks = tl.cdiv(voxels, BLOCK)
    image = tl.program_id(0) // blocks
    voxel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    there = voxel < voxels
    label = tl.load(labels + image.to(tl.int64) * voxels + voxel, mask=there, other=0)
    k = tl.where((label >= 0) & (label < classes), label, classes).to(tl.int32)
    first = tl.min(tl.where(there, k, classes), 0)
    k = tl.where(there, k, -1)
    line = voxel // width
    for one in range(first, tl.max(k, 0) + 1):
        own = k == one
        if tl.max(own.to(tl.int32), 0) > 0:
            box = boxes + _channel(image, one, images, classes) * 6
            _widen(box, own, line // height, depth)
            _widen(box + 2, own, line % height, height)
            _widen(box + 4, own, voxel % width, width)


@triton.jit
def _widen(box, own, place, length):
    """Widen one axis of a box to the places of its own voxels."""
    tl.atomic_max(box, tl.max(tl.where(own, length - place, 0), 0))
    tl.atomic_max(box + 1, tl.max(tl.where(own, place + 1, 0), 0))


@triton.jit
def _channel(image, k, images, classes):
    """The place of a class of an image among all: first all classes, then the rest of each."""
    return tl.where(k < classes, image * classes + k, images * classes + image)


@triton.jit
def _image_and_class(channel, images, classes):
    """The reverse. The rest of an image is the class after the last."""
    rest = channel - images * classes
    image = tl.where(rest < 0, channel // classes, rest)
    return image, tl.where(rest < 0, channel % classes, classes)


@triton.jit
def _bounds(boxes, channel, axis, length):
    """Where the box begins along an axis, and where it ends; (length, 0) without any voxel."""
    box = boxes + (channel * 3 + axis) * 2
    return length - tl.load(box), tl.load(box + 1)


@triton.jit
def along_rows(
    labels, found, boxes, squares, images, classes, depth, height, width, LINES: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """Squared distance to the nearest voxel of the class on the same line of the last axis.

    Stored for the lines that go through the box; no other pass reads the others.
    """
    blocks, groups = tl.cdiv(width, COLS), tl.cdiv(depth * height, LINES)
    start = (tl.program_id(0) % blocks) * COLS
    line = (tl.program_id(0) // blocks % groups) * LINES + tl.arange(0, LINES)[:, None]
    channel = tl.program_id(0) // (blocks * groups)
    image, k = _image_and_class(channel, images, classes)
    low, high = _bounds(boxes, channel, 0, depth)
    live = (line // height >= low) & (line // height < high)
    low, high = _bounds(boxes, channel, 1, height)
    live = live & (line % height >= low) & (line % height < high)
    if tl.max(live.to(tl.int32)) == 0:
        return
    voxels = depth * height * width
    labels += image.to(tl.int64) * voxels + line * width
    found += channel.to(tl.int64) * voxels + line * width
    col = tl.arange(0, COLS)[None, :]
    own = _is(labels, start + col, live, k, classes, width)
    left, right = last_until(own, start + col), first_from(own, start + col)
    for other in range(0, width, COLS):  # of a long line
        if other != start:
            own = _is(labels, other + col, live, k, classes, width)
            there = tl.where(own & (other < start), other + col, -FAR)
            left = tl.maximum(left, tl.max(there, axis=1, keep_dims=True))
            there = tl.where(own & (other > start), other + col, FAR)
            right = tl.minimum(right, tl.min(there, axis=1, keep_dims=True))
    col += start
    steps = tl.minimum(col - left, right - col).to(tl.float32)
    squared = tl.where(steps < width, steps * steps * tl.load(squares + image), float("inf"))
    tl.store(found + col, squared, mask=live & (col < width))


@triton.jit
def _is(labels, col, live, k, classes, width):
    """Whether voxels of lines have the class, or for the rest none of them."""
    there = live & (col < width)
    label = tl.load(labels + col, mask=there, other=0)
    none = (label < 0) | (label >= classes)
    return there & tl.where(k < classes, label == k, none)


@triton.jit(do_not_specialize=["n", "outer", "inner"])
def across_rows(
    before, found, boxes, squares, images, classes, n, outer, inner, AXIS: tl.constexpr,
    LAST: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Squared distances after one more axis, of length n in planes (n inner). before -> found.

    outer: planes per channel. After the last axis the distances, and 0 for absent classes.
    """
    tiles, blocks = tl.cdiv(n, ROWS), tl.cdiv(inner, COLS)
    top = (tl.program_id(0) % tiles) * ROWS
    row = top + tl.arange(0, ROWS)[:, None]
    col = (tl.program_id(0) // tiles % blocks) * COLS + tl.arange(0, COLS)[None, :]
    plane = tl.program_id(0) // (tiles * blocks)
    channel = plane // outer
    if not LAST:
        low, high = _bounds(boxes, channel, 0, outer)
        if (plane % outer < low) | (plane % outer >= high):
            return
    image, _ = _image_and_class(channel, images, classes)
    square = tl.load(squares + image)
    low, high = _bounds(boxes, channel, AXIS, n)
    # Only whole planes may need 64 bits: one has less than 2**31 voxels.
    before += plane.to(tl.int64) * n * inner + col
    found += plane.to(tl.int64) * n * inner + col
    live = col < inner
    here = live & (row < n)
    boxed = live & (row >= low) & (row < high)  # nothing was stored outside
    best = tl.load(before + row * inner, mask=boxed, other=float("inf"))
    best = minimum_over_rows(before, live, square, best, here, top, low, high, inner, ROWS)
    if LAST:
        best = tl.where(high > 0, tl.sqrt_rn(best), 0.0)
    tl.store(found + row * inner, best, mask=here)


@triton.jit
def fill_inside(
    labels, found, boxes, less, images, classes, voxels, LESS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store for each voxel, in its own class, the distance to the nearest other class, below 0.

    With LESS nearer to 0 by the number of the image, and 0 where only rounding is left.
    """
    blocks = tl.cdiv(voxels, BLOCK)
    image = tl.program_id(0) // blocks
    voxel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    there = voxel < voxels
    nearest = tl.full((BLOCK,), float("inf"), tl.float32)
    for k in range(classes + 1):
        channel = _channel(image, k, images, classes)
        if tl.load(boxes + channel * 6) > 0:
            at = found + channel.to(tl.int64) * voxels + voxel
            distance = tl.load(at, mask=there, other=0.0)
            nearest = tl.where(distance > 0, tl.minimum(nearest, distance), nearest)
    label = tl.load(labels + image.to(tl.int64) * voxels + voxel, mask=there, other=0)
    own = there & (label >= 0) & (label < classes) & (nearest < float("inf"))
    at = (image.to(tl.int64) * classes + label.to(tl.int64)) * voxels + voxel
    value = -nearest
    if LESS:
        number = tl.load(less + image)
        value += number
        value = tl.where(value > -1e-6 * number, 0.0, value)
    tl.store(found + at, value, mask=own)
