"""Sums over voxels in one pass over the logits, by the kernels for GPUs, with their gradients.

They keep the logits, which the network has made anyway, and nothing else of their size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.function import Function

from rwloss.losses.costs import only_first
from rwloss.losses.triton_kernel import gradients, map_sums, overlap_sums


def map_sum(logits: Tensor, labels: Tensor, counts: Tensor | None, *parts: Tensor) -> Tensor:
    """Σ over the voxels of each image that count of Σ_k p_k z_k. (b).

    logits (b k *s), labels (b *s), counts (b *s) 1 or 0; parts of a map: true and other (b *s), or
    values (b k *s).
    """
    sums: Tensor = _MapSum.apply(logits, labels, counts, *parts)  # type: ignore[no-untyped-call]
    return sums


def overlap(logits: Tensor, labels: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Σ p y, Σ p and Σ y over the voxels of each image that count. (b k) each."""
    sums: tuple[Tensor, Tensor, Tensor] = _Overlap.apply(  # type: ignore[no-untyped-call]
        logits, labels, counts
    )
    return sums


class _MapSum(Function):
    @staticmethod
    def forward(logits: Tensor, labels: Tensor, counts: Tensor | None, *parts: Tensor) -> Tensor:
        sums: Tensor = map_sums(logits, labels, counts, parts)
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, *inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sums, logits, labels, counts, *parts = ctx.saved_tensors
        result = only_first(gradients(logits, labels, counts, parts, gradient), sums)
        return result, None, None, *[None] * len(parts)


class _Overlap(Function):
    @staticmethod
    def forward(logits: Tensor, labels: Tensor, counts: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(sums.clone() for sums in overlap_sums(logits, labels, counts))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(output[0], *inputs)
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx: Any, both: Tensor, predicted: Tensor, _: Tensor) -> tuple[Any, ...]:
        total, logits, labels, counts = ctx.saved_tensors
        # As a map: each class of an image has one value, and more where it is the true class.
        parts = [predicted.contiguous(), both.contiguous()]
        result = gradients(logits, labels, counts, parts, both.new_ones(len(both)))
        return only_first(result, total), None, None
