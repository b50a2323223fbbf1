"""Signs of each class in a prediction: its volume, its probability and its push."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from rwloss.stability.report import number

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
    import torch

    counted, num_classes = labels >= 0, probs.shape[1]
    own = labels[counted].long()
    rows = probs.detach().movedim(1, -1)[counted].double()  # (n k)

    def by_class(values: Tensor) -> Tensor:
        """Sums over the voxels of each class. (n) -> (k)."""
        return torch.bincount(own, values, minlength=num_classes).double()

    def at_own(values: Tensor) -> Tensor:
        """Sums of each channel over the voxels of its class. (n k) -> (k)."""
        return by_class(values.gather(1, own[:, None])[:, 0])

    def shares(values: Tensor) -> Tensor:
        total = values.sum()
        return values / total.where(total > 0, 1)

    true = by_class(torch.ones_like(rows[:, 0]))
    predicted = torch.bincount(rows.argmax(dim=1), minlength=num_classes).double()
    sums = at_own(rows)
    found = {
        "true_volume": shares(true),
        "predicted_volume": shares(predicted),
        "own_probability": sums / true,
        "other_probability": (rows.sum(dim=0) - sums) / (len(rows) - true),
    }
    if gradient is not None:
        push = gradient.detach().movedim(1, -1)[counted].double()
        down = push.clamp_min(0)
        found["gradient_share"] = shares(by_class(push.abs().sum(dim=1)))
        found["live_pull"] = at_own(-push.clamp_max(0)) / (down.sum(dim=0) - at_own(down))
    return {name: [number(value) for value in values.tolist()] for name, values in found.items()}
