"""Where the static maps of a batch come from: made from its labels, or stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.batch import Batch
from rwloss.losses.deep_supervision import resampled
from rwloss.losses.map_cost import MapTensors, as_tensor
from rwloss.maps.expression import Expression
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap


@torch.no_grad()
def made_maps(batch: Batch, expressions: Sequence[Expression]) -> list[MapTensors]:
    """Maps of static expressions, made from the labels of the batch."""
    output = batch.probs.output
    return _made_maps(
        expressions, batch.labels, batch.num_classes, batch.spacings_mm, output.device, output.dtype
    )


# Distance transforms run outside any graph; a compiled loss comes back to Python for them.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _made_maps(
    expressions: Sequence[Expression],
    labels: Tensor,
    num_classes: int,
    spacings_mm: tuple[tuple[float, ...], ...],
    device: torch.device,
    dtype: torch.dtype,
) -> list[MapTensors]:
    regions = Regions(labels, num_classes, spacings_mm, IGNORED)  # geometry shared by all
    return [MapTensors.of(expression(regions), device, dtype) for expression in expressions]


@torch.no_grad()
def stored_map(batch: Batch, logits: Tensor, rwmap: Any, *, resample: bool) -> MapTensors:
    """A stored map, an RWMap or dense values (b k *s), checked against the batch.

    resample: take the nearest voxels where the map has another resolution, as deep supervision
    does. Raises RWLossError where classes, shapes or labels differ.
    """
    if isinstance(rwmap, RWMap):
        return _of_rwmap(batch, rwmap, sigmoid=_is_sigmoid(batch, logits), resample=resample)
    values = as_tensor(rwmap, logits.device)
    if resample and values.ndim == logits.ndim:
        values = resampled(values, logits.shape[2:], 2)
    if values.shape != logits.shape:
        raise RWLossError(
            f"map {tuple(values.shape)} does not fit logits {tuple(logits.shape)}: expected one "
            "value for each class and voxel"
        )
    if _is_sigmoid(batch, logits):  # values of the masks themselves; their complements cost 0
        values = values.flatten(0, 1)
        values = torch.stack([torch.zeros_like(values), values], dim=1)
    return MapTensors(
        batch.labels.long().clamp_min(0),
        batch.num_classes,
        values=values.to(batch.probs.output.dtype),
    )


def _of_rwmap(batch: Batch, rwmap: RWMap, *, sigmoid: bool, resample: bool) -> MapTensors:
    if rwmap.num_classes != batch.num_classes:
        if sigmoid:
            raise RWLossError(
                f'map has {rwmap.num_classes} classes: with activation="sigmoid" each mask is a '
                "problem of two classes; make the map from labels (b·k *s) of 0 and 1"
            )
        raise RWLossError(
            f"map has {rwmap.num_classes} classes, logits have {batch.num_classes}: "
            f"pass num_classes={batch.num_classes}, or precompute again"
        )
    output = batch.probs.output
    labels = as_tensor(rwmap.labels, output.device)
    tensors = MapTensors.of(rwmap, output.device, output.dtype)
    if resample:
        labels = resampled(labels, batch.labels.shape[1:], 1)
        tensors = tensors.resampled(batch.labels.shape[1:])
    if labels.shape != batch.labels.shape:
        raise RWLossError(
            f"map is of labels {tuple(labels.shape)}, the target has {tuple(batch.labels.shape)}: "
            "crop or turn the map together with the image"
        )
    # Compared outside of graphs only: reading values would break one.
    if not torch.compiler.is_compiling() and not torch.equal(labels.long(), batch.labels.long()):
        raise RWLossError(
            "the map was made from other labels than the target: it must be cropped, flipped and "
            "turned together with the image, or made on the fly"
        )
    return tensors


def _is_sigmoid(batch: Batch, logits: Tensor) -> bool:
    """Whether each channel of the logits became an image of its own."""
    return batch.probs.output.ndim == logits.ndim and batch.probs.output.shape != logits.shape
