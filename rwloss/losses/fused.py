"""Sums of costs over voxels as autograd functions with their gradients written out.

Plain autograd would keep several arrays of the logits' size for the way back; these keep one.
With p = softmax(logits),

    d/dlogit_k  Σ w (1 - p_t^q) / q  =  w p_t^q (p_k - [k = t])
    d/dlogit_k  Σ p_j z_j            =  p_k (z_k - Σ_j p_j z_j)

(Valverde & Tohka, arXiv 2108.01405; Zhang & Sabuncu, arXiv 1805.07836, for q < 1).

Both take `low_memory`: keep the logits, which the network has made anyway, instead of the
probabilities, and compute these again on the way back. Only then are there second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional

from rwloss.errors import RWLossError


def linked_sum(
    logits: Tensor, labels: Tensor, weight: Tensor, q: float = 1.0, *, low_memory: bool = False
) -> Tensor:
    """Σ w (1 - p_t^q) / q over voxels, -Σ w log p_t for q = 0. ().

    logits (b k *s) and weight (b *s) of one floating type, labels (b *s) int64 in 0..K-1.
    """
    # Logarithms for q < 1: p_t may underflow where its power does not.
    apply = _LinkedSumOfLogits.apply if low_memory or q != 1.0 else _LinearSum.apply
    value: Tensor = apply(logits, labels, weight, q)  # type: ignore[no-untyped-call]
    return value


def dense_sum(logits: Tensor, values: Tensor, scale: Tensor, *, low_memory: bool = False) -> Tensor:
    """Σ scale Σ_k p_k z_k over voxels. ().

    logits, values (b k *s), scale (b *s) or (); all of one floating type.
    """
    apply = _DenseSumOfLogits.apply if low_memory else _DenseSum.apply
    value: Tensor = apply(logits, values, scale)  # type: ignore[no-untyped-call]
    return value


class _LinearSum(Function):
    """q = 1: w - w p_t. Keeps the probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor, q: float) -> Tensor:
        del q
        probs = functional.softmax(logits, dim=1)
        push = weight * probs.gather(1, labels[:, None])[:, 0]
        ctx.save_for_backward(probs, labels, push)
        return (weight - push).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        probs, labels, push = ctx.saved_tensors
        push = push * gradient
        result = probs * push[:, None]
        result.scatter_add_(1, labels[:, None], push.neg_()[:, None])
        return result, None, None, None


class _LinkedSumOfLogits(Function):
    """Any q. Keeps the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor, q: float) -> Tensor:
        log_sum = logits.logsumexp(dim=1)
        log_true = _counted(logits.gather(1, labels[:, None])[:, 0] - log_sum, weight)
        ctx.q = q
        ctx.save_for_backward(logits, labels, weight, log_sum)
        loss = -log_true if q == 0.0 else -torch.expm1(q * log_true) / q
        return (weight * loss).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, weight, log_sum = ctx.saved_tensors
        graph = torch.is_grad_enabled()
        if graph:  # for a second derivative the sum must hang on the logits too
            log_sum = logits.logsumexp(dim=1)
        log_probs = logits - log_sum[:, None]
        log_true = _counted(log_probs.gather(1, labels[:, None])[:, 0], weight)
        push = weight * gradient * torch.exp(ctx.q * log_true)
        if graph:
            result = log_probs.exp() * push[:, None]
            result = result.scatter_add(1, labels[:, None], -push[:, None])
        else:
            result = log_probs.exp_().mul_(push[:, None])
            result.scatter_add_(1, labels[:, None], push.neg_()[:, None])
        return result, None, None, None


class _DenseSum(Function):
    """Keeps the probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        probs = functional.softmax(logits, dim=1)
        costs = _costs(probs, values)
        ctx.save_for_backward(probs, values, costs, scale)
        return (costs * scale).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        probs, values, costs, scale = ctx.saved_tensors
        result = values - costs[:, None]
        result.mul_(probs)
        factor = scale * gradient
        result.mul_(factor[:, None] if factor.ndim else factor)
        return result, None, None


class _DenseSumOfLogits(Function):
    """Keeps the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(logits, values, scale)
        return (_costs(functional.softmax(logits, dim=1), values) * scale).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, values, scale = ctx.saved_tensors
        probs = functional.softmax(logits, dim=1)
        factor = scale * gradient
        factor = factor[:, None] if factor.ndim else factor
        costs = (probs * values).sum(dim=1)
        return probs * (values - costs[:, None]) * factor, None, None


def _costs(probs: Tensor, values: Tensor) -> Tensor:
    """Σ_k p_k z_k. (b k *s) twice -> (b *s)."""
    # Class by class: the product of probabilities and map would be one more such array.
    costs = probs[:, 0] * values[:, 0]
    for k in range(1, probs.shape[1]):
        costs.addcmul_(probs[:, k], values[:, k])
    return costs


def _counted(log_true: Tensor, weight: Tensor) -> Tensor:
    """Logarithms where there is a weight: 0 times an infinite one would be no number."""
    return log_true.where(weight != 0, log_true.new_zeros(()))


def _refuse_second_derivative() -> None:
    # Autograd is on in the way back only when somebody asks for a graph of it.
    if torch.is_grad_enabled():
        raise RWLossError(
            "this loss keeps too little for a second derivative (create_graph=True): make it with "
            "RegionWiseLoss(..., low_memory=True)"
        )
