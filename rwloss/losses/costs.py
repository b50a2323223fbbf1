"""What each term costs at given probabilities: fixed maps, and losses of probabilities.

The usual sums of a map over voxels are autograd functions with their gradients written out. Plain
autograd would keep several arrays of the size of the logits for the backward pass; these keep one.
With p = softmax(logits),

    d/dlogit_k  Σ w (1 - p_t^q) / q  =  w p_t^q (p_k - [k = t])
    d/dlogit_k  Σ p_j z_j            =  p_k (z_k - Σ_j p_j z_j)

(Valverde & Tohka, arXiv 2108.01405; Zhang & Sabuncu, arXiv 1805.07836, for q < 1).

Both take `low_memory`: keep the logits, which the network has made anyway, instead of the
probabilities, and compute these again in the backward pass. Only then are there second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional

from rwloss.arrays import eager
from rwloss.errors import RWLossError
from rwloss.losses.batch import LossBatch
from rwloss.maps.expression import Expression, Leaf, Stabilized
from rwloss.maps.loss_term import LossTerm, reduced
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap


# Distances are no work for a graph: a compiled loss comes back to Python for them.
@eager
@torch.no_grad()
def made_maps(batch: LossBatch, expressions: Sequence[Expression]) -> list[RWMap]:
    """Maps of static expressions, made from the labels of the batch; tensors in its dtype."""
    ignore_label = None if batch.counts is None else IGNORED
    regions = Regions.of_checked(
        batch.labels, batch.output.shape[1], batch.spacings_mm, ignore_label
    )
    # The regions compute their geometry once for all.
    return [_in_dtype(expression.make(regions, None), batch) for expression in expressions]


def mean_cost(
    batch: LossBatch,
    rwmap: RWMap,
    q: float | None,
    *,
    excess: bool = False,
    low_memory: bool = False,
) -> Tensor:
    """Mean cost of a map over voxels that count; with `excess`, above the least it can be. ()."""
    plain = excess or not batch.include_background or batch.normalized
    # A compiler makes the same of plain operations, and knows nothing of ours.
    if not plain and not torch.compiler.is_compiling():
        return _fused_mean(batch, rwmap, q, low_memory=low_memory)
    if batch.include_background:
        costs = _voxel_costs(batch, rwmap, q)
    else:
        costs = class_costs(batch, rwmap, q)[:, 1:].sum(dim=1)
    if excess:
        least = _least_costs(batch, rwmap, q)
        costs = (costs - least).clamp_min(0.0)  # below 0 by rounding alone
    return batch.mean(costs)


def dynamic_cost(
    batch: LossBatch, leaf: Leaf, *, excess: bool = False, by_class: bool = False
) -> Tensor:
    """Weighted loss of a dynamic term; with `excess`, above its minimum. (), or (b c) by class."""
    term = leaf.term
    if excess and leaf.weight < 0:
        raise RWLossError(f"excess: {term} has a weight below 0, so no least value is known")
    if isinstance(term, LossTerm):
        prediction = batch.prediction
        cost = term.by_image_and_class(prediction) if by_class else term.value(prediction)
        if excess:
            cost = (cost - term.minimum).clamp_min(0.0)
    else:
        cost = _projected_cost(batch, term, excess=excess, by_class=by_class)
    return cost if leaf.weight == 1.0 else leaf.weight * cost


def dynamic_mean(batch: LossBatch, leaves: Sequence[Leaf]) -> Tensor:
    """Weighted sum of dynamic terms, reduced once. ()."""
    costs = []
    for leaf in leaves:
        if isinstance(leaf.term, LossTerm):
            cost, weight = leaf.term.checked_loss(batch.prediction), leaf.weight * leaf.factor
        else:
            cost, weight = dynamic_cost(batch, leaf), leaf.factor
        costs.append(cost if weight == 1.0 else weight * cost)
    return reduced(costs)


# The projection works on arrays of any kind, which no graph can hold.
@eager
def _projected_cost(batch: LossBatch, term: Expression, *, excess: bool, by_class: bool) -> Tensor:
    """A stabilized dynamic term: the value of what is inside, the gradient of its map."""
    assert isinstance(term, Stabilized)
    # Values that are kept from here would be without gradient for the other terms: another batch.
    still = batch.detached()
    with torch.no_grad():
        cost = still.output.new_zeros(())
        for leaf in term.inner.leaves():
            if not leaf.term.is_static:
                cost = cost + dynamic_cost(still, leaf, excess=excess, by_class=by_class)
                continue
            [rwmap] = made_maps(still, [leaf.weight * leaf.term])
            if by_class:
                cost = cost + still.by_image_and_class(class_costs(still, rwmap, None))
            else:
                cost = cost + mean_cost(still, rwmap, None, excess=excess)
        regions = Regions.of_checked(
            still.counted_labels, still.output.shape[1], still.spacings_mm, IGNORED
        )
        projected = _in_dtype(term.make(regions, still.probs), batch)
    if by_class:
        push = batch.by_image_and_class(class_costs(batch, projected, None))
    else:
        push = batch.mean(_voxel_costs(batch, projected, None))
    return cost + (push - push.detach())


def class_costs(batch: LossBatch, rwmap: RWMap, q: float | None) -> Tensor:
    """Cost of each class at each voxel: p_k z_k; with a link all at the true class. -> (b k *s)."""
    probs = batch.probs
    if q is None:
        return probs * _dense(batch, rwmap)
    costs = _linked_costs(batch, rwmap, q)[:, None]
    return torch.zeros_like(probs).scatter(1, batch.classes[:, None], costs)


def _fused_mean(batch: LossBatch, rwmap: RWMap, q: float | None, *, low_memory: bool) -> Tensor:
    """The mean cost by functions that keep less for the way back. ()."""
    logits, counts, values = batch.output, batch.counts, batch.num_values
    # Voxels that don't count weigh 0; the mean divides one number, not every voxel.
    size = float(values) if isinstance(values, int) else values.clamp_min(1)
    if q is None and not rwmap.is_compact:
        scale = logits.new_ones(()) if counts is None else counts
        return dense_sum(logits, rwmap.parts[0], scale, low_memory=low_memory) / size
    if q is not None:
        weight = _link_weight(rwmap)
        weight = weight if counts is None else weight * counts
        return linked_sum(logits, batch.classes, weight, q, low_memory=low_memory) / size
    # other - (other - true) p_t is true + (other - true) (1 - p_t).
    true, other = _parts(rwmap)
    weight = other - true
    if counts is not None:
        true, weight = true * counts, weight * counts
    wrong = linked_sum(logits, batch.classes, weight, low_memory=low_memory)
    return (wrong + true.sum()) / size


def _parts(rwmap: RWMap) -> tuple[Tensor, ...]:
    return rwmap.parts


def _in_dtype(rwmap: RWMap, batch: LossBatch) -> RWMap:
    """The map in the precision of the batch: the same one if it has that already."""
    dtype = batch.output.dtype
    if all(part.dtype == dtype for part in rwmap.parts):
        return rwmap
    return replace(rwmap, parts=tuple(part.to(dtype) for part in rwmap.parts))


def _voxel_costs(batch: LossBatch, rwmap: RWMap, q: float | None) -> Tensor:
    """Cost of each voxel, summed over its classes. -> (b *s).

    Without a link Σ_k p_k z_k; compact maps need p_t alone: other - (other - true) p_t. With one,
    w (1 - p_t^q) / q.
    """
    if q is not None:
        return _linked_costs(batch, rwmap, q)
    if not rwmap.is_compact:
        return (batch.probs * _parts(rwmap)[0]).sum(dim=1)
    true, other = _parts(rwmap)
    if batch.normalized:
        true_prob = _at_true(batch.probs, batch)
    else:  # by the logarithm: a compiler makes one pass of what follows, as for cross-entropy
        true_prob = _at_true(batch.log_probs, batch).exp()
    return other - (other - true) * true_prob


def _linked_costs(batch: LossBatch, rwmap: RWMap, q: float) -> Tensor:
    """w (1 - p_t^q) / q, and -w log p_t for q = 0, in log-space. -> (b *s)."""
    weight = _link_weight(rwmap)
    log_true = _with_weight(_at_true(batch.log_probs, batch), weight)
    if q == 0:
        loss = -log_true
    else:
        # The value of expm1, exact for p near 1; the gradient of exp, exact for p near 0, where
        # that of expm1 (itself + 1) would be rounded away.
        power = torch.exp(q * log_true)
        loss = -(torch.expm1(q * log_true).detach() + power - power.detach()) / q
    return weight * loss


def _least_costs(batch: LossBatch, rwmap: RWMap, q: float | None) -> Tensor:
    """The least that each voxel can cost, whatever the probabilities. -> (b *s) or ()."""
    if q is not None:
        return batch.output.new_zeros(())
    if not batch.include_background:  # all probability at class 0 costs nothing
        return _dense(batch, rwmap)[:, 1:].amin(dim=1).clamp_max(0.0)
    first, *second = _parts(rwmap)
    return torch.minimum(first, *second) if second else first.amin(dim=1)


def _link_weight(rwmap: RWMap) -> Tensor:
    """w = other - true of a map for a link. -> (b *s).

    Raises RWLossError for a dense map, and where w is below 0.
    """
    if not rwmap.is_compact:
        raise RWLossError(
            "a link needs a compact map, with one weight per voxel: this one is dense; "
            "stabilize it and precompute it again"
        )
    true, other = _parts(rwmap)
    weight = other - true
    if not torch.compiler.is_compiling() and bool((weight < 0).any()):
        raise RWLossError(
            f"a link needs a stable map: other - true is {float(weight.min()):g} at some voxel; "
            "stabilize it first"
        )
    return weight


def _dense(batch: LossBatch, rwmap: RWMap) -> Tensor:
    """Values for every class; unlike `rwmap.dense`, a compiled graph can hold this. (b k *s)."""
    if not rwmap.is_compact:
        return _parts(rwmap)[0]
    true, other = _parts(rwmap)
    wide = other[:, None].expand_as(batch.output)
    return wide.scatter(1, batch.classes[:, None], true[:, None])


def _at_true(values: Tensor, batch: LossBatch) -> Tensor:
    """Values at the true class. (b k *s) -> (b *s)."""
    return values.gather(1, batch.classes[:, None])[:, 0]


def _with_weight(log_true: Tensor, weight: Tensor) -> Tensor:
    """Logarithms where there is a weight: 0 times an infinite one would be no number."""
    return log_true.where(weight != 0, log_true.new_zeros(()))


# --- Sums with their gradients written out


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
        log_true = _with_weight(logits.gather(1, labels[:, None])[:, 0] - log_sum, weight)
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
        log_true = _with_weight(log_probs.gather(1, labels[:, None])[:, 0], weight)
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


def _refuse_second_derivative() -> None:
    # Autograd is on in the way back only when the caller asks for a graph of it.
    if torch.is_grad_enabled():
        raise RWLossError(
            "this loss keeps too little for a second derivative (create_graph=True): make it with "
            "RegionWiseLoss(..., low_memory=True)"
        )
