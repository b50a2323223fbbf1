"""What a target may look like: what cross-entropy accepts, and one-hot."""

from __future__ import annotations

import torch

from rwloss.errors import RWLossError


def as_labels(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Labels (b *s) from a target (b *s), (b 1 *s) or one-hot (b k *s) for logits (b k *s).

    Raises RWLossError that names both shapes when they do not fit, and for a (b k *s) target that
    is not one-hot.
    """
    if logits.ndim not in {4, 5}:
        raise RWLossError(
            f"expected logits (b k *s) with *s 2-D or 3-D, got shape {tuple(logits.shape)}"
        )
    batch, k, *spatial = logits.shape
    if list(target.shape) == [batch, *spatial]:
        return target
    if list(target.shape) == [batch, 1, *spatial]:
        return target[:, 0]
    if list(target.shape) == [batch, k, *spatial]:
        if target.dtype == torch.bool:
            target = target.to(torch.uint8)  # torch has no argmax of booleans
        labels = target.argmax(dim=1)
        one_hot = torch.zeros_like(target).scatter_(1, labels[:, None], 1)
        if not torch.equal(one_hot, target):
            raise RWLossError(
                f"target {tuple(target.shape)} has as many channels as the logits but is not "
                "one-hot: expected a single 1 a voxel and 0 elsewhere; pass labels (b *s) instead"
            )
        return labels
    raise RWLossError(
        f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: expected labels "
        f"{(batch, *spatial)}, {(batch, 1, *spatial)}, or one-hot {(batch, k, *spatial)}"
    )
