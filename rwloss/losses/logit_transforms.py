"""Transforms of logits before the softmax, which may use the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from rwloss.errors import RWLossError

# Logits (b k *s) and truth (b k *s), 1 at the true class and all 0 where no voxel counts -> logits.
LogitTransform: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SCNP:
    """Same-class neighbor penalization: each voxel takes the worst logits of its neighbors.

    At the true class: the lowest logit among the neighbors of that class; at every other class: the
    highest among the neighbors of other classes. So a voxel cannot improve before its neighbors do.
    Voxels that don't count are not neighbors. Only for training, because the truth is needed.

    size: of the neighborhood in voxels along each axis, odd.

    Source: Valverde et al., Towards High-Quality Image Segmentation, CVPR 2026, arXiv 2603.18671.
    """

    size: int = 3

    def __post_init__(self) -> None:
        """Refuse a neighborhood without a center."""
        if self.size < 1 or self.size % 2 == 0:
            raise RWLossError(f"SCNP: expected an odd size of 1 voxel or more, got {self.size}")

    def __call__(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Logits (b k *s), truth (b k *s) of 0 and 1 -> logits (b k *s)."""
        pool = functional.max_pool2d if logits.ndim == 4 else functional.max_pool3d
        window = self.size, 1, self.size // 2
        own = truth > 0
        other = own.any(dim=1, keepdim=True) & ~own
        lowest = -pool(-logits.masked_fill(~own, torch.inf), *window)
        highest = pool(logits.masked_fill(~other, -torch.inf), *window)
        return lowest.where(own, highest.where(other, logits))


def transformed(
    transform: LogitTransform, logits: Tensor, labels: Tensor, counts: Tensor | None
) -> Tensor:
    """Logits (b k *s) after a transform, which is told the labels (b *s) of voxels that count.

    Raises RWLossError if it returns anything but logits of that shape.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    truth = labels[:, None].long() == classes.reshape(1, -1, *[1] * (labels.ndim - 1))
    if counts is not None:
        truth = truth & (counts[:, None] > 0)
    changed = transform(logits, truth.to(logits.dtype))
    if not isinstance(changed, Tensor) or changed.shape != logits.shape:
        got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise RWLossError(
            f"{transform!r} must return logits {tuple(logits.shape)}, as it was given, got {got}"
        )
    return changed
