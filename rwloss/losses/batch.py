"""One batch, checked once: probabilities, labels, and which voxels count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.activation import Activation, Probabilities, probabilities
from rwloss.losses.map_cost import MapTensors, as_tensor, voxel_costs
from rwloss.losses.target import as_labels, as_masks, as_voxel_mask
from rwloss.maps.dynamic import LossTerm, Prediction
from rwloss.maps.expression import Expression
from rwloss.regions import IGNORED, Regions, SpacingMM, checked_labels, spacing_rows
from rwloss.rwmap import RWMap


@dataclass(frozen=True, eq=False)
class Batch:
    """What all terms of a loss share, at one resolution.

    labels (b *s): classes, -1 where ignored. counts (b *s): 1 where a voxel counts, else 0; None
    where all do. With "sigmoid", b counts images times masks, and there are two classes.
    """

    probs: Probabilities
    labels: Tensor
    counts: Tensor | None
    spacings_mm: tuple[tuple[float, ...], ...]
    include_background: bool

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.probs.output.shape[1])

    @property
    def channels(self) -> int:
        """Classes that the mean runs over."""
        return self.num_classes - (0 if self.include_background else 1)

    @cached_property
    def num_counted(self) -> Tensor | int:
        """Number of voxels that count."""
        return self.labels.numel() if self.counts is None else self.counts.sum()

    @cached_property
    def counted_labels(self) -> Tensor:
        """Labels, -1 where a voxel does not count. (b *s)."""
        if self.counts is None:
            return self.labels
        return torch.where(self.counts > 0, self.labels.long(), IGNORED)

    @cached_property
    def prediction(self) -> Prediction:
        """What dynamic terms see."""
        return Prediction.of(
            self.probs.log,
            self.counted_labels,
            self.spacings_mm,
            include_background=self.include_background,
        )

    def mean(self, costs: Tensor) -> Tensor:
        """Mean over classes and voxels that count, of costs summed over classes. (b *s) -> ()."""
        if self.counts is None:
            return costs.sum() / max(self.channels * costs.numel(), 1)
        return (costs * self.counts).sum() / (self.channels * self.counts.sum()).clamp_min(1)

    def projected_value(self, term: Expression) -> Tensor:
        """A stabilized dynamic term: the value of what is inside, the gradient of its map. ()."""
        with torch.no_grad():
            regions = Regions(self.counted_labels, self.num_classes, self.spacings_mm, IGNORED)
            rwmap = MapTensors.of(term(regions, self.probs.values), self.probs.output)
            value = self.probs.output.new_zeros(())
            for leaf in term.inner.leaves():  # type: ignore[attr-defined]
                if isinstance(leaf.term, LossTerm):
                    own = leaf.term.loss(self.prediction)
                else:
                    inner = MapTensors.of(leaf.term(regions, self.probs.values), self.probs.output)
                    own = self.mean(voxel_costs(self.probs, inner, None))
                value = value + leaf.weight * own
        push = self.mean(voxel_costs(self.probs, rwmap, None))
        return value + push - push.detach()


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
        labels = as_masks(logits, target)
        channels = logits.shape[1]
    else:
        labels = as_labels(logits, target)
        channels = 1
        if logits.shape[1] < 2:
            raise RWLossError(
                "expected logits with 2 classes or more for the softmax, got 1: softmax of one "
                "channel is always 1; give the network an output for the background too, or use "
                'activation="sigmoid"'
            )
    rows = spacing_rows(spacing_mm, (len(logits), *logits.shape[2:]))
    keep = None if mask is None else as_voxel_mask(logits, mask)
    if activation == "sigmoid":
        labels = labels.flatten(0, 1).to(torch.uint8)
        rows = tuple(row for row in rows for _ in range(channels))
        keep = None if keep is None else keep.repeat_interleave(channels, dim=0)
    probs = probabilities(logits, activation)
    labels = checked_labels(
        labels, probs.output.shape[1], ignore_index, check=not torch.compiler.is_compiling()
    )
    if ignore_index is not None:
        belongs = labels != IGNORED
        keep = belongs if keep is None else keep & belongs
    counts = None if keep is None else keep.to(probs.output.dtype)
    return Batch(probs, labels, counts, rows, include_background)


def check_stored(rwmap: RWMap, batch: Batch) -> None:
    """A stored map must be of the target: maps must follow augmentation.

    Raises RWLossError where classes, shapes or labels differ.
    """
    if rwmap.num_classes != batch.num_classes:
        raise RWLossError(
            f"map has {rwmap.num_classes} classes, logits have {batch.num_classes}: "
            f"pass num_classes={batch.num_classes}, or precompute again"
        )
    if tuple(rwmap.labels.shape) != tuple(batch.labels.shape):
        raise RWLossError(
            f"map is of labels {tuple(rwmap.labels.shape)}, the target has "
            f"{tuple(batch.labels.shape)}: crop or turn the map together with the image"
        )
    if torch.compiler.is_compiling():  # a comparison of values would break the graph
        return
    labels = as_tensor(rwmap.labels, batch.labels.device)
    if not torch.equal(labels.long(), batch.labels.long()):
        raise RWLossError(
            "the map was made from other labels than the target: it must be cropped, flipped and "
            "turned together with the image, or made on the fly"
        )
