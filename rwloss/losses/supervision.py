"""Deep supervision: what belongs to each of several outputs, from high to low resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.losses.batch import batch_spacings, check_logits, check_tensor
from rwloss.regions import SpacingMM


class LossInputs(NamedTuple):
    """What a call gives besides the logits; lists where each of several outputs has its own."""

    target: Any
    rwmap: Any
    mask: Any
    spacing_mm: SpacingMM | None


def halving_weights(heads: int, *, last: float | None = None) -> list[float]:
    """Weights of 1/2^i from high to low resolution, scaled to a sum of 1.

    last: in place of the weight of the last of several outputs, before scaling; nnU-Net has 0.

    >>> halving_weights(3, last=0.0)
    [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    weights = [0.5**i for i in range(heads)]
    if last is not None and heads > 1:
        weights[-1] = last
    total = sum(weights)
    return [weight / total for weight in weights]


def head_weights(given: Sequence[float] | None, heads: int) -> list[float]:
    """One weight per output, from high to low resolution; by default `halving_weights`.

    Raises RWLossError for another number of weights, and where all are 0.
    """
    if given is None:
        given = halving_weights(heads)
    if len(given) != heads:
        raise RWLossError(
            f"{len(given)} deep_supervision_weights for {heads} outputs: give one for each"
        )
    if not any(given):
        raise RWLossError(
            "no output to train: "
            + ("every deep-supervision weight is 0" if heads else "the list is empty")
        )
    return list(given)


def at_head(outputs: Sequence[Tensor], given: LossInputs, head: int) -> LossInputs:
    """Target, mask and spacing at the resolution of one output, and its own or the shared map.

    The loss resamples a map that all outputs share. The first target of a list is then resampled
    the same way: another way would give labels that the map is not of.
    """
    heads, output = len(outputs), outputs[head]
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
    target = _own(given.target, head, heads, "target")
    if given.rwmap is not None and not _is_list(given.rwmap):
        target = full
    mask = _own(given.mask, head, heads, "mask")
    if mask is not None:
        check_tensor("mask", mask, output)
        mask = resampled(mask, size, mask.ndim - len(size))
    rows = batch_spacings(given.spacing_mm, output.shape[0], len(size))
    scale = [whole / part for whole, part in zip(full.shape[axes:], size, strict=True)]
    scaled = [[mm * s for mm, s in zip(row, scale, strict=True)] for row in rows]
    return LossInputs(
        resampled(target, size, target.ndim - len(size)),
        _own(given.rwmap, head, heads, "map"),
        mask,
        scaled or None,
    )


def resampled(values: Tensor, size: Sequence[int], first: int) -> Tensor:
    """Nearest voxels at another resolution; the spatial axes begin at `first`.

    The voxel whose centre is nearest, the lower one of equals; the same voxels for labels and maps.
    """
    for axis, wanted in enumerate(size, start=first):
        have = values.shape[axis]
        if have != wanted:
            # In whole numbers: the last voxel below (2 i + 1) have / (2 wanted), exactly.
            numerator = (2 * torch.arange(wanted, device=values.device) + 1) * have
            index = (numerator - 1) // (2 * wanted)
            values = values.index_select(axis, index)
    return values


def _own(values: Any, head: int, heads: int, what: str) -> Any:
    """What belongs to one output: its own of a list, or the one that all share."""
    if not _is_list(values):
        return values
    if len(values) != heads:
        raise RWLossError(f"{len(values)} {what}s for {heads} outputs: give one, or one for each")
    return values[head]


def _is_list(values: Any) -> bool:
    return isinstance(values, (list, tuple))
