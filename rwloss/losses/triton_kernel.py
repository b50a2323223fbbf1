"""Sums of softmax times a map and of overlaps, and their gradient, in one pass over the logits.

These are kernels in Triton. A program has BLOCK voxels of an image with all their classes. It reads
logits, labels and map once, in the type that they have (half precision too), and writes a few
numbers; or, backward, the gradient

    d/dlogit_k  Σ p_j z_j  =  p_k (z_k - Σ_j p_j z_j)

for which it computes the probabilities again: nothing of the size of the logits is kept. A map is
dense (b k *s); or compact, true and other (b *s), each read as one number where it is the same at
every voxel. The gradients of overlaps are a map too: each class of an image has one value, and more
where it is the true class. They run on NVIDIA and AMD GPUs, and for tests on the CPU in Triton's
interpreter (TRITON_INTERPRET=1 before the first import).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from rwloss.arrays import operation
from rwloss.distance.triton_launch import Launch

TILE = 2048
"""Logits in one program: 16 for each of 128 threads."""


_GIVEN = "Tensor logits, Tensor labels, Tensor? counts, Tensor[] parts"


@operation(
    f"softmax_sums({_GIVEN}, Tensor? map_labels, bool ignoring, bool overlap, int groups, "
    "float size) -> Tensor[]"
)
def sums(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor | None,
    parts: Sequence[Tensor],
    map_labels: Tensor | None,
    ignoring: bool,
    overlap: bool,
    groups: int,
    size: float,
) -> list[Tensor]:
    """Sums of each of so many groups of images (2 groups), and of each image (3 k b); float32.

    logits (b k *s) float16, bfloat16 or float32, of any strides; labels (b *s), whole numbers;
    counts (b *s) float32, 0 where a voxel does not count; parts of a map, float32, or none.
    Of a group: Σ of Σ_k p_k z_k / size over the voxels that count, and how many labels are not a
    class (or -1, if `ignoring`) or differ from `map_labels`. With `overlap`, of an image: Σ p y,
    Σ p and Σ y by class.
    """
    flat = logits.flatten(2)  # a view, unless spatial axes were swapped
    batch, k, voxels = flat.shape
    columns, parts_of_group = 2 + 3 * k * overlap, batch // groups * _tiles(k, voxels, TILE)[0]
    out = logits.new_empty((columns, groups, parts_of_group), dtype=torch.float32)
    others = out if map_labels is None else map_labels.contiguous()
    shared = {"OTHERS": map_labels is not None, "IGNORING": ignoring, "OVERLAP": overlap}
    _launch(tile_sums, flat, labels, counts, parts, (out, others), (float(size),), **shared)
    if not overlap:
        return [out.sum(dim=2)]
    return [out[:2].sum(dim=2), out[2:].view(3, k, batch, -1).sum(dim=3)]


@operation(f"softmax_gradients({_GIVEN}, Tensor? factors, float size, Tensor[] tables) -> Tensor")
def gradients(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor | None,
    parts: Sequence[Tensor],
    factors: Tensor | None,
    size: float,
    tables: Sequence[Tensor],
) -> Tensor:
    """The gradient of these sums by the logits, in their type. (b k *s).

    factors: gradient of the sum of each group of images, divided by `size`. tables: those by Σ p
    and by Σ p y (b k), or none.
    """
    flat = logits.flatten(2)
    out = torch.empty_like(flat)
    first, second = (*(table.contiguous() for table in tables), out, out)[:2]
    images = len(logits) // (1 if factors is None else factors.numel())
    factors = out if factors is None else factors.contiguous()
    given = (out, factors, first, second)
    numbers = (float(size), images, *out.stride())
    _launch(tile_gradients, flat, labels, counts, parts, given, numbers, TABLES=bool(tables))
    return out.reshape(logits.shape)


@cache
def _tiles(classes: int, voxels: int, tile: int) -> tuple[int, int, int]:
    """Programs of one image, voxels of each, and the power of 2 that has room for the classes."""
    room = 1 << (classes - 1).bit_length()
    block = max(1, tile // room)
    return -(-voxels // block), block, room


def _launch(kernel, flat, labels, counts, parts, given, numbers, **constants) -> None:
    """Run a kernel over the tiles of each image. given: the other tensors, `out` first."""
    # A part without strides has the same number everywhere by construction.
    steps = tuple([int(any(part.stride())) for part in parts])
    launch = _launch_of(
        kernel, flat.shape, flat.stride(), steps, counts is not None, numbers, TILE, **constants
    )
    dense = [part.contiguous() if step else part for part, step in zip(parts, steps, strict=True)]
    out = given[0]
    with torch.cuda.device_of(flat):
        launch(
            flat,
            labels.contiguous(),
            out if counts is None else counts.contiguous(),
            *(*dense, out, out)[:2],
            *given,
        )


@lru_cache(maxsize=256)
def _launch_of(kernel, shape, strides, steps, counted, numbers, tile, **constants) -> Launch:
    """The launch for logits of a shape and strides, with parts of the map by their steps."""
    batch, k, voxels = shape
    blocks, block, room = _tiles(k, voxels, tile)
    numbers = *(*steps, 0, 0)[:2], voxels, k, *strides, *numbers
    form = ("NONE", "DENSE", "COMPACT")[len(steps)]
    constants |= {"FORM": form, "COUNTS": counted, "CLASSES": room, "BLOCK": block}
    return Launch(kernel, (blocks, batch), numbers, **constants)


@triton.jit
def _tile(
    logits, labels, counts, voxels, classes, logits_b, logits_k, logits_v,
    COUNTS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a program reads of logits and labels: (CLASSES 1), (1 BLOCK), or both.

    image; classes, and which are real; voxels in the image and in the batch, and which exist;
    labels; how much each voxel counts; the softmax.
    """
    image = tl.program_id(1).to(tl.int64)
    voxel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
    k = tl.arange(0, CLASSES)[:, None].to(tl.int64)
    there, real, at = voxel < voxels, k < classes, image * voxels + voxel
    label = tl.load(labels + at, mask=there, other=0).to(tl.int64)
    place = image * logits_b + k * logits_k + voxel * logits_v
    x = tl.load(logits + place, mask=there & real, other=0.0).to(tl.float32)
    weight = there.to(tl.float32)
    if COUNTS:  # NaN or infinity where no voxel counts must not spoil the sum
        weight = tl.load(counts + at, mask=there, other=0.0)
        x = tl.where(weight == 0, 0.0, x)
    x = tl.where(real, x, -float("inf"))
    power = tl.exp(x - tl.max(x, axis=0, keep_dims=True))
    probs = power / tl.sum(power, axis=0, keep_dims=True)
    return image, k, real, voxel, at, there, label, weight, probs


