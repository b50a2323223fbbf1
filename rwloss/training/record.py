"""The live record: what the loss does to the network at this step, for metrics.jsonl."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rwloss.losses import RegionWiseLoss
from rwloss.stability import Monitor
from rwloss.training.batches import Batch


class Recorder:
    """Figures of a step, from its logits and its gradients, before the optimizer moves.

    excess: how far the loss is above its least value for these maps. gradient_norm: L2 norm of the
    gradient by all weights, before clipping. gradient_share: for each class c, the part of
    Σ|dL/dlogit| over voxels and channels that lies at voxels whose true class is c; they add up to
    1. predicted_volume and true_volume: fraction of the counted voxels that is of each class, by
    prediction (the most probable class) and by truth. stable, violating, pushed_up, pushed_down,
    wrong_way_mass and pull: of `rwloss.stability.StabilityReport`, at these probabilities.

    Of several processes the first records, on its own part of the batch.
    """

    def __init__(self, loss: RegionWiseLoss) -> None:
        """The loss that is trained with."""
        self.loss = loss
        self.monitor = Monitor(every=1, by_distance=False)

    def figures(self, network: nn.Module, logits: Tensor, batch: Batch) -> dict[str, Any]:
        """The record of one step. logits (b k *s), whose gradient was kept."""
        head = logits.detach().float()
        self.monitor.history.clear()
        self.monitor(self.loss, head, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm)
        [stability] = self.monitor.history
        excess = self.loss.excess(head, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm)
        push = torch.zeros_like(head[:, 0]) if logits.grad is None else logits.grad.abs().sum(dim=1)
        by_class = stability["by_class"].values()
        return {
            "excess": float(excess),
            "gradient_norm": float(gradient_norm(network)),
            "gradient_share": _shares(batch.labels, head.shape[1], push),
            "predicted_volume": _shares(
                head.argmax(dim=1).where(batch.labels >= 0, -1), head.shape[1]
            ),
            "true_volume": _shares(batch.labels, head.shape[1]),
            **{name: stability[name] for name in _OF_MAP},
            "pull": [each["pull"] for each in by_class],
        }


_OF_MAP = ("stable", "violating", "pushed_up", "pushed_down", "wrong_way_mass")


def gradient_norm(network: nn.Module) -> Tensor:
    """L2 norm of the gradient by all weights. ()."""
    return nn.utils.get_total_norm(
        [weight.grad for weight in network.parameters() if weight.grad is not None]
    )


def _shares(labels: Tensor, num_classes: int, values: Tensor | None = None) -> list[float]:
    """The part of the sum of `values` (1 each by default) that falls to each class. (b *s) -> k."""
    counted = labels >= 0
    weights = None if values is None else values[counted].double()
    sums = torch.bincount(labels[counted], weights, minlength=num_classes).double()
    total = sums.sum()
    return (sums / total.where(total > 0, 1)).tolist()
