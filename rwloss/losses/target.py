"""What a target may look like: what cross-entropy accepts, one-hot, and overlapping masks."""

from __future__ import annotations

import torch
from torch import Tensor

from rwloss.errors import RWLossError


def as_labels(logits: Tensor, target: Tensor) -> Tensor:
    """Labels (b *s) from a target (b *s), (b 1 *s) or one-hot (b k *s) for logits (b k *s).

    Raises RWLossError that names both shapes when they do not fit, and for a (b k *s) target that
    is not one-hot.
    """
    check_logits(logits)
    batch, k, *spatial = logits.shape
    if list(target.shape) == [batch, *spatial]:
        return target
    if list(target.shape) == [batch, 1, *spatial]:
        return target[:, 0]
    if list(target.shape) == [batch, k, *spatial]:
        if target.dtype == torch.bool:
            target = target.to(torch.uint8)  # torch has no argmax of booleans
        labels = target.argmax(dim=1)
        if not torch.compiler.is_compiling():
            one_hot = torch.zeros_like(target).scatter_(1, labels[:, None], 1)
            if not torch.equal(one_hot, target):
                raise RWLossError(
                    f"target {tuple(target.shape)} has as many channels as the logits but is not "
                    "one-hot: expected a single 1 a voxel and 0 elsewhere; pass labels (b *s), or "
                    'activation="sigmoid" for masks that overlap'
                )
        return labels
    raise RWLossError(
        f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: expected labels "
        f"{(batch, *spatial)}, {(batch, 1, *spatial)}, or one-hot {(batch, k, *spatial)}"
    )


def as_masks(logits: Tensor, target: Tensor) -> Tensor:
    """Masks (b k *s) of 0 and 1, one for each channel; they may overlap.

    Raises RWLossError for another shape than the logits', or for other values.
    """
    check_logits(logits)
    if target.shape != logits.shape:
        if logits.shape[1] == 1 and list(target.shape) == [len(logits), *logits.shape[2:]]:
            target = target[:, None]
        else:
            raise RWLossError(
                f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: with "
                'activation="sigmoid" expected a mask of 0 and 1 for each channel'
            )
    if not torch.compiler.is_compiling():
        wrong = (target != 0) & (target != 1)
        if bool(wrong.any()):
            raise RWLossError(
                f"expected masks of 0 and 1, got {float(target[wrong][0]):g}: with "
                'activation="sigmoid" every channel is a mask; for class labels use "softmax"'
            )
    return target


def as_voxel_mask(logits: Tensor, mask: Tensor) -> Tensor:
    """Which voxels count, (b *s) boolean, from (b *s) or (b 1 *s)."""
    batch, _, *spatial = logits.shape
    if list(mask.shape) == [batch, 1, *spatial]:
        mask = mask[:, 0]
    if list(mask.shape) != [batch, *spatial]:
        raise RWLossError(
            f"mask {tuple(mask.shape)} does not fit logits {tuple(logits.shape)}: expected "
            f"{(batch, *spatial)} or {(batch, 1, *spatial)}"
        )
    return mask != 0


def check_logits(logits: Tensor) -> None:
    """Logits must be (b k *s) with *s 2-D or 3-D."""
    if logits.ndim not in {4, 5}:
        raise RWLossError(
            f"expected logits (b k *s) with *s 2-D or 3-D, got shape {tuple(logits.shape)}"
        )
