"""One call of any loss of (logits, target): its map, the pull on each class, the classes' signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange, reduce

from rwloss.arrays import Array
from rwloss.losses.label_sets import LabelSets
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap
from rwloss.stability.pull import prior_pulls
from rwloss.stability.pushes import by_image
from rwloss.stability.report import FloatArray
from rwloss.stability.signs import ClassSigns, class_signs

if TYPE_CHECKING:
    from torch import Tensor

    from rwloss.losses.batch import LossBatch


@dataclass(frozen=True, eq=False)
class LossCall:
    """A loss with the arguments of one call, which can be evaluated again without affecting it.

    logits (b k *s), or a list of outputs of which the first is used. If the loss has the attributes
    ignore_index, activation and spacing_mm of `RegionWiseLoss`, they are used; assumed gives
    ignore_index and activation for a loss without them.
    """

    loss: Any
    logits: Any
    target: Any
    more: tuple[Any, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)

    def gradient(self, at: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Value of the loss, the first output, and the gradient with respect to it. (b k *s) each.

        at: another first output.
        """
        import torch

        from rwloss.losses.gradient_share import uncounted

        many = isinstance(self.logits, (list, tuple))
        with torch.inference_mode(False), torch.enable_grad(), uncounted():
            outputs = [
                # float32 at least: a gradient in float16 would underflow.
                each.detach().to(torch.promote_types(each.dtype, torch.float32)).clone()
                for each in (self.logits if many else [self.logits])
            ]
            outputs[0] = head = (outputs[0] if at is None else at).requires_grad_()
            first = outputs if many else head
            value = self.loss(first, self.target, *self.more, **self.given).sum()
            if not value.requires_grad:
                return value, head.detach(), torch.zeros_like(head)
            (gradient,) = torch.autograd.grad(
                value, head, allow_unused=True, materialize_grads=True
            )
        return value.detach(), head.detach(), gradient

    def batch(self, head: Tensor) -> LossBatch:
        """The first output with its labels, mask and spacing, as `RegionWiseLoss` sees them."""
        import torch

        from rwloss.losses.batch import LossInputs, make_batch

        activation: Any = self._setting("activation") or "softmax"
        target, spacing = _first(self.target), self.given.get("spacing_mm")
        regions = target if isinstance(target, Regions) else None
        target = target if regions is None else regions.labels
        spacing = getattr(self.loss, "spacing_mm", None) if spacing is None else spacing
        soft = bool(self._setting("soft_labels"))
        masks = activation in {"sigmoid", "masks"}
        ignore_index = self._setting("ignore_index")
        if not (soft or masks) and target.shape == head.shape:
            known = target.any(dim=1)
            target = target.float().argmax(dim=1)  # other losses may take soft targets
            if ignore_index is not None and not 0 <= ignore_index < head.shape[1]:
                target = target.where(known, ignore_index)
        if isinstance(sets := self._setting("label_sets"), LabelSets):  # no class is known there
            if regions is None:
                ignore_index = IGNORED if ignore_index is None else ignore_index
                of_sets = sets.ignored(target) == IGNORED
            else:  # as `RegionWiseLoss.prepare` numbers them: sets after the classes
                ignore_index, of_sets = IGNORED, target >= head.shape[1]
                spacing, regions = regions.spacings_mm, None
            target = target.long().masked_fill(of_sets, ignore_index)
        has_more = regions is None and target.shape[1] == head.shape[1] + 1
        if activation == "sigmoid" and has_more:
            # As in nnU-Net's regions, the last mask marks the voxels to ignore.
            target = target[:, :-1].to(torch.int8).masked_fill(target[:, -1:] != 0, IGNORED)
            ignore_index = IGNORED
        mask = _first(self.given.get("mask"))
        return make_batch(
            head,
            LossInputs(target, None, mask, spacing, spacing is not None, regions=regions),
            activation=activation,
            ignore_index=ignore_index,
            include_background=True,
            soft=soft,
        )

    def _setting(self, name: str) -> Any:
        found = getattr(self.loss, name, None)
        return self.assumed.get(name) if found is None else found

    def is_given_probabilities(self) -> bool:
        """Whether it is given the result of a softmax, and is not known to take none."""
        head = _first(self.logits).detach()
        if (self._setting("activation") or "softmax") != "softmax" or head.ndim < 2:
            return False
        # A sum of 1 in every voxel is no chance; 1 % is the rounding of bfloat16.
        return bool((head >= 0).all()) and bool(((head.sum(dim=1) - 1).abs() < 0.01).all())

    def signs(self) -> ClassSigns:
        """The signs of each class, without those of the gradient.

        For masks: one value per mask, after one for the background.
        """
        head = _first(self.logits).detach()
        batch = self.batch(head)
        if not batch.masks:
            return class_signs(batch.probs, batch.counted_labels)
        by_mask = [
            class_signs(batch.probs[j :: batch.masks], batch.counted_labels[j :: batch.masks])
            for j in range(batch.masks)
        ]
        return {name: [None, *(each[name][1] for each in by_mask)] for name in by_mask[0]}

    def pulls(self) -> tuple[FloatArray, FloatArray]:
        """Numerator and denominator of each class's pull ratio in this batch. (k) each.

        The loss is evaluated once per foreground class, at the prediction of `prior_pulls`, so only
        the labels are used. For masks, see `signs`.
        """
        import torch

        head = _first(self.logits).detach()
        seen = self.batch(head)

        def at(probs: Array) -> RWMap:
            given = torch.as_tensor(probs, device=head.device)
            output = given.log()
            if seen.masks:
                output = output[:, 1] - output[:, 0]
                output = given[:, 1] if seen.normalized else output
                output = rearrange(output, "(b m) ... -> b m ...", m=seen.masks)
            elif seen.normalized:
                output = given
            dtype = torch.promote_types(head.dtype, torch.float32)
            _, moved, gradient = self.gradient(output.to(dtype))
            return as_map(self.batch(moved), gradient)

        num_classes = seen.output.shape[1]
        found = prior_pulls(at, seen.counted_labels, num_classes)
        up, down = (
            # A mask is class 1 of its own problem; 0 is for the background.
            np.append(0.0, reduce(sums[:, 1], "(b m) -> m", "sum", m=seen.masks))
            if seen.masks
            else sums.sum(axis=0)
            for sums in found
        )
        return up, down


