"""Where the static maps of a batch come from: made from its labels, or stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.batch import Batch
from rwloss.losses.deep_supervision import resampled
from rwloss.losses.map_cost import MapTensors, constant
from rwloss.maps.expression import Expression
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap


@torch.no_grad()
def made_maps(batch: Batch, expressions: Sequence[Expression]) -> list[MapTensors]:
    """Maps of static expressions, made from the labels of the batch."""
    ignore_label = None if batch.counts is None else IGNORED
    rwmaps = _made(
        tuple(expressions), batch.labels, batch.num_classes, batch.spacings_mm, ignore_label
    )
    output = batch.probs.output
    return [
        MapTensors.of(rwmap, output.device, output.dtype, all_count=batch.counts is None)
        for rwmap in rwmaps
    ]


# Distances are no work for a graph: a compiled loss comes back to Python for them.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _made(
    expressions: tuple[Expression, ...],
    labels: Tensor,
    num_classes: int,
    spacings_mm: tuple[tuple[float, ...], ...],
    ignore_label: int | None,
) -> list[RWMap]:
    regions = Regions(labels, num_classes, spacings_mm, ignore_label)  # geometry shared by all
    return [expression(regions) for expression in expressions]


@torch.no_grad()
def stored_map(batch: Batch, logits: Tensor, rwmap: Any, *, resample: bool) -> MapTensors:
    """A stored map, an RWMap or dense values (b k *s), checked against the batch.

    resample: take the nearest voxels where the map has another resolution, as deep supervision
    does. Raises RWLossError where classes, shapes or labels differ.
    """
    if isinstance(rwmap, RWMap):
        return _of_rwmap(batch, rwmap, resample=resample)
    if not isinstance(rwmap, (Tensor, np.ndarray)):
        raise RWLossError(
            f"expected a map as an RWMap or its values (b k *s), got {type(rwmap).__name__}: a "
            "list is for deep supervision, where the logits are one too"
        )
    values = constant(rwmap, logits.device)
    if resample and values.ndim == logits.ndim:
        values = resampled(values, logits.shape[2:], 2)
    if values.shape != logits.shape:
        raise RWLossError(
            f"map {tuple(values.shape)} does not fit logits {tuple(logits.shape)}: expected one "
            "value for each class and voxel"
        )
    if batch.masks:  # values of the masks themselves; their complements cost 0
        values = values.flatten(0, 1)
        values = torch.stack([torch.zeros_like(values), values], dim=1)
    return MapTensors(
        batch.labels.long().clamp_min(0),
        batch.num_classes,
        values=values.to(batch.probs.output.dtype),
    )


def _of_rwmap(batch: Batch, rwmap: RWMap, *, resample: bool) -> MapTensors:
    if rwmap.num_classes != batch.num_classes:
        if batch.masks:
            raise RWLossError(
                f'map has {rwmap.num_classes} classes, with activation="sigmoid" every mask is a '
                "problem of 2: make the map from labels (b·k *s) of 0 and 1"
            )
        raise RWLossError(
            f"map has {rwmap.num_classes} classes, logits have {batch.num_classes}: "
            f"pass num_classes={batch.num_classes}, or precompute again"
        )
    output = batch.probs.output
    labels = constant(rwmap.labels, output.device)
    tensors = MapTensors.of(rwmap, output.device, output.dtype, all_count=batch.counts is None)
    if resample:
        size = batch.labels.shape[1:]
        labels, tensors = resampled(labels, size, 1), _resampled(tensors, size)
    if labels.shape != batch.labels.shape:
        raise RWLossError(
            f"map is of labels {tuple(labels.shape)}, the target has {tuple(batch.labels.shape)}: "
            "crop or turn the map together with the image"
        )
    # Outside of graphs only: reading values would break one.
    if not torch.compiler.is_compiling() and not torch.equal(labels.long(), batch.labels.long()):
        raise RWLossError(
            "the map was made from other labels than the target: it must be cropped, flipped and "
            "turned together with the image, or made on the fly"
        )
    return tensors


def _resampled(rwmap: MapTensors, size: Sequence[int]) -> MapTensors:
    def at_size(part: Tensor | None, first: int) -> Tensor | None:
        return None if part is None else resampled(part, size, first)

    parts = at_size(rwmap.true, 1), at_size(rwmap.other, 1), at_size(rwmap.values, 2)
    return MapTensors(resampled(rwmap.labels, size, 1), rwmap.num_classes, *parts)
