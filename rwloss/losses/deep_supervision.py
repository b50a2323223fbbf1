"""Deep supervision: labels and maps for outputs of lower resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.map_cost import as_tensor
from rwloss.rwmap import RWMap

T = TypeVar("T")


def head_weights(given: Sequence[float] | None, heads: int) -> list[float]:
    """A weight for each output, from high to low resolution; 1/2^i scaled to a sum of 1."""
    if given is None:
        total = sum(0.5**i for i in range(heads))
        return [0.5**i / total for i in range(heads)]
    if len(given) != heads:
        raise RWLossError(
            f"{len(given)} deep_supervision_weights for {heads} outputs: give one for each"
        )
    return [float(weight) for weight in given]


def for_head(values: T | Sequence[T], head: int, heads: int, what: str) -> T:
    """What belongs to one head: its own of a list, or the one that all heads share."""
    if not isinstance(values, (list, tuple)):
        return values  # type: ignore[return-value]
    if len(values) != heads:
        raise RWLossError(f"{len(values)} {what}s for {heads} outputs: give one, or one for each")
    return values[head]  # type: ignore[no-any-return]


def resampled(values: Tensor, size: Sequence[int], first: int) -> Tensor:
    """Nearest voxels at another resolution; the spatial axes begin at `first`.

    The voxel whose centre is nearest, the lower one of equals; the same voxels for labels and maps.
    """
    for axis, wanted in enumerate(size, start=first):
        have = values.shape[axis]
        if have != wanted:
            centres = (torch.arange(wanted, device=values.device) + 0.5) * (have / wanted)
            index = (torch.ceil(centres) - 1).long().clamp(0, have - 1)
            values = values.index_select(axis, index)
    return values


def resampled_map(
    rwmap: RWMap | Tensor, size: Sequence[int], device: torch.device
) -> RWMap | Tensor:
    """A map at another resolution, by the voxels that `resampled` takes for labels."""
    if not isinstance(rwmap, RWMap):
        return resampled(as_tensor(rwmap, device), size, 2)
    parts = {
        name: resampled(as_tensor(part, device), size, 2 if name == "values" else 1)
        for name in ("true", "other", "values")
        if (part := getattr(rwmap, name)) is not None
    }
    labels = resampled(as_tensor(rwmap.labels, device), size, 1)
    return RWMap(labels, rwmap.num_classes, **parts)
