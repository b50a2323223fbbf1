"""The cost of each term at given probabilities: fixed maps, and losses of probabilities.

The usual sums of a map over voxels are autograd functions with their gradients written out. Plain
autograd would take longer and more memory. With p = softmax(logits),

    d/dlogit_k  Σ w (1 - p_t)  =  w p_t (p_k - [k = t])
    d/dlogit_k  Σ p_j z_j      =  p_k (z_k - Σ_j p_j z_j)

(Valverde & Tohka, arXiv 2108.01405). They keep the probabilities, or with `low_memory` the logits,
which the network has made anyway. Only then are there second derivatives. Links (Zhang & Sabuncu,
arXiv 1805.07836) are plain operations that keep the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any, NoReturn, TypeAlias

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional

from rwloss.arrays import constants, eager, fails, in_graphs, plain_call
from rwloss.errors import RWLossError
from rwloss.losses.batch import LossBatch
from rwloss.maps.expression import Expression, Leaf, Stabilized
from rwloss.maps.loss_term import LossTerm, reduced
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap

# Factor, map and link.
WeightedMap: TypeAlias = tuple[float, RWMap, float | None]


# Distances are no work for a graph: a compiled loss comes back to Python for them.
@eager
@torch.no_grad()
def made_maps(batch: LossBatch, expressions: Sequence[Expression]) -> list[RWMap]:
    """Maps of static expressions, made from the labels of the batch; tensors in its dtype."""

    def make(labels: Tensor) -> list[RWMap]:
        regions = batch.regions_of(labels)  # they compute their geometry once for all
        return [_in_dtype(each.make(regions, None), batch) for each in expressions]

    return plain_call(make, batch.labels)


def mean_cost(batch: LossBatch, rwmap: RWMap, q: float | None, *, low_memory: bool) -> Tensor:
    """Mean cost of a map over classes and voxels that count. (), or one per group."""
    plain = q is not None or not batch.include_background or batch.normalized
    plain = plain or batch.fractions is not None
    plain = plain or (batch.groups > 1 and not batch.fused)
    # A compiler makes the same of plain operations, and knows nothing of our functions.
    if plain or (low_memory and rwmap.is_compact) or torch.compiler.is_compiling():
        return batch.mean(_voxel_costs(batch, rwmap, q))
    if batch.fused:
        return batch.mean_by_kernel(rwmap.parts)
    counts, values = batch.counts, batch.num_values
    # Voxels that don't count weigh 0; the mean divides one number, not every voxel.
    size = float(values) if isinstance(values, int) else values.clamp_min(1)
    logits: Tensor = batch.output
    true: Tensor = rwmap.parts[0]  # or dense values
    if not rwmap.is_compact:
        scale = logits.new_ones(()) if counts is None else counts
        return dense_sum(logits, true, scale, low_memory=low_memory) / size
    # other - (other - true) p_t is true + (other - true) (1 - p_t).
    gap = _gap(rwmap)
    if counts is not None:
        true, gap = true * counts, gap * counts
    return (linear_sum(logits, batch.classes, gap) + true.sum()) / size


def mean_excess(batch: LossBatch, rwmap: RWMap, q: float | None) -> Tensor:
    """Mean cost of a map above its minimum over all probabilities. (), or one per group."""
    costs = _voxel_costs(batch, rwmap, q)
    if q is None and not batch.include_background:  # all probability at class 0 costs nothing
        costs = costs - _dense(batch, rwmap)[:, 1:].amin(dim=1).clamp_max(0.0)
    elif batch.fractions is not None:
        costs = costs - _dense(batch, rwmap).amin(dim=1)
    elif q is None:
        first, *second = rwmap.parts
        costs = costs - (torch.minimum(first, *second) if second else first.amin(dim=1))
    return batch.mean(costs.clamp_min(0.0))  # below 0 by rounding alone


def dynamic_losses(
    batch: LossBatch, leaves: Sequence[Leaf], with_background: tuple[type[LossTerm], ...] = ()
) -> list[Tensor]:
    """Weighted losses of dynamic terms, by image and class (b c) or as one number ().

    with_background: terms that count the background too where the others leave it out.
    """
    losses = []
    for leaf in leaves:
        seen = batch.seen_by(leaf.term)
        if isinstance(leaf.term, with_background) and not batch.include_background:
            whole = leaf.term.by_image_and_class(seen.whole_prediction)
            loss = whole.mean(dim=1, keepdim=True).expand(-1, whole.shape[1] - 1)
        elif isinstance(leaf.term, LossTerm):
            loss = leaf.term.checked_loss(seen.prediction)
        else:
            loss = _projected_loss(seen, leaf.term)
        losses.append(loss if leaf.scale == 1.0 else leaf.scale * loss)
    return losses


def dynamic_excess(
    batch: LossBatch, leaf: Leaf, with_background: tuple[type[LossTerm], ...] = ()
) -> Tensor:
    """Weighted loss of a dynamic term above its minimum. (), or one per group.

    with_background: as for its loss.
    """
    term, weight = leaf.term, leaf.scale
    if term.is_static:  # inside a stabilized term
        [rwmap] = made_maps(batch, [leaf.weight * term])
        return mean_excess(batch, rwmap, None)
    if weight < 0:
        raise RWLossError(f"excess: {term} has a weight below 0, so no least value is known")
    if isinstance(term, LossTerm):
        value = reduced(dynamic_losses(batch, [Leaf(term)], with_background), batch.groups)
        above = (value - term.minimum).clamp_min(0.0)
    else:
        above = reduce(add, [dynamic_excess(batch, inside) for inside in _inside(term)])
    return weight * above


def _inside(term: Expression) -> tuple[Leaf, ...]:
    assert isinstance(term, Stabilized)
    return term.inner.leaves()


# The projection works on arrays of any kind, which no graph can hold.
@eager
def _projected_loss(batch: LossBatch, term: Expression) -> Tensor:
    """A stabilized dynamic term: the value of what is inside, the gradient of its map. (b c)."""
    # Values that are kept from here would be without gradient for the other terms: another batch.
    output = batch.output.detach()
    still = replace(
        batch, given=output, _output=output, _log_probs=None, _prediction=None, _overlap=None
    )
    with torch.no_grad():
        static = [leaf for leaf in _inside(term) if leaf.term.is_static]
        dynamic = [leaf for leaf in _inside(term) if not leaf.term.is_static]
        costs = still.output.new_zeros(())
        for rwmap in made_maps(still, [leaf.weight * leaf.term for leaf in static]):
            costs = costs + still.by_image_and_class(class_costs(still, rwmap, None))
        costs = sum(dynamic_losses(still, dynamic), costs)
        regions = Regions.of_checked(
            still.counted_labels, output.shape[1], still.spacings_mm, IGNORED, still.regions().image
        )
        made = plain_call(lambda probs: term.make(regions, probs), still.probs)
        projected = _in_dtype(made, batch)
        still.finish()
    push = batch.by_image_and_class(class_costs(batch, projected, None))
    return costs + (push - push.detach())


def class_costs(batch: LossBatch, rwmap: RWMap, q: float | None) -> Tensor:
    """Cost of each class at each voxel: p_k z_k; with a link all at the true class. -> (b k *s).

    With a link and soft labels, each class has its fraction of the cost as the true class.
    """
    if q is None:
        return batch.probs * _dense(batch, rwmap)
    if batch.fractions is not None:
        weight = _link_weight(rwmap)[:, None]
        costs = _linked(weight, batch.log_probs.masked_fill(batch.fractions == 0, 0.0), q)
        return batch.fractions * costs
    costs = _linked_costs(batch, rwmap, q)[:, None]
    return torch.zeros_like(batch.output).scatter(1, batch.classes[:, None], costs)


def unreduced(
    batch: LossBatch,
    static: Sequence[WeightedMap],
    dynamic: Sequence[Leaf] | None,
    with_background: tuple[type[LossTerm], ...],
    *,
    include_background: bool,
) -> Tensor:
    """Costs by class and voxel, or by image and class where there are dynamic terms (else None)."""
    total = torch.zeros_like(batch.output)
    for factor, rwmap, q in static:
        total = total + factor * class_costs(batch, rwmap, q)
    if dynamic is not None:
        losses = dynamic_losses(batch, dynamic, with_background)
        total = reduce(add, losses, batch.by_image_and_class(total))
    else:
        if batch.counts is not None:
            total = total * batch.counts[:, None]
        total = total if include_background else total[:, 1:]
    if not batch.masks:
        return total
    total = rearrange(total, "(b m) k ... -> b m k ...", m=batch.masks)
    return total if include_background else total[:, :, 0]


def weighted(batch: LossBatch, rwmap: RWMap, class_weights: tuple[float, ...]) -> RWMap:
    """The map times the weight of each voxel's true class."""
    num_classes = batch.given.shape[1]
    if len(class_weights) != num_classes:
        raise RWLossError(
            f"{len(class_weights)} class_weights for {num_classes} classes: give one for each"
            + (" (outside and inside a mask)" if batch.masks else "")
        )
    weights = constants(class_weights, rwmap.parts[0])[batch.classes]
    if not rwmap.is_compact:
        weights = weights[:, None]
    return RWMap(rwmap.labels, num_classes, tuple(part * weights for part in rwmap.parts))


