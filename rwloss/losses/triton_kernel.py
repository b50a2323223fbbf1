"""Sums of softmax times a map, and their gradient, in one pass over the logits: kernels in Triton.

A program has BLOCK voxels of an image with all their classes. It reads logits and map once, in the
type that they have (half precision too), and writes a few numbers; or, backward, the gradient

    d/dlogit_k  Σ p_j z_j  =  p_k (z_k - Σ_j p_j z_j)

for which it computes the probabilities again: nothing of the size of the logits is kept. A map is
dense (b k *s); or compact, true and other (b *s), each read as one number where it is the same at
every voxel; or a table (b k) of values per class, and of what the true class has besides. They run
on NVIDIA and AMD GPUs, and for tests on the CPU in Triton's interpreter (TRITON_INTERPRET=1 before
the first import).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

TILE = 2048
"""Logits in one program: 16 for each of 128 threads."""


def _map_sums(
    logits: Tensor, labels: Tensor, counts: Tensor | None, parts: Sequence[Tensor]
) -> Tensor:
    """Σ over the voxels of each image that count of Σ_k p_k z_k. (b) float32.

    logits (b k *s) float16, bfloat16 or float32, of any strides; labels (b *s), whole numbers;
    counts (b *s) float32, 0 where a voxel does not count; parts of the map, float32.
    """
    out = logits.new_empty((len(logits), _blocks(logits)), dtype=torch.float32)
    _launch(tile_costs, logits, labels, counts, parts, None, out, (0, 0, 0), BACKWARD=False)
    return out.sum(dim=1)


def _gradients(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor | None,
    parts: Sequence[Tensor],
    factor: Tensor,
) -> Tensor:
    """The gradient by the logits of factor (b) times these sums, in their type. (b k *s)."""
    out = torch.empty_like(logits.flatten(2))
    _launch(tile_costs, logits, labels, counts, parts, factor, out, out.stride(), BACKWARD=True)
    return out.reshape(logits.shape)


def _overlap_sums(logits: Tensor, labels: Tensor, counts: Tensor | None) -> Tensor:
    """Σ p y, Σ p and Σ y over the voxels of each image that count. (3 b k) float32."""
    batch, k = logits.shape[:2]
    out = logits.new_empty((3, batch, _blocks(logits), k), dtype=torch.float32)
    _launch(tile_overlaps, logits, labels, counts, (), None, out, ())
    return out.sum(dim=2)


def _blocks(logits: Tensor) -> int:
    blocks: int = triton.cdiv(math.prod(logits.shape[2:]), _block(logits))
    return blocks


def _block(logits: Tensor) -> int:
    """Voxels of one program."""
    block: int = max(1, TILE // triton.next_power_of_2(logits.shape[1]))
    return block


def _launch(kernel, logits, labels, counts, parts, factor, out, strides, **constants) -> None:
    flat = logits.flatten(2)  # a view, unless spatial axes were swapped
    batch, k, voxels = flat.shape
    first, other = (*map(_dense_or_number, parts), out, out)[:2]
    if kernel is tile_costs:
        form = "TABLE" if parts[0].ndim == 2 else "COMPACT" if len(parts) == 2 else "DENSE"
        steps = int(first.numel() > 1), int(other.numel() > 1)
        given = (first, other, out if factor is None else factor.contiguous(), *strides, *steps)
        constants["FORM"] = form
    else:
        given = ()
    with torch.cuda.device_of(logits):
        kernel[(_blocks(logits), batch)](
            flat,
            labels.contiguous(),
            out if counts is None else counts.contiguous(),
            out,
            voxels,
            k,
            *flat.stride(),
            *given,
            **constants,
            COUNTS=counts is not None,
            CLASSES=triton.next_power_of_2(k),
            BLOCK=_block(logits),
            enable_fp_fusion=True,  # Triton warns where nobody says
        )


def _dense_or_number(part: Tensor) -> Tensor:
    """Values in the order of their axes; one number where all are the same by construction."""
    return part.flatten()[:1] if not any(part.stride()) else part.contiguous()


# Operations of torch, so that its transforms, and modes that count or pretend, see one step.
# `torch.library.custom_op` would load the compiler.
_library = torch.library.Library("rwloss", "FRAGMENT")
_GIVEN = "Tensor logits, Tensor labels, Tensor? counts"
for name, schema, function in (
    ("map_sums", f"({_GIVEN}, Tensor[] parts) -> Tensor", _map_sums),
    ("map_gradients", f"({_GIVEN}, Tensor[] parts, Tensor factor) -> Tensor", _gradients),
    ("overlap_sums", f"({_GIVEN}) -> Tensor", _overlap_sums),
):
    _library.define(name + schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
map_sums = torch.ops.rwloss.map_sums
gradients = torch.ops.rwloss.map_gradients
overlap_sums = torch.ops.rwloss.overlap_sums


@triton.jit
def _probabilities(
    logits, counts, at, place, there, real, COUNTS: tl.constexpr
):  # fmt: skip
    """Softmax of a tile, and how much each of its voxels counts. (CLASSES BLOCK), (1 BLOCK)."""
    x = tl.load(logits + place, mask=there & real, other=0.0).to(tl.float32)
    weight = there.to(tl.float32)
    if COUNTS:  # NaN or infinity where no voxel counts must not spoil the sum
        weight = tl.load(counts + at, mask=there, other=0.0)
        x = tl.where(weight == 0, 0.0, x)
    x = tl.where(real, x, -float("inf"))
    power = tl.exp(x - tl.max(x, axis=0, keep_dims=True))
    return power / tl.sum(power, axis=0, keep_dims=True), weight


@triton.jit
def tile_costs(
    logits, labels, counts, out, voxels, classes, logits_b, logits_k, logits_v,
    first, other, factor, out_b, out_k, out_v, first_step, other_step,
    FORM: tl.constexpr, BACKWARD: tl.constexpr, COUNTS: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Costs of BLOCK voxels of one image, or their gradient."""
    image = tl.program_id(1).to(tl.int64)
    voxel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
    k = tl.arange(0, CLASSES)[:, None].to(tl.int64)
    there, real, at = voxel < voxels, k < classes, image * voxels + voxel
    place = image * logits_b + k * logits_k + voxel * logits_v
    probs, weight = _probabilities(logits, counts, at, place, there, real, COUNTS)
    if FORM == "DENSE":
        where = (image * classes + k) * voxels + voxel
        z = tl.load(first + where, mask=there & real, other=0.0)
    else:
        label = tl.load(labels + at, mask=there, other=0)
        if FORM == "TABLE":
            z = tl.load(first + image * classes + k, mask=real, other=0.0)
            more = tl.load(other + image * classes + k, mask=real, other=0.0)
            z = z + tl.where(k == label, more, 0.0)
        else:
            true = tl.load(first + at * first_step, mask=there, other=0.0)
            wrong = tl.load(other + at * other_step, mask=there, other=0.0)
            z = tl.where(k == label, true, wrong)
    cost = tl.sum(probs * z, axis=0, keep_dims=True)
    if BACKWARD:
        push = probs * (z - cost) * (weight * tl.load(factor + image))
        tl.store(out + image * out_b + k * out_k + voxel * out_v, push, mask=there & real)
    else:
        total = tl.sum(tl.where(weight == 0, 0.0, cost * weight))
        tl.store(out + image * tl.num_programs(0) + tl.program_id(0), total)


@triton.jit
def tile_overlaps(
    logits, labels, counts, out, voxels, classes, logits_b, logits_k, logits_v,
    COUNTS: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Σ p y, Σ p and Σ y of BLOCK voxels of one image, by class."""
    image = tl.program_id(1).to(tl.int64)
    voxel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
    k = tl.arange(0, CLASSES)[:, None].to(tl.int64)
    there, real, at = voxel < voxels, k < classes, image * voxels + voxel
    place = image * logits_b + k * logits_k + voxel * logits_v
    probs, weight = _probabilities(logits, counts, at, place, there, real, COUNTS)
    truth = tl.where(k == tl.load(labels + at, mask=there, other=0), weight, 0.0)
    probs = probs * weight
    blocks, images = tl.num_programs(0), tl.num_programs(1)
    into = out + (image * blocks + tl.program_id(0)) * classes + k
    step = images.to(tl.int64) * blocks * classes
    tl.store(into, tl.sum(probs * truth, axis=1, keep_dims=True), mask=real)
    tl.store(into + step, tl.sum(probs, axis=1, keep_dims=True), mask=real)
    tl.store(into + 2 * step, tl.sum(truth, axis=1, keep_dims=True), mask=real)
