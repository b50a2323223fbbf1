"""RegionWiseLoss with the arguments, shapes and reductions of MONAI's losses."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from rwloss.errors import RWLossError
from rwloss.integrations.monai.packed import Packed, refuse_if_warped, unpack
from rwloss.integrations.monai.spacing import spacing_of
from rwloss.integrations.monai.stamp import EXPRESSION, Stamp, digest, is_stamped, stamps_of
from rwloss.losses import RegionWiseLoss, as_labels
from rwloss.losses.batch import Activation, as_masks, check_logits, check_tensor, whole_labels
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
    to_onehot_y: True where the target is a label map (b 1 *s) or (b *s); else it has a channel for
    each of the input's.
    sigmoid, softmax: what to do with the input first; neither where it is probabilities already.
    With `sigmoid` each channel is a mask of its own, and masks may overlap.
    reduction: "mean" over batch, classes and voxels; "sum" adds the means of images and classes;
    "none" gives them, (b k), for static terms.
    ignore_index: a label whose voxels belong to no class: they end a region, cost nothing and do
    not count in the mean ("none" divides by all voxels). In one-hot targets its channel, or where
    it is no channel, voxels that are 0 in all; in masks a third value, or the channel.
    batch: means of the classes over the batch, for "sum" and "none".
    spacing_mm: voxel spacing for maps made on the fly; by default that of the target's affine where
    it is a MetaTensor, else 1.

    `loss(input, target)` makes the map from the target. Or the target is what `RWMapd` or
    `LoadRWMapd` made, labels and map in one (with to_onehot_y=True, or sigmoid=True for masks): for
    `SupervisedTrainer` and `DeepSupervisionLoss`, which give a loss two arguments. Or it is the
    third argument, and must be of the target's labels.

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
        activation: Activation = "sigmoid" if sigmoid else "softmax" if softmax else "none"
        self.region_wise = RegionWiseLoss(
            expression,
            activation=activation,
            # MONAI's masks have no complements that could count.
            include_background=include_background and not sigmoid,
            reduction="mean" if reduction == "sum" else reduction,  # type: ignore[arg-type]
            ignore_index=None if ignore_index is None else IGNORED,
            spacing_mm=spacing_mm,
            low_memory=low_memory,
        )
        if sigmoid:
            _check_masks_alone(expression)
        groups = expression.static_groups()
        # What a map must be of; several of them no single map can stand for, which is said later.
        self._static = groups[0].expression if len(groups) == 1 else None
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
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
            error.args = (_in_own_words(str(error)),)
            raise

    def _value(
        self,
        input: Tensor | Sequence[Tensor],
        target: Tensor,
        rwmap: RWMap | Tensor | None,
        mask: Tensor | None,
        spacing_mm: SpacingMM | None,
    ) -> Tensor:
        one = isinstance(input, Tensor)
        outputs = [_plain(input)] if isinstance(input, Tensor) else [_plain(x) for x in input]
        if not outputs:
            raise RWLossError("no output to train: the list is empty")
        logits = outputs[0]
        check_logits(logits)
        check_tensor("target", target, logits)
        if spacing_mm is None and self.region_wise.spacing_mm is None:
            spacing_mm = spacing_of(target, logits.ndim - 2)
        labels, packed = self._taken_apart(logits, target, may_be_thinned=one)
        of_map = labels
        if isinstance(rwmap, Tensor):
            packed = self._unpacked(logits, rwmap)
            if packed is None:
                raise RWLossError(
                    f"map {tuple(rwmap.shape)} has not the channels that RWMapd gives: give the "
                    "loss its result, or an RWMap"
                )
            of_map = self._known(packed.labels, logits.shape[1])
        if self._drops_first_mask(logits):
            outputs = [output[:, 1:] for output in outputs]
            labels, of_map = labels[:, 1:], of_map[:, 1:]
            packed = None if packed is None else packed.without_first_mask()
        if packed is not None:
            rwmap = packed.rwmap(of_map, 2 if self.sigmoid else logits.shape[1])
        value = self.region_wise(
            outputs[0] if one else outputs,
            labels,
            rwmap,
            mask=None if mask is None else _plain(mask),
            spacing_mm=spacing_mm,
        )
        return self._reduced(value, outputs[0])

    def _taken_apart(
        self, logits: Tensor, target: Tensor, *, may_be_thinned: bool
    ) -> tuple[Tensor, Packed | None]:
        """Labels (b 1 *s), or masks (b k *s), -1 where ignored; and the map that came with them."""
        k = logits.shape[1]
        packed = None
        if self.to_onehot_y or self.sigmoid:
            packed = self._unpacked(logits, target, may_be_thinned=may_be_thinned)
        target = _plain(target)
        if packed is not None:
            return self._known(packed.labels, k), packed
        if not self.to_onehot_y or k == 1:
            if target.shape[1:2] != (k,) or target.ndim != logits.ndim:
                raise RWLossError(
                    f"target {tuple(target.shape)} does not fit input {tuple(logits.shape)}: with "
                    "to_onehot_y=False it needs a channel for each of the input's; pass "
                    "to_onehot_y=True for a label map"
                )
            given = self._masks(target) if self.sigmoid else self._from_one_hot(logits, target)
            return given, None
        if target.ndim == logits.ndim and target.shape[1] != 1:
            raise RWLossError(
                f"target {tuple(target.shape)} does not fit to_onehot_y=True: expected a label map "
                "(b 1 *s) or (b *s), or what RWMapd made, unchanged; pass to_onehot_y=False for "
                "one-hot"
            )
        if target.ndim == logits.ndim - 1:
            target = target[:, None]
        labels = self._without_ignored(target, k)
        return self._one_hot(labels, k) if self.sigmoid else labels, None

    def _unpacked(
        self, logits: Tensor, packed: Tensor, *, may_be_thinned: bool = False
    ) -> Packed | None:
        if packed.ndim != logits.ndim:
            return None
        k = logits.shape[1]
        if not torch.compiler.is_compiling():  # no graph can read values
            if not is_stamped(_plain(packed)):
                return None
            refuse_if_warped(packed, may_be_thinned=may_be_thinned)
            self._check_made_for_this(packed, k)
        return unpack(_plain(packed), k, k if self.sigmoid else 0)

    def _check_made_for_this(self, packed: Tensor, k: int) -> None:
        """Raise RWLossError for maps (b m *s) of other classes or of another expression."""
        static = self._static
        # Weights of a data set are numbers in its store, and words here.
        wanted = None if static is None or static.needs_class_counts else str(static)
        for image, stamp in enumerate(stamps_of(_plain(packed))):
            self._check_classes(stamp, packed.shape[1], k)
            if wanted is not None and stamp.digest != digest(wanted):
                made_of = getattr(packed, "meta", {}).get(EXPRESSION)
                if isinstance(made_of, list):  # of a batch
                    made_of = made_of[image] if image < len(made_of) else None
                if made_of is None or stamp.digest != digest(made_of):
                    made_of = "another expression"
                raise RWLossError(
                    f"the map of image {image} of the batch is of {made_of}, the static part of "
                    f"the loss is {wanted}: give RWMapd, or rwloss precompute, and RWLoss the "
                    "same expression; a cache may hold maps of before, empty it"
                )

    def _check_classes(self, stamp: Stamp, channels: int, k: int) -> None:
        """Raise RWLossError unless a map has the classes or masks of an input with k channels."""
        if not self.sigmoid:
            if stamp.num_classes == 0:  # of one mask it would be 2
                raise RWLossError(
                    "the map was made with masks=True, and this loss is of classes: make it with "
                    f"num_classes={k}, or pass sigmoid=True"
                )
            if stamp.num_classes != Stamp.of(k, "").num_classes:
                raise RWLossError(
                    f"map has {stamp.num_classes} classes, input has {k}: make it with "
                    f"num_classes={k}, or precompute again with it"
                )
            return
        if stamp.num_classes == 2 and k == 1:
            return
        if stamp.num_classes != 0:
            raise RWLossError(
                f"the map was made with num_classes={stamp.num_classes}: with sigmoid=True make "
                "it with masks=True of one-hot masks"
            )
        masks = (channels - 2) // 3
        if masks != k:
            raise RWLossError(
                f"map has {masks} masks, input has {k} channels: give the network an output for "
                "each mask"
            )

    def _known(self, labels: Tensor, num_classes: int) -> Tensor:
        """Labels (b 1 *s) or masks (b k *s) of a packed map, whole, -1 where they are ignored."""
        found = self._masks(labels) if self.sigmoid else self._without_ignored(labels, num_classes)
        ignore_index = None if self.ignore_index is None else IGNORED
        # Once for target and map; whoever looks at them again has no float to check.
        return whole_labels(found, 2 if self.sigmoid else num_classes, ignore_index)

    def _without_ignored(self, labels: Tensor, num_classes: int) -> Tensor:
        """The same labels with -1 where they are ignored."""
        if self.ignore_index is None:
            return labels
        found: Tensor = checked_labels(labels, num_classes, self.ignore_index)
        return found

    def _from_one_hot(self, logits: Tensor, target: Tensor) -> Tensor:
        """Labels (b 1 *s) of one-hot targets, in which voxels without a class may be ignored."""
        index, k = self.ignore_index, logits.shape[1]
        if index is None or 0 <= index < k:
            return self._without_ignored(as_labels(logits, target)[:, None], k)
        empty = (target == 0).all(dim=1, keepdim=True)
        whole = torch.cat([target[:, :1] + empty.to(target.dtype), target[:, 1:]], dim=1)
        return as_labels(logits, whole)[:, None].where(~empty, IGNORED)

    def _masks(self, target: Tensor) -> Tensor:
        """Masks (b k *s) with -1 where they are ignored."""
        index = self.ignore_index
        if index is None:
            return target
        if 0 <= index < target.shape[1] and target.shape[1] > 1:
            whole = as_masks(target, target).to(torch.int8)
            return whole.where(target[:, index : index + 1] == 0, IGNORED)
        return self._without_ignored(target, 2)

    def _one_hot(self, labels: Tensor, num_classes: int) -> Tensor:
        """Masks (b k *s) of labels (b 1 *s), -1 where those are."""
        if self.ignore_index is None:
            labels = checked_labels(labels, num_classes)
        classes = torch.arange(num_classes, device=labels.device)
        masks = (labels == classes.reshape(-1, *[1] * (labels.ndim - 2))).to(torch.int8)
        return masks if self.ignore_index is None else masks.where(labels != IGNORED, IGNORED)

    def _drops_first_mask(self, logits: Tensor) -> bool:
        return self.sigmoid and not self.include_background and logits.shape[1] > 1

    def _reduced(self, value: Tensor, logits: Tensor) -> Tensor:
        """A mean, or costs (b k *s), in MONAI's reduction. -> () or (b k) or (k)."""
        if self.reduction == "none":
            means = value.flatten(2).mean(dim=2)
            return means.mean(dim=0) if self.batch else means
        if self.reduction == "mean":
            return value
        classes = logits.shape[1] - (0 if self.include_background or self.sigmoid else 1)
        return value * (classes * (1 if self.batch else logits.shape[0]))


def _plain(tensor: Tensor) -> Tensor:
    """Without metadata, which would be carried through every operation."""
    return tensor.as_subclass(Tensor) if type(tensor) is not Tensor else tensor


def _in_own_words(message: str) -> str:
    """What `RegionWiseLoss` says, with the arguments of `RWLoss`."""
    message = message.replace('with activation="none"', "without softmax=True or sigmoid=True")
    return re.sub(r'activation="(softmax|sigmoid)"', r"\1=True", message)


def _check_masks_alone(expression: Expression) -> None:
    """Raise RWLossError for terms that say something of a mask's outside through its complement.

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
    inside = labels[0] == 1
    regions = Regions(labels, num_classes=2)
    groups = expression.static_groups()
    total = torch.stack([group.expression(regions).dense()[0, 1] for group in groups]).sum(dim=0)
    if not (bool((total[inside] < 0).any()) and bool((total[~inside] > 0).any())):
        raise RWLossError(
            f"{expression} pushes a mask in one direction only: {way_out}; or add a term such as "
            "dice"
        )