def _voxel_costs(batch: LossBatch, rwmap: RWMap, q: float | None) -> Tensor:
    """Cost of each voxel, summed over the classes that count. -> (b *s)."""
    if not batch.include_background:
        return class_costs(batch, rwmap, q)[:, 1:].sum(dim=1)
    if q is not None and batch.fractions is None:
        return _linked_costs(batch, rwmap, q)
    if q is not None or not rwmap.is_compact:
        return class_costs(batch, rwmap, q).sum(dim=1)
    other: Tensor = rwmap.parts[1]
    # Compact maps need p_t alone.
    if batch.fractions is not None:
        return other - _gap(rwmap) * (batch.fractions * batch.probs).sum(dim=1)
    true_prob = _at_true(batch.probs, batch) if batch.normalized else _log_true(batch).exp()
    return other - _gap(rwmap) * true_prob


def _linked_costs(batch: LossBatch, rwmap: RWMap, q: float) -> Tensor:
    """w (1 - p_t^q) / q, and -w log p_t for q = 0, in log-space. -> (b *s)."""
    return _linked(_link_weight(rwmap), _log_true(batch), q)


def _linked(weight: Tensor, log_true: Tensor, q: float) -> Tensor:
    """The same from weights and logarithms, of equal shape or one that broadcasts."""
    # Where there is a weight: 0 times an infinite logarithm would be no number.
    log_true = log_true.where(weight != 0, weight.new_zeros(()))
    if q == 0:
        return weight * -log_true
    # The value of expm1, exact for p near 1; the gradient of exp, exact for p near 0, where that
    # of expm1 (itself + 1) would be rounded away.
    power = torch.exp(q * log_true)
    loss = torch.expm1(q * log_true).detach() + power - power.detach()
    return weight * (-loss / q)


