"""RegionWiseLoss with the arguments, shapes and reductions of MONAI's losses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from einops import reduce
from torch import Tensor
from torch.nn.modules.loss import _Loss

from rwloss.errors import RWLossError
from rwloss.integrations.monai.map_tensor import (
    KEEP_METADATA,
    UnpackedMaps,
    is_map,
    spacing_of,
    unpack,
)
from rwloss.losses import RegionWiseLoss, as_labels
from rwloss.losses.batch import as_masks, check_logits, check_tensor, whole_labels
from rwloss.maps.dynamic.cross_entropy import CrossEntropy
from rwloss.maps.dynamic.focal import Focal
from rwloss.maps.expression import Expression
from rwloss.maps.parser import parse
from rwloss.regions import IGNORED, Regions, SpacingMM, checked_labels
from rwloss.rwmap import RWMap


class RWLoss(_Loss):
    """A region-wise loss for MONAI: its argument names, target conventions and reductions.

    expression: an expression or its text, as for `rwloss.RegionWiseLoss`.
    include_background: False drops channel 0, after the softmax.
    to_onehot_y: True for a label map (b 1 *s) or (b *s) as target; else the target has one channel
    per channel of the input.
    sigmoid, softmax: what to do with the input first; neither if it is probabilities already.
    With `sigmoid` each channel is a mask of its own, and masks may overlap.
    reduction: "mean" over batch, classes and voxels; "sum" adds the means of images and classes;
    "none" gives them, (b k).
    ignore_index: a label whose voxels belong to no class: they end a region, cost nothing and do
    not count in the mean ("none" divides by all voxels). In one-hot targets it is a channel, or
    else the voxels that are 0 in all channels; in masks a third value, or a channel.
    batch: means of the classes over the batch, for "sum" and "none".
    spacing_mm: voxel spacing for maps made on the fly; by default that of the target's affine if
    it is a MetaTensor, else 1.

    `loss(input, target)` makes the map from the target. The target can also be what `RWMapd` or
    `LoadRWMapd` made, labels and map in one, for `SupervisedTrainer` and `DeepSupervisionLoss`,
    which give a loss two arguments. Or the map is the third argument, and must be of the target's
    labels.

    Equal to MONAI's `BoundaryLoss` in value and gradient, with "boundary" and a spacing of 1.

    >>> loss = RWLoss("rectified + dice", to_onehot_y=True, softmax=True)
    >>> labels = torch.tensor([[[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]]])
    >>> loss(torch.zeros(1, 3, 2, 3), labels).ndim
    0
    """

    def __init__(
        self,
        expression: Expression | str,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        *,
        reduction: str = "mean",
        ignore_index: int | None = None,
        batch: bool = False,
        spacing_mm: SpacingMM | None = None,
        low_memory: bool = False,
    ) -> None:
        """Raises RWLossError for settings that exclude each other; the class documents them."""
        reduction = str(getattr(reduction, "value", reduction))  # MONAI's LossReduction too
        super().__init__(reduction=reduction)
        if sigmoid and softmax:
            raise RWLossError("sigmoid=True and softmax=True: choose one of them")
        expression = parse(expression) if isinstance(expression, str) else expression
        self.region_wise = RegionWiseLoss(
            expression,
            activation="sigmoid" if sigmoid else "softmax" if softmax else "none",
            # MONAI's masks have no complements that could count.
            include_background=include_background and not sigmoid,
            reduction="mean" if reduction == "sum" else reduction,  # type: ignore[arg-type]
            ignore_index=IGNORED if sigmoid and ignore_index is not None else ignore_index,
            spacing_mm=spacing_mm,
            low_memory=low_memory,
        )
        if sigmoid:
            _check_masks_alone(expression)
        # What a map must be of; weights of a dataset are words here, and numbers in its store.
        groups = expression.static_groups()
        known = len(groups) == 1 and not groups[0].expression.needs_class_counts
        self._static = str(groups[0].expression) if known else None
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid, self.softmax = sigmoid, softmax
        self.ignore_index = ignore_index
        self.batch = batch

    def set_epoch(self, epoch: int, total: int | None = None) -> None:
        """Tell schedules the epoch, 0 for the first, and how many there will be."""
        self.region_wise.set_epoch(epoch, total)

    def forward(
        self,
        input: Tensor | Sequence[Tensor],
        target: Tensor,
        rwmap: RWMap | Tensor | None = None,
        *,
        mask: Tensor | None = None,
        spacing_mm: SpacingMM | None = None,
    ) -> Tensor:
        """The loss of one batch. input (b k *s), target (b 1 *s), (b *s) or (b k *s) -> ().

        input may be a list of outputs, high to low resolution; the target is then resampled.
        rwmap: what `RWMapd` or `LoadRWMapd` made (b m *s), or an RWMap. mask (b 1 *s): 0 where a
        voxel costs nothing and does not count.

        Raises RWLossError where shapes or labels do not fit, and for a map that was resampled, or
        made for other classes or of another expression.
        """
        try:
            return self._value(input, target, rwmap, mask, spacing_mm)
        except RWLossError as error:
            message = str(error).replace('with activation="none"', "without softmax or sigmoid")
            error.args = (re.sub(r'activation="(softmax|sigmoid)"', r"\1=True", message),)
            raise

    def _value(self, input: Any, target: Tensor, rwmap: Any, mask: Any, spacing_mm: Any) -> Tensor:
        one = isinstance(input, Tensor)
        outputs = [output.as_subclass(Tensor) for output in ([input] if one else input)]
        if not outputs:
            raise RWLossError("no output to train: the list is empty")
        logits = outputs[0]
        check_logits(logits)
        check_tensor("target", target, logits)
        if spacing_mm is None and self.region_wise.spacing_mm is None:
            spacing_mm = spacing_of(target, logits.ndim - 2)
        maps, has_map = None, is_map(target)
        if has_map:
            maps = self._unpacked(target, logits.shape[1], may_be_thinned=one)
            target = maps.labels
        target = target.as_subclass(Tensor)
        labels = self._masks(target) if has_map else self._labels(logits, target)
        of_map = labels
        if isinstance(rwmap, Tensor):
            maps = self._unpacked(rwmap, logits.shape[1])
            of_map = self._masks(maps.labels)
        if self.sigmoid and not self.include_background and logits.shape[1] > 1:
            outputs = [output[:, 1:] for output in outputs]
            labels, of_map = labels[:, 1:], of_map[:, 1:]
        if maps is not None and not isinstance(rwmap, RWMap):
            classes = 2 if self.sigmoid else logits.shape[1]
            checked = whole_labels(of_map, classes, self.region_wise.ignore_index)
            rwmap = maps.rwmap(checked, classes)
        value = self.region_wise(
            outputs[0] if one else outputs,
            labels,
            rwmap,
            mask=None if mask is None else mask.as_subclass(Tensor),
            spacing_mm=spacing_mm,
        )
        return self._reduced(value, outputs[0])

    def _unpacked(self, packed: Tensor, k: int, *, may_be_thinned: bool = False) -> UnpackedMaps:
        """Maps (b m *s) with the classes or masks of the input, and of the loss's expression."""
        maps: UnpackedMaps = unpack(packed, may_be_thinned=may_be_thinned)
        for image, record in enumerate(maps.records):
            if k != record.channels(sigmoid=self.sigmoid):
                kind = f"masks=True, {k} masks" if self.sigmoid else f"num_classes={k}"
                made = f"{record.masks} masks" if record.masks else f"{record.num_classes} classes"
                raise RWLossError(
                    f"the map of image {image} of the batch has {made}, the input has {k} channels "
                    f"with {'sigmoid' if self.sigmoid else 'softmax'}: make the map with {kind}"
                )
            if self._static not in {None, record.expression}:
                raise RWLossError(
                    f"the map of image {image} of the batch is of {record.expression}, the static "
                    f"part of the loss is {self._static}: use the same expression in RWLoss and in "
                    "RWMapd or rwloss precompute; if a cache holds old maps, empty it"
                )
        return maps

    def _labels(self, logits: Tensor, target: Tensor) -> Tensor:
        """A target as `RegionWiseLoss` takes it: labels (b 1 *s), or masks (b k *s)."""
        k, index = logits.shape[1], self.ignore_index
        if not self.to_onehot_y or k == 1:
            if target.shape[1:2] != (k,) or target.ndim != logits.ndim:
                raise RWLossError(
                    f"target {tuple(target.shape)} does not fit input {tuple(logits.shape)}: with "
                    "to_onehot_y=False it needs one channel per channel of the input; pass "
                    "to_onehot_y=True for a label map"
                )
            if self.sigmoid:
                return self._masks(target)
            if index is None or 0 <= index < k:
                return target
            empty = (target == 0).all(dim=1, keepdim=True)
            whole = torch.cat([target[:, :1] + empty.to(target.dtype), target[:, 1:]], dim=1)
            labels: Tensor = as_labels(logits, whole)[:, None].where(~empty, index)
            return labels
        if target.ndim == logits.ndim and target.shape[1] != 1:
            raise RWLossError(
                f"target {tuple(target.shape)} does not fit to_onehot_y=True: expected a label map "
                "(b 1 *s) or (b *s), or what RWMapd made, with its record; pass to_onehot_y=False "
                f"for one-hot. {KEEP_METADATA}"
            )
        target = target[:, None] if target.ndim == logits.ndim - 1 else target
        if not self.sigmoid:
            return target
        labels = checked_labels(target, k, index)
        classes = torch.arange(k, device=labels.device).reshape(-1, *[1] * (labels.ndim - 2))
        return (labels == classes).to(torch.int8).masked_fill(labels == IGNORED, IGNORED)

    def _masks(self, target: Tensor) -> Tensor:
        """Masks (b k *s) with -1 where they are ignored; labels of a map as they are."""
        index = self.ignore_index
        if index is None or not self.sigmoid:
            return target
        if 0 <= index < target.shape[1] > 1:
            ignored = target[:, index : index + 1] != 0
            return as_masks(target, target).to(torch.int8).masked_fill(ignored, IGNORED)
        masks: Tensor = checked_labels(target, 2, index)
        return masks

    def _reduced(self, value: Tensor, logits: Tensor) -> Tensor:
        """A mean, or costs (b k *s), in MONAI's reduction. -> () or (b k) or (k)."""
        if self.reduction == "none":
            means = reduce(value, "b k ... -> b k", "mean") if value.ndim > 2 else value
            return means.mean(dim=0) if self.batch else means
        if self.reduction == "mean":
            return value
        classes = logits.shape[1] - (0 if self.include_background or self.sigmoid else 1)
        return value * (classes * (1 if self.batch else logits.shape[0]))


def _check_masks_alone(expression: Expression) -> None:
    """Raise RWLossError for terms that act outside a mask through its complement.

    A mask that stands alone costs p·z: z must be below 0 somewhere inside, above 0 outside.
    """
    way_out = (
        "MONAI's losses with sigmoid=True do not count what is outside of a mask; use "
        'rwloss.RegionWiseLoss(expression, activation="sigmoid"), which does'
    )
    leaves = expression.leaves()
    for leaf in leaves:
        if leaf.link is not None or isinstance(leaf.term, (CrossEntropy, Focal)):
            raise RWLossError(f"{expression}: {leaf.term} would cost nothing there: {way_out}")
    if any(not leaf.term.is_static for leaf in leaves):
        return
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    labels[:, 2:7, 2:7] = 1
    groups, regions = expression.static_groups(), Regions(labels, num_classes=2)
    total = sum(group.expression(regions).dense()[0, 1] for group in groups)
    if not ((total[labels[0] == 1] < 0).any() and (total[labels[0] == 0] > 0).any()):
        raise RWLossError(
            f"{expression} pushes a mask in one direction only: {way_out}; or add a term such as "
            "dice"
        )
