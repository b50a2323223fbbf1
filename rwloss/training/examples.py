"""What a training step eats: images, labels and maps of one size, as tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap


@dataclass(frozen=True, eq=False)
class Examples:
    """images (n c *s) float32; labels (n *s) int64, -1 where ignored; rwmap of the same labels.

    A batch of examples is Examples too. rwmap None: the loss makes the map on the fly.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rwmap: RWMap | None = None

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor) -> Examples:
        """The examples of these indices, in that order. index (b), int64."""
        rwmap = self.rwmap
        if rwmap is not None:
            parts = {
                name: part[index]
                for name in ("true", "other", "values")
                if (part := getattr(rwmap, name)) is not None
            }
            rwmap = RWMap(rwmap.labels[index], rwmap.num_classes, **parts)
        return Examples(self.images[index], self.labels[index], rwmap)


def batches(examples: Examples, batch_size: int, *, steps: int, seed: int) -> Iterator[Examples]:
    """One batch a step, every example once before any comes again.

    The order depends on the number of examples and the seed alone: trainings with other maps meet
    the same batches (a paired comparison). Raises RWLossError where there is nothing to draw from.
    """
    if len(examples) == 0 or batch_size < 1:
        raise RWLossError(f"expected examples to draw from, got {len(examples)} by {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(len(examples), generator=generator)])
        yield examples[waiting[:batch_size]]
        waiting = waiting[batch_size:]
