"""What a fixed map costs at given probabilities, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwloss.arrays import as_tensor
from rwloss.errors import RWLossError
from rwloss.losses.activation import Probabilities
from rwloss.rwmap import RWMap


@dataclass(frozen=True, eq=False)
class MapTensors:
    """A map as tensors on one device: compact (b *s) with labels, or dense (b k *s).

    labels (b *s) hold the class of each voxel, 0 where none counts (the map is 0 there).
    """

    labels: Tensor
    num_classes: int
    true: Tensor | None = None
    other: Tensor | None = None
    values: Tensor | None = None

    @classmethod
    def of(
        cls, rwmap: RWMap, device: torch.device, dtype: torch.dtype, *, all_count: bool = False
    ) -> MapTensors:
        """The map on this device and in this dtype; all_count: no voxel is ignored."""

        def moved(part: Any) -> Tensor | None:
            return None if part is None else constant(part, device).to(dtype)

        labels = constant(rwmap.labels, device).long()
        labels = labels if all_count else labels.clamp_min(0)
        parts = dict(zip(rwmap.part_names, map(moved, rwmap.parts), strict=True))
        return cls(labels, rwmap.num_classes, **parts)

    def times(self, factor: Tensor) -> MapTensors:
        """The map with every voxel multiplied. factor (b *s)."""
        if self.values is not None:
            return MapTensors(self.labels, self.num_classes, values=self.values * factor[:, None])
        assert self.true is not None
        assert self.other is not None
        return MapTensors(
            self.labels, self.num_classes, true=self.true * factor, other=self.other * factor
        )

    def dense(self) -> Tensor:
        """Values for every class. (b k *s)."""
        if self.values is not None:
            return self.values
        assert self.true is not None
        assert self.other is not None
        wide = self.other[:, None].expand(-1, self.num_classes, *self.labels.shape[1:])
        return wide.scatter(1, self.labels[:, None], self.true[:, None])


def voxel_costs(probs: Probabilities, rwmap: MapTensors, q: float | None) -> Tensor:
    """Cost of each voxel, summed over its classes. -> (b *s).

    Without a link Σ_k p_k z_k; compact maps need p_t alone: other - (other - true) p_t. With one,
    w (1 - p_t^q) / q.
    """
    if q is not None:
        return _linked(probs, rwmap, q)
    if rwmap.values is not None:
        return (probs.values * rwmap.values).sum(dim=1)
    assert rwmap.true is not None
    assert rwmap.other is not None
    if probs.normalized:
        true_prob = _at_true(probs.values, rwmap.labels)
    else:  # by the logarithm: a compiler makes one pass of what follows, as for cross-entropy
        true_prob = _at_true(probs.log, rwmap.labels).exp()
    return rwmap.other - (rwmap.other - rwmap.true) * true_prob


def class_costs(probs: Probabilities, rwmap: MapTensors, q: float | None) -> Tensor:
    """Cost of each class at each voxel: p_k z_k; with a link all at the true class. -> (b k *s)."""
    if q is None:
        return probs.values * rwmap.dense()
    costs = _linked(probs, rwmap, q)[:, None]
    return torch.zeros_like(probs.values).scatter(1, rwmap.labels[:, None], costs)


def least_voxel_costs(rwmap: MapTensors, q: float | None, *, drop_first: bool) -> Tensor:
    """The least that each voxel can cost, whatever the probabilities. -> (b *s).

    drop_first: where class 0 does not count, all probability there costs 0.
    """
    if q is not None:
        return rwmap.labels.new_zeros((), dtype=torch.float32)
    if drop_first:
        return rwmap.dense()[:, 1:].amin(dim=1).clamp_max(0.0)
    if rwmap.values is not None:
        return rwmap.values.amin(dim=1)
    assert rwmap.true is not None
    assert rwmap.other is not None
    return torch.minimum(rwmap.true, rwmap.other)


def constant(values: Any, device: torch.device) -> Tensor:
    """NumPy values or a tensor, on a device, without gradient: maps are constants."""
    return torch.as_tensor(as_tensor(values), device=device).detach()


def link_weight(rwmap: MapTensors) -> Tensor:
    """w = other - true of a map for a link. -> (b *s).

    Raises RWLossError for a dense map, and where w is below 0.
    """
    if rwmap.true is None or rwmap.other is None:
        raise RWLossError(
            "a link needs a compact map, with one weight a voxel: this one is dense; "
            "stabilize it and precompute it again"
        )
    weight = rwmap.other - rwmap.true
    if not torch.compiler.is_compiling() and bool((weight < 0).any()):
        raise RWLossError(
            f"a link needs a stable map: other - true is {float(weight.min()):g} at some voxel; "
            "stabilize it first"
        )
    return weight


def _linked(probs: Probabilities, rwmap: MapTensors, q: float) -> Tensor:
    """w (1 - p_t^q) / q, and -w log p_t for q = 0, in log-space. -> (b *s)."""
    weight = link_weight(rwmap)
    # Where nothing weighs a logarithm, it may be infinite, and 0 times infinity is no number.
    log_true = _at_true(probs.log, rwmap.labels).where(weight > 0, weight.new_zeros(()))
    if q == 0:
        loss = -log_true
    else:
        # The value of expm1, exact for p near 1; the gradient of exp, exact for p near 0, where
        # that of expm1 (itself + 1) would be rounded away.
        power = torch.exp(q * log_true)
        loss = -(torch.expm1(q * log_true).detach() + power - power.detach()) / q
    return weight * loss


def _at_true(values: Tensor, labels: Tensor) -> Tensor:
    """Values at the true class. (b k *s), (b *s) -> (b *s)."""
    return values.gather(1, labels[:, None])[:, 0]
