"""The loss: probabilities times a region-wise map, and what else is a map at a prediction."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rwloss.arrays import to_numpy
from rwloss.errors import RWLossError
from rwloss.losses.activation import Activation
from rwloss.losses.batch import Batch, make_batch
from rwloss.losses.deep_supervision import Given, at_head, head_weights
from rwloss.losses.map_cost import MapTensors
from rwloss.losses.static_maps import made_maps, stored_map
from rwloss.losses.target import check_logits
from rwloss.losses.terms import check_dynamic, dynamic_value, static_value, unreduced
from rwloss.maps.expression import Expression, Leaf, StaticGroup
from rwloss.maps.parser import parse
from rwloss.regions import SpacingMM
from rwloss.rwmap import RWMap
from rwloss.words import nearest

Reduction = Literal["mean", "sum", "none"]


class RegionWiseLoss(nn.Module):
    """Mean over batch, classes and voxels of probabilities times the map.

    expression: an expression or its text: "rectified", "rectified + dice",
    "blend(generalized_dice, boundary, schedule='rebalance')". Static terms are maps made from the
    target (or stored ones given at the call), dynamic terms add their loss's own value.
    spacing_mm: voxel spacing in mm for maps made on the fly, a number for each axis or such a row
    an image, unless the call gives one; 1 by default.
    activation: "softmax"; "sigmoid" for masks that may overlap, each channel a two-class problem of
    its own (its complement is class 0, the mask class 1); "none" where the network gives
    probabilities.
    include_background: False drops channel 0 after the softmax, and averages over K - 1. That
    makes maps with three classes or more violate the stability principle. With "sigmoid" it drops
    the complement of each mask. Dynamic terms then see the other channels alone: cross-entropy
    costs nothing at background voxels.
    reduction: "mean" is the official torch.mean(softmax * map), over (b, k, *s); "sum" is that
    mean times the number of values; "none" gives (b k *s), for static terms and one output only.
    With "sigmoid" the two classes of a mask count as two: "none" gives (b k 2 *s), and (b k *s)
    without background.
    ignore_index: voxels with this label belong to no class: they end a region, cost nothing, and
    do not count in the mean.
    class_weights: a number for each class (two with "sigmoid"); static maps are multiplied at each
    voxel by the weight of its true class. Dynamic terms are not.
    deep_supervision_weights: one for each output when `logits` is a list, high to low resolution;
    1/2^i scaled to a sum of 1 by default. A weight of 0 skips its output.
    low_memory: keep the logits for the way back, not the probabilities: less memory, about as much
    time with many classes and more with few; and second derivatives of static terms, which need it.

    Maps are constants: no gradient flows through them, and none is needed. The value may be below
    0; that is no error, and `excess` tells how far it is from its minimum.

    Source: Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405; with `boundary`, Kervadec
    et al., MIDL 2019, arXiv 1812.07032 (eq. 5, averaged over classes too).

    >>> loss = RegionWiseLoss("rectified", spacing_mm=(1.0, 0.5))
    >>> float(loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)))
    0.0
    """

    def __init__(
        self,
        expression: Expression | str,
        *,
        spacing_mm: SpacingMM | None = None,
        activation: Activation = "softmax",
        include_background: bool = True,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        class_weights: Sequence[float] | None = None,
        deep_supervision_weights: Sequence[float] | None = None,
        low_memory: bool = False,
    ) -> None:
        """Check the parameters; the class documents them."""
        super().__init__()
        _check_choice("reduction", reduction, get_args(Reduction))
        _check_choice("activation", activation, get_args(Activation))
        self.expression = parse(expression) if isinstance(expression, str) else expression
        if not isinstance(self.expression, Expression):
            raise RWLossError(
                f"expected an expression or its text, got {type(expression).__name__}: such as "
                "'rectified' or maps.Rectified()"
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
        self.epoch = 0
        self.total_epochs: int | None = None
        self._follow_epoch()

    def set_epoch(self, epoch: int, total: int | None = None) -> None:
        """Tell schedules the epoch, 0 for the first, and how many there will be."""
        if epoch < 0:
            raise RWLossError(f"expected an epoch of 0 or more, got {epoch}")
        self.epoch, self.total_epochs = int(epoch), None if total is None else int(total)
        self._follow_epoch()

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        rwmap: RWMap | Tensor | Sequence[RWMap | Tensor] | None = None,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        spacing_mm: SpacingMM | None = None,
    ) -> Tensor:
        """Loss for one batch. logits (b k *s), target (b *s), (b 1 *s) or one-hot -> ().

        logits may be a list of outputs, high to low resolution (deep supervision); target, rwmap
        and mask are then resampled to the nearest voxels and the spacing is scaled, unless they
        are lists too. With one map for all outputs, so is the first target of a list: the labels
        must be those of the map.
        rwmap: a stored map in place of the static terms, an RWMap or dense values (b k *s).
        mask: (b *s) or (b 1 *s), 0 where a voxel costs nothing and does not count. Unlike
        ignore_index it does not end a region.
        spacing_mm: a number for each axis, or such a row an image.

        Raises RWLossError that says what was expected where labels, shapes or maps do not fit.
        """
        return self._evaluate(logits, target, rwmap, mask, spacing_mm, excess=False)

    @torch.no_grad()
    def excess(
        self,
        logits: Tensor | Sequence[Tensor],
        target: Tensor | Sequence[Tensor],
        rwmap: RWMap | Tensor | Sequence[RWMap | Tensor] | None = None,
        *,
        mask: Tensor | Sequence[Tensor] | None = None,
        spacing_mm: SpacingMM | None = None,
    ) -> Tensor:
        """How far the loss is above the least it could be for these maps: 0 or more, for logs. ().

        Each term counts from its own minimum. Arguments as for the loss.
        """
        if self.reduction == "none":
            raise RWLossError('excess is one number: it needs reduction "mean" or "sum"')
        return self._evaluate(logits, target, rwmap, mask, spacing_mm, excess=True)

    def get_extra_state(self) -> dict[str, int | None]:
        """The epoch that schedules stand at, for `state_dict`."""
        return {"epoch": self.epoch, "total": self.total_epochs}

    def set_extra_state(self, state: dict[str, int | None]) -> None:
        """Take up the epoch of a `state_dict`."""
        self.set_epoch(state["epoch"] or 0, state["total"])

    def extra_repr(self) -> str:
        """The expression, and the settings that differ from their defaults."""
        defaults = inspect.signature(type(self).__init__).parameters
        settings = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in defaults.items()
            if parameter.kind is parameter.KEYWORD_ONLY and getattr(self, name) != parameter.default
        ]
        return ", ".join([repr(str(self.expression)), *settings])

    def _follow_epoch(self) -> None:
        """What is active at this epoch; None where a schedule must know the total first."""
        self._static: tuple[StaticGroup, ...] | None = None
        self._dynamic: tuple[Leaf, ...] = ()
        if self.expression.needs_total and self.total_epochs is None:
            return
        at = (self.epoch, self.total_epochs)
        self._static = self.expression.static_groups(*at)
        self._dynamic = self.expression.dynamic_leaves(*at)
        for leaf in self._dynamic:
            check_dynamic(
                leaf, reduction=self.reduction, include_background=self.include_background
            )

    def _evaluate(
        self, logits: Any, target: Any, rwmap: Any, mask: Any, spacing_mm: Any, *, excess: bool
    ) -> Tensor:
        given = Given(target, rwmap, mask, self.spacing_mm if spacing_mm is None else spacing_mm)
        if not isinstance(logits, (list, tuple)):
            return self._one_output(logits, given, excess=excess)
        if self.reduction == "none":
            raise RWLossError(
                f'reduction "none" is for one output, got {len(logits)}: they differ in shape'
            )
        weights = head_weights(self.deep_supervision_weights, len(logits))
        if not any(weights):
            raise RWLossError(
                "no output to train: "
                + ("every deep-supervision weight is 0" if weights else "the list is empty")
            )
        return torch.stack(
            [
                weight
                * self._one_output(
                    logits[head], at_head(logits, given, head), excess=excess, resample=True
                )
                for head, weight in enumerate(weights)
                if weight != 0
            ]
        ).sum()

    def _one_output(
        self, logits: Tensor, given: Given, *, excess: bool, resample: bool = False
    ) -> Tensor:
        """The loss at one resolution; resample: the map may be of another."""
        check_logits(logits)
        low_memory = self.low_memory
        with torch.autocast(logits.device.type, enabled=False):
            batch = make_batch(
                logits,
                given.target,
                activation=self.activation,
                ignore_index=self.ignore_index,
                mask=given.mask,
                spacing_mm=given.spacing_mm,
                include_background=self.include_background,
            )
            static = self._static_maps(batch, logits, given.rwmap, resample=resample)
            if self.reduction == "none":
                costs = unreduced(batch, static)
                if not batch.masks:
                    return costs
                costs = costs.reshape(*logits.shape[:2], costs.shape[1], *logits.shape[2:])
                return costs if self.include_background else costs[:, :, 0]
            terms = [
                factor * static_value(batch, tensors, link, excess=excess, low_memory=low_memory)
                for factor, tensors, link in static
            ]
            terms += [
                leaf.factor * dynamic_value(batch, leaf, excess=excess)
                for leaf in self._dynamic
                if leaf.weight * leaf.factor != 0 and logits.numel()
            ]
            if not terms:  # an empty sum that hangs on the logits: it has a gradient too
                terms = [batch.probs.output.flatten()[:0].sum()]
            total = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
            return total * batch.num_values if self.reduction == "sum" else total

    def _static_maps(
        self, batch: Batch, logits: Tensor, rwmap: Any, *, resample: bool
    ) -> list[tuple[float, MapTensors, float | None]]:
        """Factor, map and link of each static group: the stored map, or made from the labels."""
        if self._static is None:
            raise RWLossError(
                f"{self.expression} spreads a schedule over the run: call "
                "loss.set_epoch(epoch, total=...) before the first batch"
            )
        if rwmap is not None:
            self._check_one_stored(self._static)
        active = [group for group in self._static if group.factor != 0] if logits.numel() else []
        if not active:
            return []
        if rwmap is not None:
            found = [stored_map(batch, logits, rwmap, resample=resample)]
        else:
            found = made_maps(batch, [group.expression for group in active])
        return [
            (group.factor, self._weighted(batch, tensors), group.link)
            for group, tensors in zip(active, found, strict=True)
        ]

    def _check_one_stored(self, groups: Sequence[StaticGroup]) -> None:
        """A stored map stands for all static terms, so they must be one map."""
        if not groups:
            raise RWLossError(
                f"a stored map takes the place of the static part of the expression, and "
                f"{self.expression} has none: leave the map out"
            )
        if len(groups) > 1:
            raise RWLossError(
                f"{self.expression}: its static terms have different links or schedules, so one "
                f"stored map can't stand for {' and '.join(str(g.expression) for g in groups)}: "
                "leave the map out, and they are made from the target"
            )

    def _weighted(self, batch: Batch, tensors: MapTensors) -> MapTensors:
        """The map times the weight of each voxel's true class."""
        if self.class_weights is None:
            return tensors
        if len(self.class_weights) != batch.num_classes:
            raise RWLossError(
                f"{len(self.class_weights)} class_weights for {batch.num_classes} classes: give "
                "one for each" + (" (outside and inside a mask)" if batch.masks else "")
            )
        weights = batch.probs.output.new_tensor(self.class_weights)
        return tensors.times(weights[tensors.labels])


def _weights(name: str, given: Sequence[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    weights = tuple(map(float, given))
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise RWLossError(f"expected {name} of 0 or more, got {weights}")
    return weights


def _as_tuples(values: Any) -> Any:
    """Nested lists as tuples: a setting is a constant."""
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RWLossError(
            f"unknown {name} {value!r}{nearest(str(value), choices)}; "
            f"expected one of {', '.join(choices)}"
        )
