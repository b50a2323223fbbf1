"""RegionWiseLoss with the arguments, shapes and reductions of MONAI's losses."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional

from rwloss.errors import RWLossError
from rwloss.integrations.masks import masks_with_ignored
from rwloss.integrations.monai.map_tensor import (
    KEEP_METADATA,
    SEEN_SIZE,
    is_map,
    spacing_of,
    unpack,
)
from rwloss.losses import RegionWiseLoss
from rwloss.losses.batch import Activation, check_tensor, whole_labels
from rwloss.losses.soft_labels import SoftLabels
from rwloss.maps.dynamic.cross_entropy import CrossEntropy
from rwloss.maps.dynamic.focal import Focal
from rwloss.maps.dynamic.generalized_dice import GeneralizedDice
from rwloss.maps.expression import Expression
from rwloss.regions import IGNORED, Regions, SpacingMM
from rwloss.rwmap import RWMap
from rwloss.words import listed


class RWLoss(RegionWiseLoss):
    """A region-wise loss with the arguments, target conventions and reductions of MONAI's losses.

    expression: as for `rwloss.RegionWiseLoss`. include_background: False drops channel 0, after the
    softmax, but not from cross-entropy. to_onehot_y: True for a label map (b 1 *s) or (b *s) as
    target; else it has one channel per channel of the input. sigmoid, softmax: activation to apply
    to the input; masks: the input is probabilities of masks; none of them: of classes. With
    `sigmoid` and `masks` each channel is a separate mask, and masks may overlap. reduction: "mean"
    over batch, classes and voxels; "sum" adds the means of images and classes; "none" gives them,
    (b k). batch: sums and means are of the whole batch. ignore_index: a label whose voxels belong
    to no class: they end a region, have no cost and do not count in the mean ("none" divides by all
    voxels). In one-hot targets it is a channel, or else the voxels that are 0 in all channels; in
    masks a third value, or a channel. spacing_mm: by default that of the target's affine if it is a
    MetaTensor, else 1. soft_labels: True or "largest" for targets with fractions, one channel per
    channel of the input, as for `rwloss.RegionWiseLoss`. low_memory: as for
    `rwloss.RegionWiseLoss`.

    The target may also be the result of `RWMapd` or `LoadRWMapd`, labels and map in one. Or pass
    the map as the third argument; it must belong to the target's labels.

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
        masks: bool = False,
        reduction: str = "mean",
        ignore_index: int | None = None,
        batch: bool = False,
        spacing_mm: SpacingMM | None = None,
        low_memory: bool = False,
        soft_labels: SoftLabels = False,
    ) -> None:
        """Raises RWLossError for conflicting settings; the class documents them."""
        given: dict[Activation, bool] = {"sigmoid": sigmoid, "softmax": softmax, "masks": masks}
        chosen = [name for name, wanted in given.items() if wanted]
        if len(chosen) > 1:
            raise RWLossError("sigmoid=True, softmax=True and masks=True: choose one of them")
        reduction = str(getattr(reduction, "value", reduction))  # MONAI's LossReduction too
        self.apart = sigmoid or masks  # each mask alone
        super().__init__(
            expression,
            activation=chosen[0] if chosen else "none",
            # MONAI's masks have no complements that could count.
            include_background=include_background and not self.apart,
            reduction="mean" if reduction == "sum" else reduction,  # type: ignore[arg-type]
            ignore_index=IGNORED if self.apart and ignore_index is not None else ignore_index,
            spacing_mm=spacing_mm,
            low_memory=low_memory,
            batch=batch,
            soft_labels=soft_labels,
        )
        assert self.expression is not None
        if self.apart:
            _check_masks_alone(self.expression)
        # MONAI's DiceCELoss drops the background from Dice alone, and a mask's cross-entropy and
        # focal loss count its outside too. Generalized Dice has one value for all classes.
        self._with_background = (CrossEntropy, Focal) if self.apart else (CrossEntropy,)
        terms = [leaf.term for leaf in self.expression.leaves()]
        self.by_image = all(isinstance(term, GeneralizedDice) for term in terms)
        self._uses_spacing = self.expression.uses_spacing
        self.to_onehot_y, self.adds_means = to_onehot_y, reduction == "sum"
        self.first_mask = int(self.apart and not include_background)
        self.mask_index = ignore_index

    def forward(  # type: ignore[override]  # target and map are no lists
        self,
        input: Tensor | Sequence[Tensor],
        target: Tensor,
        rwmap: RWMap | Tensor | None = None,
        *,
        mask: Tensor | None = None,
        spacing_mm: SpacingMM | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """The loss of one batch. input (b k *s), target (b 1 *s), (b *s) or (b k *s) -> ().

        input may be a list of outputs, high to low resolution; the target is then resampled.
        rwmap: what `RWMapd` or `LoadRWMapd` made (b m *s), or an RWMap. mask (b 1 *s): 0 where a
        voxel costs nothing and does not count. image (b i *s): for terms that use it. Raises
        RWLossError for inputs that do not fit, and for a map that was resampled, or made for other
        classes, or with another expression or spacing.
        """
        one = isinstance(input, Tensor)
        given: Any = [input] if one else input
        outputs = [output.as_subclass(Tensor) for output in given]
        if not outputs:
            raise RWLossError("no output to train: the list is empty")
        logits, first = outputs[0], self.first_mask if outputs[0].shape[1] > 1 else 0
        try:
            check_tensor("target", target, logits)
            if self._uses_spacing and spacing_mm is None and self.spacing_mm is None:
                rows = spacing_of(target, logits.shape[2:])
                spacing_mm = rows[0] if rows and len(rows) == 1 else rows
            if is_map(target):
                labels, own_map = self._unpacked(target, logits)
                target.meta.setdefault(SEEN_SIZE, list(target.shape[2:]))  # type: ignore[attr-defined]
                rwmap = own_map if rwmap is None else rwmap
            else:
                labels = self._labels(target.as_subclass(Tensor), logits, self.to_onehot_y)
            if isinstance(rwmap, Tensor):
                _, rwmap = self._unpacked(rwmap, logits)
            value = super().forward(
                logits[:, first:] if one else [output[:, first:] for output in outputs],
                labels[:, first:],
                rwmap,
                mask=None if mask is None else mask.as_subclass(Tensor),
                spacing_mm=spacing_mm,
                image=None if image is None else image.as_subclass(Tensor),
            )
        except RWLossError as error:
            message = str(error).replace('with activation="none"', "without softmax or sigmoid")
            error.args = (re.sub(r'activation="(\w+)"', r"\1=True", message),)
            raise
        if self.reduction == "none":
            means = reduce(value, "b k ... -> b k", "mean") if value.ndim > 2 else value
            return means.mean(dim=0) if self.batch else means
        if not self.adds_means:
            return value
        counted = logits.shape[1] - max(first, int(not (self.include_background or self.apart)))
        total: Tensor = value * (1 if self.by_image else counted)
        return total if self.batch else total * len(logits)

    def _unpacked(self, packed: Tensor, logits: Tensor) -> tuple[Tensor, RWMap]:
        """Labels (b 1 *s) or masks (b k *s) of maps (b m *s), and the map that the loss needs."""
        rwmap, k = unpack(packed), logits.shape[1]
        c = len(rwmap.labels) // len(packed)
        if (c, rwmap.num_classes) != ((k, 2) if self.apart else (1, k)):
            raise RWLossError(
                f"the map has {f'{c} masks' if c > 1 else f'{rwmap.num_classes} classes'}, the "
                f"input has {k} channels with {self.activation}: make the map "
                + (f"of {k} masks, with masks=True" if self.apart else f"with num_classes={k}")
            )
        by_image, first = (len(packed), c), self.first_mask if k > 1 else 0
        labels = self._labels(rwmap.labels.unflatten(0, by_image), logits, not self.apart)
        checked = whole_labels(labels, rwmap.num_classes, self.ignore_index).flatten(0, 1)
        return labels, replace(rwmap, labels=checked).with_arrays(
            lambda array: array.unflatten(0, by_image)[:, first:].flatten(0, 1)
        )

    def _labels(self, target: Tensor, logits: Tensor, is_label_map: bool) -> Tensor:
        """A target for `RegionWiseLoss`: labels (b 1 *s), or masks (b k *s)."""
        k = logits.shape[1]
        if is_label_map and k > 1 and target.ndim == logits.ndim - 1:
            target = target[:, None]
        if target.ndim != logits.ndim or target.shape[1] != (1 if is_label_map else k):
            raise RWLossError(
                f"target {tuple(target.shape)} does not fit input {tuple(logits.shape)}: pass "
                "to_onehot_y=True for a label map (b 1 *s) or (b *s), to_onehot_y=False for one "
                f"channel per channel of the input. For a map of RWMapd: {KEEP_METADATA}"
            )
        return masks_with_ignored(target, k, self.mask_index) if self.apart else target


def _check_masks_alone(expression: Expression) -> None:
    """Raise RWLossError for static terms that pull a mask one way: alone it costs p·z."""
    square, leaves = functional.pad(torch.ones(1, 5, 5), (2, 2, 2, 2)), expression.leaves()
    regions = Regions(square, 2, image=square[:, None])
    maps = [group.term(regions) for group in expression.static_groups()]
    z = sum((rwmap.dense()[:, 1] for rwmap in maps), 0 * square)
    is_one_way = all(leaf.term.is_static for leaf in leaves) and not z.min() < 0 < z.max()
    if is_one_way or any(leaf.link is not None for leaf in leaves):
        raise RWLossError(
            f"{expression} would cost nothing on one side of a mask, because MONAI's losses with "
            "sigmoid=True count masks without their complements: use RegionWiseLoss(expression, "
            'activation="sigmoid"), which counts both'
        )


@dataclass(frozen=True)
class PrepareBatchRWMap:
    """For `SupervisedTrainer(prepare_batch=...)`: passes the map, which includes the label, as
    target.

    image (b c *s), label (b c *s), map (b m *s) -> image, map, on the trainer's device. The keys
    are those of the batch; without a label nothing is compared. Raises RWLossError if the map
    belongs to other labels because a transform moved the label, but not the map.

    image_key, label_key, map_key: keys of the batch.
    """

    image_key: Hashable = "image"
    label_key: Hashable = "label"
    map_key: Hashable = "map"

    def __call__(
        self,
        batch: Mapping[Hashable, Any],
        device: Any = None,
        non_blocking: bool = False,
        **to: Any,
    ) -> tuple[Tensor, Tensor]:
        """Image and map of a batch."""
        image, label, rwmap = map(batch.get, (self.image_key, self.label_key, self.map_key))
        if image is None or rwmap is None:
            raise RWLossError(
                f"the batch has {listed([*map(repr, batch)])}, not {self.image_key!r} and "
                f"{self.map_key!r}: RWMapd or LoadRWMapd makes the map"
            )
        held = rwmap.as_subclass(Tensor)[:, : 0 if label is None else label.shape[1]]
        if label is not None and not torch.equal(held, label.as_subclass(Tensor).to(held)):
            raise RWLossError(
                f"{self.map_key!r} {tuple(rwmap.shape)} is of other labels than {self.label_key!r} "
                f"{tuple(label.shape)}: add {self.map_key!r} to the keys of every flip, rotation "
                f"and crop after RWMapd, put the same RWMapd once more after all other spatial "
                "transforms, and keep the label as it is (no one-hot)"
            )
        to |= {"device": device, "non_blocking": non_blocking}
        return image.to(**to), rwmap.to(**to)
