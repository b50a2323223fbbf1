"""Sums over voxels in one pass over the logits, by the kernels for GPUs, with their gradients.

They keep the logits, which the network has made anyway, and nothing else of their size.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import Function

from rwloss.losses.costs import only_first
from rwloss.losses.triton_kernel import gradients, sums

Overlap = tuple[Tensor, Tensor, Tensor]


class KernelInputs(NamedTuple):
    """What the kernels read besides the logits (b k *s).

    labels (b *s), -1 where ignored if `ignoring`; counts (b *s) 1 or 0. parts of a map: true and
    other (b *s), values (b k *s), or none; map_labels (b *s): its labels, where they must be
    compared. size: what the sums of a map are divided by, for each of so many groups of images.
    overlap: whether overlaps are wanted. wrong: the text of the assertion that labels are classes,
    and those of the map; None where that is known.
    """

    labels: Tensor
    counts: Tensor | None
    parts: tuple[Tensor, ...]
    map_labels: Tensor | None
    ignoring: bool
    groups: int
    size: Tensor | float
    overlap: bool
    wrong: str | None


def means_and_overlap(logits: Tensor, given: KernelInputs) -> tuple[Tensor, Overlap | None]:
    """The mean of Σ_k p_k z_k, () or (groups), 0 without a map; and Σ p y, Σ p, Σ y. (b k) each."""
    mean, *overlap = _Sums.apply(logits, given)  # type: ignore[no-untyped-call]
    return mean, tuple(overlap) if overlap else None


class _Sums(Function):
    # With `setup_context` torch would take more time to bind the arguments than the rest takes:
    # torch.func, which needs that, gets operations of torch.
    @staticmethod
    def forward(ctx: Any, logits: Tensor, given: KernelInputs) -> tuple[Tensor, ...]:
        labels, counts, parts, map_labels, ignoring, groups, size, overlap, wrong = given
        known = 1.0 if isinstance(size, Tensor) else size  # else the device knows it alone
        found = sums(logits, labels, counts, parts, map_labels, ignoring, overlap, groups, known)
        total, number = found[0].unbind()
        if wrong is not None:
            torch._assert_async(number.sum() == 0 if groups > 1 else number == 0, wrong)
        ctx.save_for_backward(logits, labels, counts, *parts)
        ctx.groups, ctx.size = groups, size
        ctx.set_materialize_grads(False)
        mean = total if groups > 1 else total[0]
        mean = mean / size if isinstance(size, Tensor) else mean
        if not overlap:
            return (mean,)
        both, predicted, true = found[1].mT.unbind()
        ctx.mark_non_differentiable(true)
        return mean, both, predicted, true

    @staticmethod
    def backward(
        ctx: Any,
        mean: Tensor | None,
        both: Tensor | None = None,
        predicted: Tensor | None = None,
        _: Tensor | None = None,
    ) -> tuple[Any, ...]:
        logits, labels, counts, *parts = ctx.saved_tensors
        size, tables = ctx.size, cast("tuple[Tensor, ...]", ())
        if mean is None:
            parts, size = [], 1.0
        elif isinstance(size, Tensor):
            mean, size = mean / size, 1.0
        if both is not None or predicted is not None:
            zeros = partial(logits.new_zeros, logits.shape[:2], dtype=torch.float32)
            tables = tuple(zeros() if each is None else each for each in (predicted, both))
        result = gradients(logits, labels, counts, parts, mean, size, tables)
        return only_first(result, logits), None
