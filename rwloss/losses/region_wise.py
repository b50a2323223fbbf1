"""The loss: softmax times a region-wise map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from rwloss.errors import RWLossError
from rwloss.losses.target import as_labels
from rwloss.maps.generator import MapGenerator
from rwloss.maps.parser import parse
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap

Reduction = Literal["mean", "sum", "none"]


class RegionWiseLoss(nn.Module):
    """Mean over batch, classes and voxels of softmax(logits) times the map.

    expression: a generator, or its text ("rectified", "boundary(convention='valverde')").
    spacing_mm: voxel spacing for maps made on the fly, unless the call gives one; 1 by default.
    include_background: False drops channel 0 after the softmax, and averages over K - 1. That
    makes maps with three classes or more violate the stability principle.
    reduction: "mean" is the official torch.mean(softmax * map), over (b, k, *s); "sum"; "none"
    gives (b k *s).
    ignore_label: voxels with this label count 0 in the sum (and still count in the mean's N).

    The map is a constant: no gradient flows through it, and none is needed. The value of the loss
    may be below 0; that is no error.

    Source: Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405; with `boundary`, Kervadec
    et al., MIDL 2019, arXiv 1812.07032 (eq. 5, averaged over classes too).

    >>> loss = RegionWiseLoss("rectified", spacing_mm=(1.0, 0.5))
    >>> float(loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)))
    0.0
    """

    def __init__(
        self,
        expression: MapGenerator | str,
        *,
        spacing_mm: Sequence[float] | None = None,
        include_background: bool = True,
        reduction: Reduction = "mean",
        ignore_label: int | None = None,
    ) -> None:
        """Check the parameters; the class documents them."""
        super().__init__()
        if reduction not in {"mean", "sum", "none"}:
            raise RWLossError(f"unknown reduction {reduction!r}: expected mean, sum or none")
        self.expression = parse(expression) if isinstance(expression, str) else expression
        if not isinstance(self.expression, MapGenerator):
            raise RWLossError(
                f"expected a map generator or its text, got {type(expression).__name__}: such as "
                "'rectified' or maps.Rectified()"
            )
        self.spacing_mm = spacing_mm
        self.include_background = include_background
        self.reduction = reduction
        self.ignore_label = ignore_label

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        rwmap: RWMap | torch.Tensor | None = None,
        *,
        spacing_mm: Sequence[float] | Sequence[Sequence[float]] | None = None,
    ) -> torch.Tensor:
        """Loss for one batch. logits (b k *s), target (b *s), (b 1 *s) or one-hot -> ().

        rwmap: a stored map, an RWMap or a dense tensor (b k *s); without it the map is made from
        the target, on its device. spacing_mm: a number for each axis, or such a row an image.
        """
        labels = as_labels(logits, target)
        if logits.shape[1] < 2:
            raise RWLossError(
                "expected logits with 2 classes or more for the softmax, got 1: softmax of one "
                "channel is always 1; give the network an output for the background too"
            )
        values = self._map_values(logits, labels, rwmap, spacing_mm)
        # float32 at least: sums over 512² voxels overflow float16.
        wide = torch.promote_types(logits.dtype, torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            cost = torch.softmax(logits.to(wide), dim=1) * values.to(wide)
            if not self.include_background:
                cost = cost[:, 1:]
            if self.reduction == "mean":
                return cost.mean()
            return cost.sum() if self.reduction == "sum" else cost

    @torch.no_grad()
    def _map_values(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        rwmap: RWMap | torch.Tensor | None,
        spacing_mm: Any,
    ) -> torch.Tensor:
        """Dense map values on the device of the logits. (b k *s)."""
        k = logits.shape[1]
        if rwmap is None:
            spacing = self.spacing_mm if spacing_mm is None else spacing_mm
            regions = Regions(labels, k, spacing, self.ignore_label)
            return _tensor(self.expression(regions).dense(), logits)
        if isinstance(rwmap, RWMap):
            if rwmap.num_classes != k:
                raise RWLossError(
                    f"map has {rwmap.num_classes} classes, logits have {k}: "
                    f"pass num_classes={k}, or precompute again"
                )
            _check_labels(_tensor(rwmap.labels, logits), labels, self.ignore_label)
            values = _tensor(rwmap.dense(), logits)
        else:
            values = _tensor(rwmap, logits)
        if values.shape != logits.shape:
            raise RWLossError(
                f"map {tuple(values.shape)} does not fit logits {tuple(logits.shape)}: expected "
                "one value for each class and voxel"
            )
        if self.ignore_label is not None and not isinstance(rwmap, RWMap):
            # Dense values don't say which voxels they ignore, the target does.
            ignored = _wide(labels) == self.ignore_label
            values = values.masked_fill(ignored[:, None], 0.0)
        return values.detach()

    def extra_repr(self) -> str:
        """The expression and the settings that differ from their defaults."""
        return f"{str(self.expression)!r}, reduction={self.reduction!r}"


def _tensor(values: Any, like: torch.Tensor) -> torch.Tensor:
    """NumPy values or a tensor, on the device of `like`."""
    if isinstance(values, np.ndarray):
        # torch refuses negative strides (a flipped map) and foreign byte order, and warns when it
        # wraps read-only memory (a broadcast constant).
        values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
        values = torch.from_numpy(values if values.flags.writeable else values.copy())
    return torch.as_tensor(values, device=like.device)


def _wide(labels: torch.Tensor) -> torch.Tensor:
    """Labels in a type where no comparison wraps: torch takes 300 for 44 in uint8."""
    return labels if labels.is_floating_point() else labels.long()


def _check_labels(map_labels: torch.Tensor, labels: torch.Tensor, ignore_label: int | None) -> None:
    """A stored map must belong to the target: maps must follow augmentation."""
    if map_labels.shape != labels.shape:
        raise RWLossError(
            f"map is of labels {tuple(map_labels.shape)}, the target has {tuple(labels.shape)}: "
            "crop or turn the map together with the image"
        )
    labels = _wide(labels)
    if ignore_label is not None:
        labels = torch.where(labels == ignore_label, IGNORED, labels)
    if not torch.equal(map_labels.to(labels.dtype), labels):
        raise RWLossError(
            "the map was made from other labels than the target: it must be cropped, flipped and "
            "turned together with the image, or made on the fly"
        )
