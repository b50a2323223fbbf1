"""What a target may look like: what cross-entropy accepts, one-hot, and overlapping masks."""

from __future__ import annotations

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED, checked_labels


def as_labels(logits: Tensor, target: Tensor) -> Tensor:
    """Labels (b *s) from a target (b *s), (b 1 *s) or one-hot (b k *s) for logits (b k *s).

    Raises RWLossError that names both shapes when they do not fit, and for a (b k *s) target that
    is not one-hot.
    """
    check_logits(logits)
    check_tensor("target", target, logits)
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


def as_masks(logits: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Masks (b k *s) of 0 and 1, one for each channel; they may overlap.

    ignore_index: a third value that is allowed. Raises RWLossError for another shape than the
    logits', or for other values.
    """
    check_logits(logits)
    check_tensor("target", target, logits)
    if target.shape != logits.shape:
        if logits.shape[1] == 1 and list(target.shape) == [len(logits), *logits.shape[2:]]:
            target = target[:, None]
        else:
            raise RWLossError(
                f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}: with "
                'activation="sigmoid" expected a mask of 0 and 1 for each channel'
            )
    if not torch.compiler.is_compiling():
        wrong = target[(target != 0) & (target != 1)]
        if ignore_index is not None:  # compared wide: torch wraps what a narrow type can't hold
            wrong = wrong[wrong.double() != ignore_index]
        if wrong.numel():
            raise RWLossError(
                f"expected masks of 0 and 1, got {float(wrong[0]):g}: with "
                'activation="sigmoid" every channel is a mask; for class labels use '
                'activation="softmax"'
            )
    return target


def whole_labels(labels: Tensor, num_classes: int, ignore_index: int | None) -> Tensor:
    """Labels as whole numbers of 0..num_classes-1, and -1 where ignored. (b *s).

    Raises RWLossError that names the offending value; in a compiled graph, which can't read
    values, nothing is checked.
    """
    if not torch.compiler.is_compiling():
        checked: Tensor = checked_labels(labels, num_classes, ignore_index)
        return checked
    labels = labels.long()
    return labels if ignore_index is None else labels.where(labels != ignore_index, IGNORED)


def as_voxel_mask(logits: Tensor, mask: Tensor) -> Tensor:
    """Which voxels count, (b *s) boolean, from (b *s) or (b 1 *s)."""
    check_tensor("mask", mask, logits)
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
    check_tensor("logits", logits, logits)
    if logits.ndim not in {4, 5}:
        raise RWLossError(
            f"expected logits (b k *s) with *s 2-D or 3-D, got shape {tuple(logits.shape)}"
        )


def check_tensor(what: str, given: object, logits: Tensor) -> None:
    """Raises RWLossError for what is no tensor, or not where the logits are."""
    if not isinstance(given, Tensor):
        raise RWLossError(
            f"expected {what} as a tensor, got {type(given).__name__}: a list is for deep "
            "supervision, where the logits are one too; for arrays use torch.as_tensor"
        )
    if given.device != logits.device:
        raise RWLossError(
            f"{what} is on {given.device}, logits are on {logits.device}: move it with "
            f"{what}.to(logits.device)"
        )
