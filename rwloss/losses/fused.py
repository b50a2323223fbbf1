"""Sums of costs over voxels as autograd functions with their gradients written out.

Plain autograd would keep several arrays of the logits' size for the way back; these keep one.
With p = softmax(logits),

    d/dlogit_k  Σ w (1 - p_t^q) / q  =  w p_t^q (p_k - [k = t])
    d/dlogit_k  Σ p_j z_j            =  p_k (z_k - Σ_j p_j z_j)

(Valverde & Tohka, arXiv 2108.01405; Zhang & Sabuncu, arXiv 1805.07836, for q < 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional


def linked_sum(
    logits: Tensor, labels: Tensor, weight: Tensor, q: float = 1.0, *, low_memory: bool = False
) -> Tensor:
    """Σ w (1 - p_t^q) / q over voxels, -Σ w log p_t for q = 0. ().

    logits (b k *s) of any floating type, labels (b *s) int64 in 0..K-1, weight (b *s) in float32
    or float64, the type of the result. low_memory: keep the logits themselves and one number a
    voxel instead of the probabilities, and compute these again on the way back.
    """
    value: Tensor = _LinkedSum.apply(logits, labels, weight, q, low_memory)  # type: ignore[no-untyped-call]
    return value


def dense_sum(logits: Tensor, values: Tensor, scale: Tensor | float) -> Tensor:
    """Σ scale Σ_k p_k z_k over voxels. ().

    logits, values (b k *s); scale (b *s) or one number; values' type is that of the result.
    """
    value: Tensor = _DenseSum.apply(logits, values, scale)  # type: ignore[no-untyped-call]
    return value


class _LinkedSum(Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor, q: float, low_memory: bool
    ) -> Tensor:
        wide = logits.to(weight.dtype)
        index = labels[:, None]
        ctx.dtype, ctx.low_memory = logits.dtype, low_memory or q != 1.0
        if not ctx.low_memory:
            probs = functional.softmax(wide, dim=1)
            push = weight * probs.gather(1, index)[:, 0]
            ctx.save_for_backward(probs, labels, push)
            return (weight - push).sum()
        # In logarithms: p_t may underflow where its power does not.
        log_sum = wide.logsumexp(dim=1)
        log_true = wide.gather(1, index)[:, 0] - log_sum
        push = weight * torch.exp(q * log_true)
        ctx.save_for_backward(logits, labels, push, log_sum)
        loss = -log_true if q == 0.0 else -torch.expm1(q * log_true) / q
        # A weight of 0 counts for nothing, even beside an infinite logarithm.
        return torch.where(weight > 0, weight * loss, weight.new_zeros(())).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.low_memory:
            logits, labels, push, log_sum = ctx.saved_tensors
            result = (logits.to(push.dtype) - log_sum[:, None]).exp_()
        else:
            probs, labels, push = ctx.saved_tensors
            result = None
        push = push * gradient
        if result is None:
            result = probs * push[:, None]
        else:
            result.mul_(push[:, None])
        result.scatter_add_(1, labels[:, None], push.neg_()[:, None])
        return result.to(ctx.dtype), None, None, None, None


class _DenseSum(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, scale: Tensor | float) -> Tensor:
        probs = functional.softmax(logits.to(values.dtype), dim=1)
        # Class by class: the product of probabilities and map would be one more such array.
        costs = probs[:, 0] * values[:, 0]
        for k in range(1, probs.shape[1]):
            costs.addcmul_(probs[:, k], values[:, k])
        ctx.dtype, ctx.scale = logits.dtype, scale if isinstance(scale, float) else None
        ctx.save_for_backward(probs, values, costs, *([] if ctx.scale is not None else [scale]))
        return (costs * scale).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        probs, values, costs, *scale = ctx.saved_tensors
        result = values - costs[:, None]
        result.mul_(probs)
        result.mul_(scale[0][:, None] * gradient if scale else ctx.scale * gradient)
        return result.to(ctx.dtype), None, None
