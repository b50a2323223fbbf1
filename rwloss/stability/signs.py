"""Signs of each class in a prediction: its volume, its probability and its push."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from rwloss.arrays import read_all
from rwloss.stability.report import FloatArray, number

if TYPE_CHECKING:
    from torch import Tensor

ClassSigns: TypeAlias = dict[str, list[float | str | None]]
"""One value per class, by the name of the sign, as `number` writes them."""


def class_signs(probs: Tensor, labels: Tensor, gradient: Tensor | None = None) -> ClassSigns:
    """The signs of each class in one batch. probs (b k *s), labels (b *s).

    gradient: of the loss with respect to the logits (b k *s), at any scale. Voxels with label -1 do
    not count.

    true_volume, predicted_volume: fraction of the voxels of each class, by the truth and by the
    most probable class; 0 if no voxel counts. own_probability, other_probability: mean probability
    of the class at its own voxels, and at all others; None if there are none. With a gradient also
    gradient_share: the fraction of Σ|g| over voxels and channels that lies at voxels of the class,
    and live_pull: Σ max(0, -g_k) at the voxels of class k, divided by Σ max(0, g_k) at the others.
    That is the pull ratio at this prediction: far below 1, the step lowers the class as a whole.
    """
    return signs_of(read_all(sign_values(probs, labels, gradient)), 0)


def sign_values(
    probs: Tensor, labels: Tensor, gradient: Tensor | None = None, *, groups: int = 1
) -> dict[str, Tensor]:
    """The numbers of `class_signs`, not yet read from the device. (g k) each, float64.

    groups: of how many batches of equal size this one consists, one after another.
    """
    import torch

    counted, num_classes = (labels >= 0)[:, None], probs.shape[1]
    every = torch.arange(num_classes, device=labels.device).reshape(1, -1, *[1] * (labels.ndim - 1))
    own = labels[:, None] == every  # (b k *s)
    other = counted & ~own

    def total(values: Tensor) -> Tensor:
        """Sums over the voxels of each group. (b k *s) -> (g k), float64."""
        of_images = values.flatten(2).sum(dim=2, dtype=torch.float64)
        return of_images.reshape(groups, -1, num_classes).sum(dim=1)

    def sums(values: Tensor, where: Tensor) -> Tensor:
        """The same over some voxels of each class."""
        return total(values.detach().where(where, 0))

    def shares(values: Tensor) -> Tensor:
        whole = values.sum(dim=1, keepdim=True)
        return values / whole.where(whole > 0, 1)

    true = total(own)
    winner = probs.max(dim=1, keepdim=True).indices  # on a CPU, argmax takes ten times as long
    found = {
        "true_volume": shares(true),
        "predicted_volume": shares(total((winner == every) & counted)),
        "own_probability": sums(probs, own) / true,
        "other_probability": sums(probs, other) / (true.sum(dim=1, keepdim=True) - true),
    }
    if gradient is not None:
        push = gradient.abs().sum(dim=1, keepdim=True, dtype=torch.float64)
        found["gradient_share"] = shares(sums(push, own))
        found["live_pull"] = sums(-gradient.clamp_max(0), own) / sums(gradient.clamp_min(0), other)
    return found


def signs_of(values: Mapping[str, FloatArray], group: int) -> ClassSigns:
    """The signs of one group, from all `sign_values`."""
    return {
        name: [number(value) for value in rows[group].tolist()] for name, rows in values.items()
    }