@triton.jit
def _map(
    first, second, first_step, second_step, image, k, real, voxel, voxels, classes, at, there,
    label, FORM: tl.constexpr,
):  # fmt: skip
    """Values of the map in a tile. (CLASSES BLOCK)."""
    if FORM == "DENSE":
        where = (image * classes + k) * voxels + voxel
        return tl.load(first + where * first_step, mask=there & real, other=0.0)
    true = tl.load(first + at * first_step, mask=there, other=0.0)
    wrong = tl.load(second + at * second_step, mask=there, other=0.0)
    return tl.where(k == label, true, wrong)


@triton.jit
def tile_sums(
    logits, labels, counts, first, second, out, map_labels, first_step, second_step, voxels,
    classes, logits_b, logits_k, logits_v, size,
    OTHERS: tl.constexpr, IGNORING: tl.constexpr, OVERLAP: tl.constexpr, FORM: tl.constexpr,
    COUNTS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums of BLOCK voxels of one image."""
    image, k, real, voxel, at, there, label, weight, probs = _tile(
        logits, labels, counts, voxels, classes, logits_b, logits_k, logits_v,
        COUNTS, CLASSES, BLOCK,
    )  # fmt: skip
    blocks = tl.num_programs(0).to(tl.int64)
    step, out = blocks * tl.num_programs(1), out + image * blocks + tl.program_id(0)
    total = 0.0
    if FORM != "NONE":
        z = _map(
            first, second, first_step, second_step, image, k, real, voxel, voxels, classes, at,
            there, label, FORM,
        )  # fmt: skip
        cost = tl.sum(probs * z, axis=0, keep_dims=True)
        total = tl.sum(tl.where(weight == 0, 0.0, cost * weight)) / size
    tl.store(out, total)
    wrong = (label >= classes) | (label < (-1 if IGNORING else 0))
    if OTHERS:
        wrong = wrong | (label != tl.load(map_labels + at, mask=there, other=0).to(tl.int64))
    tl.store(out + step, tl.sum((there & wrong).to(tl.float32)))
    if OVERLAP:
        truth = tl.where(k == label, weight, 0.0)
        probs = probs * weight
        into, step = out + (2 + k) * step, step * classes
        tl.store(into, tl.sum(probs * truth, axis=1, keep_dims=True), mask=real)
        tl.store(into + step, tl.sum(probs, axis=1, keep_dims=True), mask=real)
        tl.store(into + 2 * step, tl.sum(truth, axis=1, keep_dims=True), mask=real)


@triton.jit
def tile_gradients(
    logits, labels, counts, first, second, out, factors, predicted, both, first_step, second_step,
    voxels, classes, logits_b, logits_k, logits_v, size, images, out_b, out_k, out_v,
    TABLES: tl.constexpr, FORM: tl.constexpr, COUNTS: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient at BLOCK voxels of one image."""
    image, k, real, voxel, at, there, label, weight, probs = _tile(
        logits, labels, counts, voxels, classes, logits_b, logits_k, logits_v,
        COUNTS, CLASSES, BLOCK,
    )  # fmt: skip
    z = 0.0
    if FORM != "NONE":
        z = _map(
            first, second, first_step, second_step, image, k, real, voxel, voxels, classes, at,
            there, label, FORM,
        )  # fmt: skip
        z = z * (tl.load(factors + image // images) / size)
    if TABLES:
        own = tl.load(both + image * classes + k, mask=real, other=0.0)
        z += tl.load(predicted + image * classes + k, mask=real, other=0.0)
        z += tl.where(k == label, own, 0.0)
    push = probs * (z - tl.sum(probs * z, axis=0, keep_dims=True)) * weight
    tl.store(out + image * out_b + k * out_k + voxel * out_v, push, mask=there & real)
