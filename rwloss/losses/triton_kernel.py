"""The mean of softmax times map in one pass over the logits: a kernel in Triton, for GPUs.

A program has BLOCK voxels of an image with all their classes. It reads logits and map once, in the
type that they have (half precision too), and writes one number; or, backward, the gradient

    d/dlogit_k  Σ p_j z_j  =  p_k (z_k - Σ_j p_j z_j)

for which it computes the probabilities again: nothing of the size of the logits is kept. Values of
a compact map that are the same at every voxel are read as one number. It runs on NVIDIA and AMD
GPUs, and for tests on the CPU in Triton's interpreter (TRITON_INTERPRET=1 before the first import).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import math

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

TILE = 2048
"""Logits in one program: 16 for each of 128 threads."""


def _run(
    logits: Tensor,
    labels: Tensor,
    parts: list[Tensor],
    counts: Tensor | None,
    factor: Tensor | None,
) -> Tensor:
    """Σ over voxels of the cost Σ_k p_k z_k, (); with a factor () the gradient of factor times it.

    logits (b k *s) float16, bfloat16 or float32, of any strides; labels (b *s), whole numbers;
    parts: true and other (b *s), or dense values (b k *s), float32; counts (b *s) float32, 0 where
    a voxel does not count. The sum is float32, the gradient is like the logits.
    """
    batch, k, *size = logits.shape
    flat = logits.flatten(2)  # a view, unless spatial axes were swapped
    voxels = math.prod(size)
    padded = triton.next_power_of_2(k)
    block = max(1, TILE // padded)
    blocks = triton.cdiv(voxels, block)
    if factor is None:
        out = torch.empty(batch * blocks, dtype=torch.float32, device=logits.device)
    else:
        out = torch.empty_like(flat)
    first, *second = map(_dense_or_number, parts)
    other = second[0] if second else first
    with torch.cuda.device_of(logits):
        _costs[(blocks, batch)](
            flat,
            labels.contiguous(),
            first,
            other,
            first if counts is None else counts.contiguous(),
            first if factor is None else factor,
            out,
            voxels,
            k,
            *flat.stride(),
            *((out.stride(0), out.stride(1), out.stride(2)) if out.ndim == 3 else (0, 0, 0)),
            int(first.numel() > 1),
            int(other.numel() > 1),
            DENSE=not second,
            COUNTS=counts is not None,
            BACKWARD=factor is not None,
            CLASSES=padded,
            BLOCK=block,
        )
    return out.sum() if factor is None else out.reshape(logits.shape)


def _dense_or_number(part: Tensor) -> Tensor:
    """Values in the order of their axes; one number where all are the same by construction."""
    return part.flatten()[:1] if not any(part.stride()) else part.contiguous()


# Operations of torch, so that its transforms, and modes that count or pretend, see one step.
# `torch.library.custom_op` would load the compiler.
_library = torch.library.Library("rwloss", "FRAGMENT")
_library.define(
    "map_costs(Tensor logits, Tensor labels, Tensor[] parts, Tensor? counts, Tensor? factor) "
    "-> Tensor"
)
_library.impl("map_costs", _run, "CompositeExplicitAutograd")
map_costs = torch.ops.rwloss.map_costs


@triton.jit
def _costs(
    logits, labels, first, other, counts, factor, out, voxels, classes,
    logits_b, logits_k, logits_v, out_b, out_k, out_v, first_step, other_step,
    DENSE: tl.constexpr, COUNTS: tl.constexpr, BACKWARD: tl.constexpr,
    CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Costs of BLOCK voxels of one image, or their gradient. Tiles are (CLASSES BLOCK)."""
    image = tl.program_id(1).to(tl.int64)
    voxel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
    k = tl.arange(0, CLASSES)[:, None].to(tl.int64)
    there = voxel < voxels
    here = there & (k < classes)
    at = image * voxels + voxel
    x = tl.load(logits + image * logits_b + k * logits_k + voxel * logits_v, mask=here, other=0.0)
    x = x.to(tl.float32)
    weight = there.to(tl.float32)
    if COUNTS:  # NaN or infinity where no voxel counts must not spoil the sum
        weight = tl.load(counts + at, mask=there, other=0.0)
        x = tl.where(weight == 0, 0.0, x)
    x = tl.where(k < classes, x, -float("inf"))
    power = tl.exp(x - tl.max(x, axis=0, keep_dims=True))
    probs = power / tl.sum(power, axis=0, keep_dims=True)
    if DENSE:
        z = tl.load(first + (image * classes + k) * voxels + voxel, mask=here, other=0.0)
    else:
        label = tl.load(labels + at, mask=there, other=0)
        true = tl.load(first + at * first_step, mask=there, other=0.0)
        z = tl.where(k == label, true, tl.load(other + at * other_step, mask=there, other=0.0))
    cost = tl.sum(probs * z, axis=0, keep_dims=True)
    if BACKWARD:
        push = probs * (z - cost) * (weight * tl.load(factor))
        tl.store(out + image * out_b + k * out_k + voxel * out_v, push, mask=here)
    else:
        total = tl.sum(tl.where(weight == 0, 0.0, cost * weight))
        tl.store(out + image * tl.num_programs(0) + tl.program_id(0), total)