def _link_weight(rwmap: RWMap) -> Tensor:
    """w = other - true. (b *s). Raises RWLossError for a dense map, or w below 0."""
    if not rwmap.is_compact:
        raise RWLossError(
            "a link needs a compact map, with one weight per voxel: this one is dense; "
            "stabilize it and precompute it again"
        )
    return positive_weight(_gap(rwmap))


@in_graphs("(Tensor weight) -> Tensor")
def positive_weight(weight: Tensor) -> Tensor:
    """The weight of a link, if it is nowhere below 0."""
    if fails(~(weight < 0), "a map under a link is not stable: other - true is below 0"):
        raise RWLossError(
            f"a link needs a stable map: other - true is {float(weight.min()):g} at some voxel; "
            "stabilize it first"
        )
    return weight


def _gap(rwmap: RWMap) -> Tensor:
    """Other - true of a compact map. (b *s)."""
    true, other = rwmap.parts
    gap: Tensor = other - true
    return gap


def _dense(batch: LossBatch, rwmap: RWMap) -> Tensor:
    """Values for every class; unlike `rwmap.dense`, a compiled graph can hold this. (b k *s)."""
    first: Tensor = rwmap.parts[0]
    if not rwmap.is_compact:
        return first
    wide: Tensor = rwmap.parts[1][:, None].expand_as(batch.output)
    if batch.fractions is not None:
        return wide - _gap(rwmap)[:, None] * batch.fractions
    return wide.scatter(1, batch.classes[:, None], first[:, None])


def _in_dtype(rwmap: RWMap, batch: LossBatch) -> RWMap:
    """The map in the precision of the batch: the same one if it has that already."""
    dtype = batch.dtype
    if all(part.dtype == dtype for part in rwmap.parts):
        return rwmap
    return replace(rwmap, parts=tuple(part.to(dtype) for part in rwmap.parts))