def as_map(batch: LossBatch, gradient: Tensor) -> RWMap:
    """The map with this gradient with respect to the head. (b k *s), or (b·k 2 *s) for masks."""
    import torch

    if batch.masks:  # each channel is two classes, [0, x] or [1 - p, p]; logits push the other too
        gradient = rearrange(gradient, "b m ... -> (b m) ...")
        other = torch.zeros_like(gradient) if batch.normalized else -gradient
        gradient = torch.stack([other, gradient], dim=1)
    probs = None if batch.normalized else batch.probs
    values = batch.num_values
    size = gradient.new_full((1,), values) if isinstance(values, int) else values[None]
    return map_of_gradient(batch.counted_labels, gradient, probs, size)


def map_of_gradient(
    labels: Tensor, gradient: Tensor, probs: Tensor | None, num_values: Tensor
) -> RWMap:
    """The map with this gradient with respect to the logits. gradient (b k *s), labels (b *s).

    probs (b k *s): None if the gradient is with respect to them, which makes it the map. num_values
    (g): how many values the mean of each group of images runs over.
    """
    if probs is not None:
        # Where a probability is 0 in float32, so is its gradient.
        gradient = gradient / probs.clamp_min(1e-30)
    scale = by_image(num_values.to(gradient.dtype).clamp_min(gradient.shape[1]), gradient)
    return RWMap.from_dense(labels, gradient * scale)


def _first(given: Any) -> Any:
    return given[0] if isinstance(given, (list, tuple)) else given
