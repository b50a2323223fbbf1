"""One batch, checked once: probabilities, labels, and which voxels count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.activation import Activation, Probabilities, probabilities
from rwloss.losses.target import as_labels, as_masks, as_voxel_mask, whole_labels
from rwloss.maps.loss_term import Prediction
from rwloss.once import once
from rwloss.regions import IGNORED, SpacingMM, spacing_rows


@dataclass(frozen=True, eq=False)
class Batch:
    """What all terms of a loss share, at one resolution.

    labels (b *s): classes, -1 where ignored. counts (b *s): 1 where a voxel counts, else 0; None
    where all do. masks: how many overlapping masks an image has with "sigmoid", else 0; b counts
    images times masks then, and there are two classes.
    spacing_mm: as given, for the images.
    """

    probs: Probabilities
    labels: Tensor
    counts: Tensor | None
    spacing_mm: SpacingMM | None
    include_background: bool
    masks: int

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.probs.output.shape[1])

    @property
    def num_values(self) -> Tensor | int:
        """How many values the mean runs over: classes times voxels that count."""
        channels = self.num_classes - (0 if self.include_background else 1)
        return channels * (self.labels.numel() if self.counts is None else self.counts.sum())

    @once
    def spacings_mm(self) -> tuple[tuple[float, ...], ...]:
        """Millimetres for each axis, a row for each of b. Not before use: only some terms ask."""
        b, axes = self.labels.shape[0], self.labels.ndim - 1
        masks = self.masks
        rows = batch_spacings(self.spacing_mm, b // masks if masks else b, axes)
        return tuple(row for row in rows for _ in range(masks)) if masks else rows

    @once
    def counted_labels(self) -> Tensor:
        """Labels, -1 where a voxel does not count. (b *s)."""
        if self.counts is None:
            return self.labels
        return self.labels.long().where(self.counts > 0, IGNORED)

    @once
    def prediction(self) -> Prediction:
        """What dynamic terms see."""
        return Prediction.of(
            self.probs.log,
            self.counted_labels,
            self.spacings_mm,
            include_background=self.include_background,
        )

    def mean(self, costs: Tensor) -> Tensor:
        """Mean over classes and voxels that count, of costs summed over classes. (b *s) -> ().

        0 where no voxel counts.
        """
        values = self.num_values
        if self.counts is None or isinstance(values, int):
            return costs.sum() / values
        return (costs * self.counts).sum() / values.clamp_min(1)


def make_batch(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    ignore_index: int | None,
    mask: Tensor | None,
    spacing_mm: SpacingMM | None,
    include_background: bool,
) -> Batch:
    """Check logits, target, mask and spacing against each other, and bring them to one form."""
    if activation == "sigmoid":
        labels = as_masks(logits, target, ignore_index).flatten(0, 1)
    else:
        labels = as_labels(logits, target)
        _check_classes(logits, activation)
    masks = logits.shape[1] if activation == "sigmoid" else 0
    keep = None if mask is None else as_voxel_mask(logits, mask)
    if keep is not None and masks:
        keep = keep.repeat_interleave(masks, dim=0)
    probs = probabilities(logits, activation)
    labels = whole_labels(labels, probs.output.shape[1], ignore_index)
    if ignore_index is not None:
        belongs = labels != IGNORED
        keep = belongs if keep is None else keep & belongs
    counts = None if keep is None else keep.to(probs.output.dtype)
    batch = Batch(probs, labels, counts, spacing_mm, include_background, masks)
    if not torch.compiler.is_compiling():
        batch.spacings_mm  # noqa: B018 - raises where the spacing does not fit
    return batch


def batch_spacings(
    spacing_mm: SpacingMM | None, batch: int, axes: int
) -> tuple[tuple[float, ...], ...]:
    """A spacing for each image, checked by `spacing_rows`; unchecked in a compiled graph."""
    if not torch.compiler.is_compiling():
        return spacing_rows(spacing_mm, (batch, *(0,) * axes))
    spacing: Any = (1.0,) * axes if spacing_mm is None else spacing_mm
    if isinstance(spacing[0], (tuple, list)):
        return tuple(tuple(row) for row in spacing)
    return tuple(tuple(spacing) for _ in range(batch))


def _check_classes(logits: Tensor, activation: Activation) -> None:
    if logits.shape[1] >= 2:
        return
    if activation == "none":
        raise RWLossError(
            "expected probabilities of 2 classes or more, got 1: stack [1 - p, p], or give logits "
            'and activation="sigmoid"'
        )
    raise RWLossError(
        "expected logits with 2 classes or more for the softmax, got 1: softmax of one channel is "
        'always 1; give the network an output for the background too, or use activation="sigmoid"'
    )