def _log_true(batch: LossBatch) -> Tensor:
    """Logarithm of the true class's probability. (b *s)."""
    if batch.normalized or torch.compiler.is_compiling():
        return _at_true(batch.log_probs, batch)
    # Keeps the logits, which the network has made anyway, and no array of logarithms.
    return _at_true(batch.output, batch) - batch.output.logsumexp(dim=1)


def _at_true(values: Tensor, batch: LossBatch) -> Tensor:
    """Values at the true class. (b k *s) -> (b *s)."""
    return values.gather(1, batch.classes[:, None])[:, 0]


# --- Sums with their gradients written out


def linear_sum(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Σ w (1 - p_t) over voxels. ().

    logits (b k *s) and weight (b *s) of one floating type, labels (b *s) int64 in 0..K-1.
    """
    with torch.no_grad():
        probs = functional.softmax(logits, dim=1)
        push = weight * probs.gather(1, labels[:, None])[:, 0]
        total = (weight - push).sum()
    return _known(total, logits, _by_probs_at_true, labels, probs, push)


def _by_probs_at_true(gradient: Tensor, labels: Tensor, probs: Tensor, push: Tensor) -> Tensor:
    push = push * gradient
    result = probs * push[:, None]
    return result.scatter_add_(1, labels[:, None], push.neg_()[:, None])


def dense_sum(logits: Tensor, values: Tensor, scale: Tensor, *, low_memory: bool = False) -> Tensor:
    """Σ scale Σ_k p_k z_k over voxels. ().

    logits, values (b k *s), scale (b *s) or (); all of one floating type.
    """
    with torch.no_grad():
        probs = functional.softmax(logits, dim=1)
        # Class by class: the product of probabilities and map would be one more such array.
        costs = probs[:, 0] * values[:, 0]
        for k in range(1, probs.shape[1]):
            costs.addcmul_(probs[:, k], values[:, k])
        total = (costs * scale).sum()
    if low_memory:
        return _known(total, logits, _by_logits, values, scale, logits)
    return _known(total, logits, _by_probs, values, scale, probs, costs)


def _by_probs(
    gradient: Tensor, values: Tensor, scale: Tensor, probs: Tensor, costs: Tensor
) -> Tensor:
    factor = scale * gradient
    return (values - costs[:, None]).mul_(probs).mul_(factor[:, None] if factor.ndim else factor)


def _by_logits(gradient: Tensor, values: Tensor, scale: Tensor, logits: Tensor) -> Tensor:
    probs, factor = functional.softmax(logits, dim=1), scale * gradient
    costs = (probs * values).sum(dim=1)
    return probs * (values - costs[:, None]) * (factor[:, None] if factor.ndim else factor)


def _known(total: Tensor, logits: Tensor, by: Callable[..., Tensor], *kept: Tensor) -> Tensor:
    """A sum that is known already, and its gradient by the logits as a function of what is kept."""
    value: Tensor = _KnownSum.apply(total, logits, by, *kept)  # type: ignore[no-untyped-call]
    return value


class _KnownSum(Function):
    @staticmethod
    def forward(total: Tensor, logits: Tensor, by: object, *kept: Tensor) -> Tensor:
        del logits, by, kept
        return total.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.by, *kept = inputs
        ctx.save_for_backward(output, *kept)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        total, *kept = ctx.saved_tensors
        result = ctx.by(gradient, *kept)
        # What is kept does not depend on the logits any more: only this derivative is right.
        if ctx.by is not _by_logits:
            result = only_first(result, total)
        return (None, result, None, *[None] * len(kept))


def only_first(gradient: Tensor, total: Tensor) -> Tensor:
    """The gradient of `total`, which refuses another derivative."""
    if not torch.is_grad_enabled():
        return gradient
    refusing: Tensor = _FirstDerivative.apply(gradient, total)  # type: ignore[no-untyped-call]
    return refusing


class _FirstDerivative(Function):
    """A gradient of `total` that refuses another derivative."""

    @staticmethod
    def forward(gradient: Tensor, total: Tensor) -> Tensor:
        del total  # it hangs on the logits, and so does the result
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is needed."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> NoReturn:
        raise RWLossError(
            "this loss keeps too little for a second derivative (create_graph=True): make it with "
            "RegionWiseLoss(..., low_memory=True)"
        )
