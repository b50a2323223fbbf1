"""Maps that a call gives: checked against the batch, and brought to its device and resolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rwloss.arrays import as_tensor
from rwloss.errors import RWLossError
from rwloss.losses.batch import LossBatch
from rwloss.losses.supervision import resampled
from rwloss.rwmap import RWMap


@torch.no_grad()
def stored_map(batch: LossBatch, logits: Tensor, rwmap: Any, *, resample: bool) -> RWMap:
    """A stored map, an RWMap or dense values (b k *s), as tensors that fit the batch.

    resample: take the nearest voxels where the map has another resolution, as deep supervision
    does. Raises RWLossError where classes, shapes or labels differ.
    """
    if isinstance(rwmap, RWMap):
        return _checked(batch, rwmap, resample=resample)
    if not isinstance(rwmap, (Tensor, np.ndarray)):
        raise RWLossError(
            f"expected a map as an RWMap or its values (b k *s), got {type(rwmap).__name__}: a "
            "list is for deep supervision, where the logits are one too"
        )
    values = _constant(rwmap, batch)
    if resample and values.ndim == logits.ndim:
        values = resampled(values, logits.shape[2:], 2)
    if values.shape != logits.shape:
        raise RWLossError(
            f"map {tuple(values.shape)} does not fit logits {tuple(logits.shape)}: expected one "
            "value for each class and voxel"
        )
    if batch.masks:  # values of the masks themselves; their complements cost 0
        values = rearrange(values, "b m ... -> (b m) ...")
        values = torch.stack([torch.zeros_like(values), values], dim=1)
    return RWMap.from_dense(batch.labels, values.to(batch.output.dtype))


def _checked(batch: LossBatch, rwmap: RWMap, *, resample: bool) -> RWMap:
    num_classes = batch.output.shape[1]
    if rwmap.num_classes != num_classes:
        if batch.masks:
            raise RWLossError(
                f'map has {rwmap.num_classes} classes, with activation="sigmoid" every mask is a '
                "problem of 2: make the map from labels (b·k *s) of 0 and 1"
            )
        raise RWLossError(
            f"map has {rwmap.num_classes} classes, logits have {num_classes}: "
            f"pass num_classes={num_classes}, or precompute again"
        )
    labels = _constant(rwmap.labels, batch)
    parts = [_constant(part, batch).to(batch.output.dtype) for part in rwmap.parts]
    if resample:
        size = batch.labels.shape[1:]
        labels = resampled(labels, size, 1)
        parts = [resampled(part, size, 1 if rwmap.is_compact else 2) for part in parts]
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
    return RWMap(labels, num_classes, tuple(parts), rwmap.expression, rwmap.spacing_mm)


def _constant(values: Any, batch: LossBatch) -> Tensor:
    """NumPy values or a tensor, on the device of the batch, without gradient."""
    return torch.as_tensor(as_tensor(values), device=batch.output.device).detach()
