"""The loss: probabilities times a region-wise map, plus dynamic terms."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from rwloss.arrays import to_numpy
from rwloss.errors import RWLossError
from rwloss.losses.batch import Activation, LossBatch, LossInputs, check_logits, make_batch
from rwloss.losses.costs import (
    WeightedMap,
    dynamic_excess,
    dynamic_losses,
    made_maps,
    mean_cost,
    mean_excess,
    unreduced,
    weighted,
)
from rwloss.losses.gradient_share import GradientShare
from rwloss.losses.label_sets import LabelSets
from rwloss.losses.logit_transforms import LogitTransform
from rwloss.losses.prepared import PreparedMap, prepared
from rwloss.losses.resolution import at_head, head_weights, stored_map
from rwloss.losses.soft_labels import SoftLabels, check_soft_terms
from rwloss.maps.expression import Expression, Leaf, Stabilized
from rwloss.maps.loss_term import LossTerm, reduced
from rwloss.maps.parser import parse
from rwloss.regions import IGNORED, Regions, SpacingMM
from rwloss.rwmap import RWMap
from rwloss.words import nearest

Reduction = Literal["mean", "sum", "none"]
# The map of each call, where there is no expression.
_GIVEN = Leaf(cast("Expression", None))


class RegionWiseLoss(nn.Module):
    """Region-wise loss: the mean of probabilities times a map over batch, classes and voxels.

    expression: an expression or its text, such as "rectified + dice". Static terms are maps made
    from the target, or a stored map passed in the call. Dynamic terms add their loss's own value.
    Without an expression each call must pass a map, as in the official formula.
    spacing_mm: voxel spacing in mm for maps made on the fly, one number per axis or one such row
    per image, unless passed in the call; 1 by default.
    activation: "softmax"; "sigmoid" for masks that may overlap, each channel a separate two-class
    problem (its complement is class 0, the mask class 1); "none" if the network outputs class
    probabilities, "masks" if it outputs mask probabilities.
    include_background: False drops channel 0 after the softmax, and averages over K - 1. That makes
    maps with three classes or more violate the stability principle. With "sigmoid" it drops the
    complement of each mask. Dynamic terms then use only the other channels: cross-entropy has no
    cost at background voxels.
    reduction: "mean" is the official torch.mean(softmax * map), over (b, k, *s); "sum" is that mean
    times the number of values; "none" returns unreduced values. If all terms are static, they are
    the costs (b k *s) of one output, 0 at ignored voxels. With a dynamic term they are (b k), by
    image and class, and their mean is the loss; `.mean(dim=0)` is one value per class to log. With
    "sigmoid" the two classes of a mask count as two: (b k 2 *s) or (b k 2), and (b k *s) or (b k)
    without background.
    ignore_index: voxels with this label belong to no class: they end a region, have no cost, and do
    not count in the mean.
    class_weights: one number per class (two with "sigmoid"); static maps are multiplied at each
    voxel by the weight of its true class. Dynamic terms are not.
    deep_supervision_weights: one per output when `logits` is a list, high to low resolution;
    1/2^i scaled to a sum of 1 by default. A weight of 0 skips its output.
    low_memory: keep the logits for the backward pass, not the probabilities. It takes less memory
    and more time, and second derivatives of static terms need it.
    batch: pool the sums of Dice, Tversky and the other overlap losses over the batch, like MONAI's
    `batch` and nnU-Net's `batch_dice`; by default they are per image.

    label_sets: for partial labels, the classes that a label allows: {3: (1, 2)} for a label 3 that
    means class 1 or 2. The probability at such a voxel is the sum of theirs, and its region is a
    separate one; overlaps such as dice divide both equally among the classes. For compact maps and
    most losses per voxel and of overlap, with the softmax.
    soft_labels: True if a target (b k *s) has fractions of classes that sum to 1 at each voxel, or
    of masks; zeros in all channels with `ignore_index`. Terms that need one class per voxel are
    refused, unless it is "largest": then they use the class with the largest fraction, and a
    compact map has the value other - (other - true) y_k at a class with the fraction y_k.
    logit_transform: applied to the logits (b k *s) first, such as `losses.SCNP()`; any function of
    them and of the truth (b k *s), which is 1 at the true class and 0 elsewhere, and 0 in every
    class where a voxel does not count. It is called in float32 at least.

    Maps are constants: no gradient flows through them. The loss may be negative; `excess` returns
    how far it is above its minimum.

    Source: Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405; with `boundary`, Kervadec
    et al., MIDL 2019, arXiv 1812.07032 (eq. 5, averaged over classes too).

    >>> loss = RegionWiseLoss("rectified", spacing_mm=(1.0, 0.5))
    >>> float(loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)))
    0.0
    """

    _with_background: tuple[type[LossTerm], ...] = ()  # which `include_background` leaves alone

    def __init__(
        self,
        expression: Expression | str | None = None,
        *,
        spacing_mm: SpacingMM | None = None,
        activation: Activation = "softmax",
        include_background: bool = True,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        class_weights: Sequence[float] | None = None,
        deep_supervision_weights: Sequence[float] | None = None,
        low_memory: bool = False,
        batch: bool = False,
        label_sets: Mapping[int, Sequence[int]] | None = None,
        soft_labels: SoftLabels = False,
        logit_transform: LogitTransform | None = None,
    ) -> None:
        """Check the parameters; the class documents them."""
        super().__init__()
        for name, value, choices in (
            ("reduction", reduction, get_args(Reduction)),
            ("activation", activation, get_args(Activation)),
            ("soft_labels", soft_labels, get_args(SoftLabels)),
        ):
            if value not in choices:
                known = [str(choice) for choice in choices]
                raise RWLossError(
                    f"unknown {name} {value!r}{nearest(str(value), known) or '.'} "
                    f"Expected one of {', '.join(known)}"
                )
        self.expression = parse(expression) if isinstance(expression, str) else expression
        if not isinstance(self.expression, Expression | None):
            is_class = isinstance(expression, type)
            got = f"the class {expression.__name__}" if is_class else type(expression).__name__
            raise RWLossError(
                f"expected an expression or its text, got {got}: such as 'rectified' or "
                "maps.Rectified()"
            )
        self.spacing_mm = None if spacing_mm is None else _as_tuples(to_numpy(spacing_mm).tolist())
        self.activation: Activation = activation
        self.include_background = include_background
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.class_weights = _weights("class_weights", class_weights)
        self.deep_supervision_weights = _weights(
            "deep_supervision_weights", deep_supervision_weights
        )
        self.low_memory = low_memory
        self.batch = batch
        self.label_sets = LabelSets.of(label_sets) if label_sets else None
        if self.label_sets is not None:
            if activation != "softmax" or not include_background or reduction == "none":
                raise RWLossError(
                    "label_sets are for the softmax with its background, and one number: drop "
                    "activation, include_background and reduction, or label_sets"
                )
            if self.expression is not None:
                self.label_sets.check_terms(self.expression)
        self.soft_labels = soft_labels
        if soft_labels:
            if label_sets or logit_transform or class_weights:
                raise RWLossError(
                    "label_sets, logit_transform and class_weights need one class per voxel: drop "
                    "them, or soft_labels (cross_entropy(weight=(...)) takes both)"
                )
            check_soft_terms(self.expression, soft_labels)
        self.logit_transform = logit_transform
        if logit_transform is not None and (label_sets or activation in {"none", "masks"}):
            raise RWLossError(
                "logit_transform is for logits, and one class per voxel: drop label_sets, and let "
                'the loss take the softmax or sigmoid (activation="softmax" or "sigmoid")'
            )
        self.epoch = 0
        self.total_epochs: int | None = None
        self.share: GradientShare | None = None
        self._follow_epoch()

    @property
    def uses_image(self) -> bool:
        """Whether a term uses the image, which each call must then give."""
        return self.expression is not None and self.expression.uses_image

    def set_epoch(self, epoch: int, total: int | None = None) -> None:
        """Set the epoch for schedules, 0 for the first, and the number of epochs."""
        if epoch < 0:
            raise RWLossError(f"expected an epoch of 0 or more, got {epoch}")
        self.epoch, self.total_epochs = int(epoch), None if total is None else int(total)
        self._follow_epoch()

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor] | Regions,
        rwmap: RWMap | Tensor | Sequence[RWMap | Tensor] | None = None,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        spacing_mm: SpacingMM | None = None,
        image: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Loss for one batch. logits (b k *s), target (b *s), (b 1 *s) or one-hot -> ().

        logits may be a list of outputs, high to low resolution (deep supervision); target, rwmap,
        mask and image are then resampled to the nearest voxels and the spacing is scaled, unless
        they are lists too. One map for all outputs goes with the first target of a list. The target
        may be Regions: the labels with their spacing, image and geometry, which is computed once
        for any number of calls.
        rwmap: a stored map that replaces the static terms, an RWMap or dense values (b k *s).
        mask: (b *s) or (b 1 *s) of 0 and 1, 0 where a voxel has no cost and does not count.
        Unlike ignore_index it does not end a region.
        spacing_mm: one number per axis, or one such row per image.
        image: (b c *s), the image of the target, for terms that use it.

        Raises RWLossError that says what was expected if labels, shapes or maps do not fit.
        """
        given = {"mask": mask, "spacing_mm": spacing_mm, "image": image}
        if self.share is not None and self.share.follow(self, logits, target, rwmap, **given):
            self._follow_epoch()
        return self._evaluate(logits, target, rwmap, **given, excess=False)

    @torch.no_grad()
    def excess(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor] | Regions,
        rwmap: RWMap | Tensor | Sequence[RWMap | Tensor] | None = None,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        spacing_mm: SpacingMM | None = None,
        image: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """How far the loss is above its minimum for these maps: 0 or more, for logs. ().

        Each term counts from its own minimum. Arguments as for the loss.
        """
        if self.reduction == "none":
            raise RWLossError('excess is one number: it needs reduction "mean" or "sum"')
        groups = self._static or ()
        if self.soft_labels and (self._dynamic or any(leaf.link is not None for leaf in groups)):
            raise RWLossError(
                f"{self.expression}: its minimum for soft labels is unknown; excess is for "
                "static maps then"
            )
        given = {"mask": mask, "spacing_mm": spacing_mm, "image": image}
        return self._evaluate(logits, target, rwmap, **given, excess=True)

    def prepare(
        self,
        target: Tensor,
        num_classes: int,
        spacing_mm: SpacingMM | None = None,
        image: Tensor | None = None,
    ) -> PreparedMap:
        """Start computing the map of the next batch, which a GPU does during the forward pass.

            prepared = loss.prepare(target, num_classes=4)
            logits = network(images)
            loss(logits, prepared.regions, prepared.wait())

        `prepared.regions` is the target with the geometry that dynamic terms need, such as the
        components of `blob`; without such terms the target itself does as well.

        target: labels (b *s); with "sigmoid" masks (b k *s), each a problem of num_classes=2. On
        the CPU the map is made at once. image: (b i *s), for terms that use it. Raises RWLossError
        if no single map can hold the static terms.
        """
        spacing_mm = self.spacing_mm if spacing_mm is None else spacing_mm
        masks = self.activation in {"sigmoid", "masks"}
        if self.soft_labels:
            raise RWLossError(
                "prepare returns Regions, which have one class per voxel: call the loss with the "
                "soft labels themselves"
            )
        ignore_index = self.ignore_index
        if self.label_sets is not None:
            target = self.label_sets.renumbered(target, num_classes, ignore_index)
            ignore_index = None if ignore_index is None else IGNORED
            num_classes += len(self.label_sets)
        return prepared(
            self.expression,
            target,
            num_classes,
            spacing_mm,
            ignore_index,
            masks=masks,
            image=image,
        )

    def by_group(
        self,
        logits: Tensor,
        target: Tensor,
        rwmap: RWMap | None,
        spacing_mm: Any,
        groups: int,
        image: Tensor | None = None,
        *,
        excess: bool = False,
    ) -> Tensor:
        """The loss of each of so many batches of equal size, one after another. -> (groups).

        Equal to one call per batch. Arguments as for the loss, with the images of all groups. Only
        for reduction "mean", and terms that look at each image alone, as all built-in ones do
        unless they are dynamic and stabilized.

        groups: number of batches. excess: how far each is above its minimum, as `excess`.
        """
        given = LossInputs(target, rwmap, None, spacing_mm, spacing_mm is not None, groups, image)
        return self._one_output(logits, given, excess=excess)

    def get_extra_state(self) -> Tensor:
        """Epoch and total of schedules, -1 for no total. (2). Kept only if there is a schedule.

        With "gradient_share" its calls and weight too. (4).
        """
        state = [self.epoch, -1 if self.total_epochs is None else self.total_epochs]
        if self.share is None:
            return torch.tensor(state)
        return torch.tensor([*state, *self.share.state], dtype=torch.float64)

    def set_extra_state(self, state: Tensor | dict[str, int | None]) -> None:
        """Restore the epoch of a `state_dict`.

        state: the result of `get_extra_state`.
        """
        epoch, total, *share = state.values() if isinstance(state, dict) else state.tolist()
        self.set_epoch(epoch or 0, None if total == -1 else total)
        if self.share is not None and share:
            self.share.resume(share)
            self._follow_epoch()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.expression is None or not any(leaf.schedule for leaf in self.expression.leaves()):
            del destination[prefix + "_extra_state"]

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *lists: Any
    ) -> None:
        """A checkpoint of another criterion has no epoch; this is not an error."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *lists)
        missing[:] = [name for name in missing if name != prefix + "_extra_state"]

    def extra_repr(self) -> str:
        """The expression, and the settings that differ from their defaults."""
        defaults = inspect.signature(RegionWiseLoss.__init__).parameters
        settings = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in defaults.items()
            if parameter.kind is parameter.KEYWORD_ONLY and getattr(self, name) != parameter.default
        ]
        shown = [] if self.expression is None else [repr(str(self.expression))]
        return ", ".join([*shown, *settings])

    def _follow_epoch(self) -> None:
        """What is active at this epoch; None where a schedule must know the total first."""
        self._static: tuple[Leaf, ...] | None = None
        self._dynamic: tuple[Leaf, ...] = ()
        self._stored_text: str | None = None  # what a stored map must be of
        expression, at = self.expression, (self.epoch, self.total_epochs)
        if expression is None:
            self._static = (_GIVEN,)
            return
        if expression.needs_total and self.total_epochs is None:
            return
        self._static = expression.static_groups(*at)
        self._dynamic = expression.dynamic_leaves(*at)
        if self.share is None and any(leaf.schedule for leaf in self._static + self._dynamic):
            self.share = GradientShare.of(expression)
        if self.share is not None:
            self._static, self._dynamic = map(self.share.weighted, (self._static, self._dynamic))
        if len(self._static) == 1:
            self._stored_text = str(self._static[0].term)
        for leaf in self._dynamic:
            if not isinstance(leaf.term, (LossTerm, Stabilized)):
                raise RWLossError(
                    f"{leaf.term} is neither static nor a maps.LossTerm: it has no value"
                )
            if isinstance(leaf.term, Stabilized) and not self.include_background:
                raise RWLossError(
                    f"{leaf.term} with include_background=False: a map without its channel 0 is "
                    "not stable; stabilize it and keep the background, or drop .stabilized()"
                )
            if isinstance(leaf.term, Stabilized) and self.batch:
                raise RWLossError(
                    f"{leaf.term} with batch=True: its map is that of each image; drop batch=True "
                    "or .stabilized()"
                )

    def _evaluate(
        self,
        logits: Any,
        target: Any,
        rwmap: Any,
        mask: Any,
        spacing_mm: Any,
        image: Any,
        *,
        excess: bool,
    ) -> Tensor:
        regions = target if isinstance(target, Regions) else None
        if regions is not None:
            if self.soft_labels:
                raise RWLossError(
                    "Regions have one class per voxel: give soft labels (b k *s) as the target, or "
                    "drop soft_labels"
                )
            if isinstance(logits, (list, tuple)) or image is not None or spacing_mm is not None:
                raise RWLossError(
                    "Regions as a target are for one output, and hold spacing and image: give "
                    "these to Regions, and labels as the target of several outputs"
                )
            target, spacing_mm, image = regions.labels, regions.spacings_mm, regions.image
        spacing_mm = self.spacing_mm if spacing_mm is None else spacing_mm
        given = LossInputs(target, rwmap, mask, spacing_mm, spacing_mm is not None)
        if image is not None and self.uses_image:
            given = given._replace(image=image)
        if regions is not None:
            given = given._replace(regions=regions)
        if not isinstance(logits, (list, tuple)):
            return self._one_output(logits, given, excess=excess)
        if self.reduction == "none" and not self._dynamic:
            raise RWLossError(
                f'reduction "none" of static terms is for one output, got {len(logits)}: they '
                "differ in shape"
            )
        total: Any = 0.0
        for head, weight in enumerate(head_weights(self.deep_supervision_weights, len(logits))):
            if weight != 0:
                own = at_head(logits, given, head)
                total = total + weight * self._one_output(
                    logits[head], own, excess=excess, resample=True
                )
        return cast("Tensor", total)

    def _one_output(
        self, logits: Tensor, given: LossInputs, *, excess: bool, resample: bool = False
    ) -> Tensor:
        """The loss at one resolution, in float32 at least; resample: the map may be of another."""
        check_logits(logits)
        if torch.is_autocast_enabled(logits.device.type):
            with torch.autocast(logits.device.type, enabled=False):
                return self._one_output(logits, given, excess=excess, resample=resample)
        batch = make_batch(
            logits,
            given,
            activation=self.activation,
            ignore_index=self.ignore_index,
            include_background=self.include_background,
            pooled=self.batch,
            by_class=self.reduction == "none",
            low_memory=self.low_memory,
            sets=self.label_sets,
            transform=self.logit_transform,
            soft=bool(self.soft_labels),
        )
        active = self._dynamic if logits.numel() else ()
        dynamic = [leaf for leaf in active if leaf.scale != 0]
        batch.wants_overlap = any(getattr(leaf.term, "takes_overlap", False) for leaf in dynamic)
        static = self._static_maps(batch, logits, given, resample=resample)
        value = self._value(batch, static, dynamic, excess=excess)
        batch.finish()
        return value

    def _value(
        self, batch: LossBatch, static: list[WeightedMap], dynamic: list[Leaf], *, excess: bool
    ) -> Tensor:
        if self.reduction == "none":
            return unreduced(
                batch,
                static,
                dynamic if self._dynamic else None,
                self._with_background,
                include_background=self.include_background,
            )
        if excess:
            means = [(factor, mean_excess(batch, rwmap, q)) for factor, rwmap, q in static]
            means += [(1.0, dynamic_excess(batch, leaf, self._with_background)) for leaf in dynamic]
        else:
            means = [
                (factor, mean_cost(batch, rwmap, q, low_memory=self.low_memory))
                for factor, rwmap, q in static
            ]
            if dynamic:
                losses = dynamic_losses(batch, dynamic, self._with_background)
                means.append((1.0, reduced(losses, batch.groups)))
        if not means:  # an empty sum that hangs on the logits: it has a gradient too
            empty = batch.output.flatten()[:0].sum()
            return empty if batch.groups == 1 else empty.expand(batch.groups)
        total = reduce(add, [mean if factor == 1.0 else factor * mean for factor, mean in means])
        return total * batch.num_values if self.reduction == "sum" else total

    def _static_maps(
        self, batch: LossBatch, logits: Tensor, given: LossInputs, *, resample: bool
    ) -> list[WeightedMap]:
        """Factor, map and link of each static group: the stored map, or made from the labels."""
        rwmap = given.rwmap
        if self._static is None:
            raise RWLossError(
                f"{self.expression} spreads a schedule over the run: call "
                "loss.set_epoch(epoch, total=...) before the first batch"
            )
        if rwmap is None and self.expression is None:
            raise RWLossError(
                "RegionWiseLoss() has no expression, so each call needs a map: loss(logits, "
                "target, rwmap); RegionWiseLoss('rectified') makes it from the target"
            )
        # A stored map stands for all static terms: `static_part` raises where they are several.
        unfit = rwmap is not None and len(self._static) != 1
        if unfit and self.expression and self.expression.static_part is None:
            raise RWLossError(
                "a stored map replaces the static part of the expression, and "
                f"{self.expression} has none: leave out the map"
            )
        active = [group for group in self._static if group.factor != 0] if logits.numel() else []
        if not active:
            return []
        if rwmap is None:
            found = made_maps(batch, [group.term for group in active])
        else:
            found = [stored_map(batch, logits, given, self._stored_text, resample=resample)]
        if self.label_sets is not None and not all(rwmap.is_compact for rwmap in found):
            raise RWLossError(
                f"{self.expression} has a dense map, which can't take label_sets: add "
                ".stabilized(), whose map is compact"
            )
        if self.class_weights is not None:
            found = [weighted(batch, rwmap, self.class_weights) for rwmap in found]
        return [
            (group.factor, rwmap, group.link) for group, rwmap in zip(active, found, strict=True)
        ]


def _weights(name: str, given: Sequence[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    weights = tuple(map(float, given))
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise RWLossError(f"expected {name} of 0 or more, got {weights}")
    return weights


def _as_tuples(values: Any) -> Any:
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values
