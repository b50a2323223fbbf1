"""The value of each term of an expression on a batch, and how far it is above its least."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.batch import Batch
from rwloss.losses.fused import dense_sum, linked_sum
from rwloss.losses.map_cost import (
    MapTensors,
    class_costs,
    least_voxel_costs,
    link_weight,
    voxel_costs,
)
from rwloss.losses.static_maps import made_maps
from rwloss.maps.expression import Leaf, Stabilized
from rwloss.maps.loss_term import LossTerm
from rwloss.regions import IGNORED, Regions


def check_dynamic(leaf: Leaf, *, reduction: str, include_background: bool) -> None:
    """Refuse at once what no batch could make work."""
    term = leaf.term
    if reduction == "none":
        raise RWLossError(
            f'reduction "none" is for static terms: {term} is a loss of the whole image'
        )
    if not isinstance(term, (LossTerm, Stabilized)):
        raise RWLossError(f"{term} is neither static nor a maps.LossTerm: it has no value")
    if isinstance(term, Stabilized) and not include_background:
        raise RWLossError(
            f"{term} with include_background=False: a map without its channel 0 is not stable; "
            "stabilize it and keep the background, or drop .stabilized()"
        )


def static_value(
    batch: Batch,
    rwmap: MapTensors,
    link: float | None,
    *,
    excess: bool = False,
    low_memory: bool = False,
) -> Tensor:
    """Mean cost of a map over voxels that count; with `excess`, above the least it can be. ()."""
    plain = excess or not batch.include_background or batch.probs.normalized
    # A compiler makes the same of plain operations, and knows nothing of ours.
    if not plain and not torch.compiler.is_compiling():
        return _fused_value(batch, rwmap, link, low_memory=low_memory)
    if batch.include_background:
        costs = voxel_costs(batch.probs, rwmap, link)
    else:
        costs = class_costs(batch.probs, rwmap, link)[:, 1:].sum(dim=1)
    if excess:
        least = least_voxel_costs(rwmap, link, drop_first=not batch.include_background)
        costs = (costs - least).clamp_min(0.0)  # below 0 by rounding alone
    return batch.mean(costs)


def _fused_value(
    batch: Batch, rwmap: MapTensors, link: float | None, *, low_memory: bool
) -> Tensor:
    """The mean cost by functions that keep less for the way back. ()."""
    logits, counts, values = batch.probs.output, batch.counts, batch.num_values
    # Voxels that don't count weigh 0; the mean divides one number, not every voxel.
    size = float(values) if isinstance(values, int) else values.clamp_min(1)
    if link is None and rwmap.values is not None:
        scale = logits.new_ones(()) if counts is None else counts
        return dense_sum(logits, rwmap.values, scale, low_memory=low_memory) / size
    if link is not None:
        weight = link_weight(rwmap)
        weight = weight if counts is None else weight * counts
        return linked_sum(logits, rwmap.labels, weight, link, low_memory=low_memory) / size
    # other - (other - true) p_t is true + (other - true) (1 - p_t).
    assert rwmap.true is not None
    assert rwmap.other is not None
    true, weight = rwmap.true, rwmap.other - rwmap.true
    if counts is not None:
        true, weight = true * counts, weight * counts
    wrong = linked_sum(logits, rwmap.labels, weight, low_memory=low_memory)
    return (wrong + true.sum()) / size


def dynamic_value(batch: Batch, leaf: Leaf, *, excess: bool) -> Tensor:
    """Weighted value of a dynamic term; with `excess`, above its minimum. ()."""
    term = leaf.term
    if excess and leaf.weight < 0:
        raise RWLossError(f"excess: {term} has a weight below 0, so no least value is known")
    if isinstance(term, Stabilized):
        projected: Tensor = _projected_value(batch, term, excess=excess)
        return leaf.weight * projected
    assert isinstance(term, LossTerm)
    value = term.value(batch.prediction)
    if excess:
        value = (value - term.minimum).clamp_min(0.0)
    return leaf.weight * value


def unreduced(batch: Batch, weighted: list[tuple[float, MapTensors, float | None]]) -> Tensor:
    """Costs of static terms by class and voxel. (factor, map, link) each -> (b k *s)."""
    total = torch.zeros_like(batch.probs.output)
    for factor, rwmap, link in weighted:
        total = total + factor * class_costs(batch.probs, rwmap, link)
    if batch.counts is not None:
        total = total * batch.counts[:, None]
    return total if batch.include_background else total[:, 1:]


# The projection works on arrays of any kind, which no graph can hold.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _projected_value(batch: Batch, term: Stabilized, *, excess: bool) -> Tensor:
    """A stabilized dynamic term: the value of what is inside, the gradient of its map. ()."""
    # Values that are kept from here would be without gradient for the other terms: another batch.
    still = replace(batch, probs=replace(batch.probs, output=batch.probs.output.detach()))
    output = still.probs.output
    with torch.no_grad():
        value = output.new_zeros(())
        for leaf in term.inner.leaves():
            if leaf.term.is_static:
                [rwmap] = made_maps(still, [leaf.weight * leaf.term])
                value = value + static_value(still, rwmap, None, excess=excess)
            else:
                value = value + dynamic_value(still, leaf, excess=excess)
        regions = Regions(still.counted_labels, still.num_classes, still.spacings_mm, IGNORED)
        projected = term(regions, still.probs.values)
        rwmap = MapTensors.of(projected, output.device, output.dtype)
    push = batch.mean(voxel_costs(batch.probs, rwmap, None))
    return value + (push - push.detach())
