"""Stored maps and deep supervision: fit maps to the labels and the resolution of each output."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rwloss.arrays import as_tensor, may_read
from rwloss.errors import RWLossError
from rwloss.losses.batch import (
    LossBatch,
    LossInputs,
    batch_spacings,
    check_logits,
    check_tensor,
    of_labels,
)
from rwloss.maps.identity import check_map_of
from rwloss.regions import SpacingRows
from rwloss.rwmap import RWMap


def stored_map(
    batch: LossBatch, logits: Tensor, given: LossInputs, expression: str | None, *, resample: bool
) -> RWMap:
    """Convert a stored map, an RWMap or dense values (b k *s), to tensors that fit the batch.

    expression: what it must be a map of, if that is known. resample: take the nearest voxels where
    the map has another resolution, as deep supervision does. Raises RWLossError where expression,
    spacing, classes, shapes or labels differ.
    """
    rwmap = given.rwmap
    if isinstance(rwmap, RWMap):
        rows = batch.spacings_mm if given.spacing_is_known else None
        return _checked(batch, rwmap, expression, rows, resample=resample)
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
    return RWMap.from_dense(batch.whole, values.to(batch.dtype))


def _checked(
    batch: LossBatch,
    rwmap: RWMap,
    expression: str | None,
    rows: SpacingRows | None,
    *,
    resample: bool,
) -> RWMap:
    check_map_of(rwmap, expression)
    num_classes, size = batch.given.shape[1], batch.whole.shape[1:]
    if rwmap.num_classes != num_classes:
        raise RWLossError(
            f'map has {rwmap.num_classes} classes, with activation="sigmoid" every mask is a '
            "problem of 2: make the map from labels (b·k *s) of 0 and 1"
            if batch.masks
            else f"map has {rwmap.num_classes} classes, logits have {num_classes}: pass "
            f"num_classes={num_classes}, or precompute again"
        )
    labels = _constant(rwmap.labels, batch)
    parts = [_constant(part, batch).to(batch.dtype) for part in rwmap.parts]
    if resample and labels.ndim == batch.whole.ndim:
        labels = resampled(labels, size, 1)
        parts = [resampled(part, size, 1 if rwmap.is_compact else 2) for part in parts]
    if labels.shape != batch.whole.shape:
        raise RWLossError(
            f"map has labels {tuple(labels.shape)}, the target has {tuple(batch.whole.shape)}: "
            "crop or rotate the map together with the image"
        )
    if batch.fused and not may_read(labels):
        batch.map_labels = None if labels is batch.whole else labels
    else:
        parts[0] = of_labels(parts[0], labels, batch.labels)
    if rows is not None:  # the spacing of the map, which may have another resolution
        scale = [new / old for new, old in zip(size, rwmap.labels.shape[1:], strict=True)]
        rows = tuple(tuple(mm * s for mm, s in zip(row, scale, strict=True)) for row in rows)
        rwmap.check_spacing(rows)
    if labels is rwmap.labels and all(map(is_, parts, rwmap.parts)):
        return rwmap
    return RWMap(labels, num_classes, tuple(parts), rwmap.expression, rwmap.spacing_mm)


def _constant(values: Any, batch: LossBatch) -> Tensor:
    """NumPy values or a tensor, on the device of the batch, without gradient."""
    tensor: Tensor = as_tensor(values)
    if tensor.device != batch.given.device:
        tensor = tensor.to(batch.given.device, non_blocking=True)
    return tensor.detach() if tensor.requires_grad else tensor


# --- Several outputs: deep supervision


def halving_weights(heads: int, *, last: float | None = None) -> list[float]:
    """Weights of 1/2^i from high to low resolution, scaled to a sum of 1.

    last: replaces the weight of the last of several outputs, before scaling; nnU-Net has 0.

    >>> halving_weights(3, last=0.0)
    [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    weights = [0.5**i for i in range(heads)]
    if last is not None and heads > 1:
        weights[-1] = last
    total = sum(weights)
    return [weight / total for weight in weights]


def head_weights(given: Sequence[float] | None, heads: int) -> Sequence[float]:
    """One weight per output, from high to low resolution; by default `halving_weights`.

    Raises RWLossError for another number of weights, and where all are 0.
    """
    given = halving_weights(heads) if given is None else given
    if len(given) != heads:
        raise RWLossError(
            f"{len(given)} deep_supervision_weights for {heads} outputs: give one for each"
        )
    if not any(given):
        raise RWLossError(
            "no output to train: "
            + ("every deep-supervision weight is 0" if heads else "the list is empty")
        )
    return given


def at_head(outputs: Sequence[Tensor], given: LossInputs, head: int) -> LossInputs:
    """Target, mask, image and spacing at the resolution of one output, and its own or shared map.

    The loss resamples a map that all outputs share. The first target of a list is then resampled
    the same way: another way would give labels that the map is not of.
    """
    output = outputs[head]
    check_logits(output)
    size = output.shape[2:]
    full = given.target[0] if _is_list(given.target) and len(given.target) else given.target
    check_tensor("target", full, output)
    axes = full.ndim - len(size)
    if axes not in {1, 2}:
        raise RWLossError(
            f"target {tuple(full.shape)} does not fit logits {tuple(output.shape)}: expected "
            "(b *s), (b 1 *s) or (b k *s) at any resolution"
        )
    all_given = {
        "target": given.target,
        "map": given.rwmap,
        "mask": given.mask,
        "image": given.image,
    }
    own = {}
    for what, values in all_given.items():
        if _is_list(values) and len(values) != len(outputs):
            raise RWLossError(
                f"{len(values)} {what}s for {len(outputs)} outputs: give one, or one for each"
            )
        own[what] = values[head] if _is_list(values) else values
    target, mask = own["target"], own["mask"]
    if given.rwmap is not None and not _is_list(given.rwmap):
        target = full
    if mask is not None:
        check_tensor("mask", mask, output)
        mask = resampled(mask, size, mask.ndim - len(size))
    image = own["image"]
    if image is not None:
        check_tensor("image", image, output)
        image = resampled(image, size, 2)
    rows = batch_spacings(given.spacing_mm, output.shape[0], len(size))
    scale = [whole / part for whole, part in zip(full.shape[axes:], size, strict=True)]
    scaled = [[mm * s for mm, s in zip(row, scale, strict=True)] for row in rows]
    target = resampled(target, size, target.ndim - len(size))
    return LossInputs(target, own["map"], mask, scaled or None, given.spacing_is_known, image=image)


def resampled(values: Tensor, size: Sequence[int], first: int) -> Tensor:
    """Nearest voxels at another resolution; the spatial axes begin at `first`.

    The voxel whose center is nearest, the lower one of equals; the same voxels for labels and maps.
    """
    for axis, wanted in enumerate(size, start=first):
        have = values.shape[axis]
        if have != wanted:
            # In whole numbers: the last voxel below (2 i + 1) have / (2 wanted), exactly.
            numerator = (2 * torch.arange(wanted, device=values.device) + 1) * have
            values = values.index_select(axis, (numerator - 1) // (2 * wanted))
    return values


def _is_list(values: Any) -> bool:
    return isinstance(values, (list, tuple))
