"""Batches of image, label and map, as MONAI's trainers take them: image and target."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.words import listed


@dataclass(frozen=True)
class PrepareBatchRWMap:
    """For `SupervisedTrainer(prepare_batch=...)`: the map, which holds the label, is the target.

    image (b c *s), label (b c *s), map (b m *s) -> image, map, on the trainer's device.

    image_key, label_key, map_key: of the batch. In a batch without a label nothing is compared.

    Raises RWLossError if the map is of other labels than those of the batch: a transform moved the
    label, and the map was not among its keys.
    """

    image_key: Hashable = "image"
    label_key: Hashable = "label"
    map_key: Hashable = "map"

    def __call__(
        self,
        batchdata: Mapping[Hashable, Any],
        device: Any = None,
        non_blocking: bool = False,
        **to_settings: Any,
    ) -> tuple[Tensor, Tensor]:
        """Image and map of a batch."""
        for key in (self.image_key, self.map_key):
            if key not in batchdata:
                raise RWLossError(
                    f"the batch has no {key!r}, only {listed([*map(repr, batchdata)])}: "
                    "RWMapd or LoadRWMapd makes the map"
                )
        image, rwmap = batchdata[self.image_key], batchdata[self.map_key]
        label = batchdata.get(self.label_key)
        if label is not None:
            held = rwmap.as_subclass(Tensor)[:, : label.shape[1]]
            if not torch.equal(held, label.as_subclass(Tensor).to(held)):
                raise RWLossError(
                    f"{self.map_key!r} {tuple(rwmap.shape)} is of other labels than "
                    f"{self.label_key!r} {tuple(label.shape)}: add {self.map_key!r} to the keys of "
                    "every flip, turn and crop after RWMapd, put the same RWMapd once more after "
                    "all other spatial transforms, and keep the label as it is (no one-hot)"
                )
        to = {"device": device, "non_blocking": non_blocking, **to_settings}
        return image.to(**to), rwmap.to(**to)
