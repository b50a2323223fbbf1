"""The loss: probabilities times a region-wise map, and what else is a map at a prediction."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.losses import deep_supervision
from rwloss.losses.activation import Activation
from rwloss.losses.batch import Batch, check_stored, make_batch
from rwloss.losses.map_cost import (
    MapTensors,
    as_tensor,
    class_costs,
    least_voxel_costs,
    voxel_costs,
)
from rwloss.losses.target import check_logits
from rwloss.maps.dynamic import LossTerm
from rwloss.maps.expression import Expression, Leaf, StaticGroup
from rwloss.maps.parser import parse
from rwloss.regions import IGNORED, Regions, SpacingMM, spacing_rows
from rwloss.rwmap import RWMap
from rwloss.spelling import nearest

Reduction = Literal["mean", "sum", "none"]


class RegionWiseLoss(nn.Module):
    """Mean over batch, classes and voxels of probabilities times the map.

    expression: an expression or its text: "rectified", "rectified + dice",
    "blend(generalized_dice, boundary, schedule='rebalance')". Static terms are maps made from the
    target (or stored ones given at the call), dynamic terms add their loss's own value.
    spacing_mm: voxel spacing for maps made on the fly, unless the call gives one; 1 by default.
    activation: "softmax"; "sigmoid" for masks that may overlap, each channel a two-class problem of
    its own; "none" where the network gives probabilities.
    include_background: False drops channel 0 after the softmax, and averages over K - 1. That
    makes maps with three classes or more violate the stability principle. With "sigmoid" it drops
    the complement of each mask.
    reduction: "mean" is the official torch.mean(softmax * map), over (b, k, *s); "sum" is that
    mean times the number of values; "none" gives (b k *s), for static terms only.
    ignore_index: voxels with this label belong to no class: they end a region, cost nothing, and
    do not count in the mean.
    class_weights: a number for each class; static maps are multiplied at each voxel by the weight
    of its true class.
    deep_supervision_weights: one for each output when `logits` is a list, high to low resolution;
    1/2^i scaled to a sum of 1 by default. A weight of 0 skips its output.

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
        spacing_mm: Sequence[float] | None = None,
        activation: Activation = "softmax",
        include_background: bool = True,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        class_weights: Sequence[float] | None = None,
        deep_supervision_weights: Sequence[float] | None = None,
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
        self.spacing_mm = spacing_mm
        self.activation: Activation = activation
        self.include_background = include_background
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))
        self.deep_supervision_weights = deep_supervision_weights
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
        mask: Tensor | None = None,
        spacing_mm: SpacingMM | None = None,
    ) -> Tensor:
        """Loss for one batch. logits (b k *s), target (b *s), (b 1 *s) or one-hot -> ().

        logits may be a list of outputs, high to low resolution (deep supervision); target, rwmap
        and mask are then resampled to the nearest voxels, unless they are lists too.
        rwmap: a stored map in place of the static terms, an RWMap or dense values (b k *s).
        mask: (b *s) or (b 1 *s), 0 where a voxel costs nothing and does not count.
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
        mask: Tensor | None = None,
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
        at = (self.epoch, self.total_epochs)
        # A schedule over the whole run knows nothing before the first set_epoch.
        if self.total_epochs is None and self.expression.needs_total:
            self._groups: tuple[StaticGroup, ...] | None = None
            self._dynamic: tuple[Leaf, ...] = ()
            return
        self._groups = self.expression.static_groups(*at)
        self._dynamic = self.expression.dynamic_leaves(*at)
        if self.reduction == "none" and self._dynamic:
            raise RWLossError(
                f'reduction "none" is for static terms: {self._dynamic[0].term} is a loss of the '
                "whole image"
            )

    def _evaluate(
        self, logits: Any, target: Any, rwmap: Any, mask: Any, spacing_mm: Any, *, excess: bool
    ) -> Tensor:
        if isinstance(logits, Tensor):
            return self._one_output(logits, target, rwmap, mask, spacing_mm, excess=excess)
        heads = len(logits)
        total: Tensor | None = None
        for head, weight in enumerate(
            deep_supervision.head_weights(self.deep_supervision_weights, heads)
        ):
            if weight == 0:
                continue
            value = weight * self._one_output(
                logits[head],
                *self._at_head(logits, target, rwmap, mask, spacing_mm, head),
                excess=excess,
            )
            total = value if total is None else total + value
        if total is None:
            raise RWLossError("no output to train: every deep-supervision weight is 0")
        return total

    def _at_head(
        self, logits: Any, target: Any, rwmap: Any, mask: Any, spacing_mm: Any, head: int
    ) -> tuple[Any, Any, Any, Any]:
        """Target, map, mask and spacing at the resolution of one output."""
        output, heads = logits[head], len(logits)
        check_logits(output)
        size = output.shape[2:]
        own = deep_supervision.for_head(target, head, heads, "target")
        full = own if own is target else target[0]
        spatial = full.shape[full.ndim - len(size) :]
        first = own.ndim - len(size)
        own = deep_supervision.resampled(own, size, first)
        if rwmap is not None:
            rwmap = deep_supervision.for_head(rwmap, head, heads, "map")
            rwmap = deep_supervision.resampled_map(rwmap, size, output.device)
        if mask is not None:
            mask = deep_supervision.for_head(mask, head, heads, "mask")
            mask = deep_supervision.resampled(mask, size, mask.ndim - len(size))
        rows = spacing_rows(
            self.spacing_mm if spacing_mm is None else spacing_mm, (len(output), *size)
        )
        scale = [full_size / size for full_size, size in zip(spatial, size, strict=True)]
        scaled = [[mm * s for mm, s in zip(row, scale, strict=True)] for row in rows]
        return own, rwmap, mask, scaled or None

    def _one_output(
        self,
        logits: Tensor,
        target: Tensor,
        rwmap: Any,
        mask: Any,
        spacing_mm: Any,
        *,
        excess: bool,
    ) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            spacing = self.spacing_mm if spacing_mm is None else spacing_mm
            batch = make_batch(
                logits,
                target,
                activation=self.activation,
                ignore_index=self.ignore_index,
                mask=mask,
                spacing_mm=spacing,
                include_background=self.include_background,
            )
            maps = list(self._maps(batch, logits, rwmap))
            if self.reduction == "none":
                return self._unreduced(batch, maps)
            # Beginning with a 0 that hangs on the logits: an empty batch has a gradient too.
            total = 0.0 * batch.probs.output.flatten()[:1].sum()
            for group, tensors in maps:
                total = total + group.factor * self._static_value(
                    batch, tensors, group.link, excess=excess
                )
            for leaf in self._dynamic:
                if leaf.weight * leaf.factor != 0:
                    value = self._dynamic_value(batch, leaf, excess=excess)
                    total = total + leaf.weight * leaf.factor * value
            if self.reduction == "sum":
                total = total * (batch.channels * batch.num_counted)
            return total

    def _maps(
        self, batch: Batch, logits: Tensor, rwmap: Any
    ) -> Iterator[tuple[StaticGroup, MapTensors]]:
        """Each static group with its map: the stored one, or one made from the labels."""
        groups = self._groups_now()
        if rwmap is not None:
            group = self._group_of_stored(groups)
            if group.factor != 0:
                yield group, self._weighted(batch, self._stored(batch, logits, rwmap))
            return
        active = [group for group in groups if group.factor != 0]
        if not active:
            return
        with torch.no_grad():
            regions = Regions(
                batch.labels,
                batch.num_classes,
                batch.spacings_mm,
                None if self.ignore_index is None else IGNORED,
            )
            for group in active:
                tensors = MapTensors.of(group.expression(regions), batch.probs.output)
                yield group, self._weighted(batch, tensors)

    def _groups_now(self) -> tuple[StaticGroup, ...]:
        if self._groups is None:
            raise RWLossError(
                f"{self.expression} spreads a schedule over the run: call "
                "loss.set_epoch(epoch, total=...) before the first batch"
            )
        return self._groups

    def _group_of_stored(self, groups: tuple[StaticGroup, ...]) -> StaticGroup:
        if len(groups) == 1:
            return groups[0]
        self.expression.static_part  # noqa: B018 - raises where it has several
        raise RWLossError(
            f"a stored map takes the place of the static part of the expression, and "
            f"{self.expression} has none: leave the map out"
        )

    @torch.no_grad()
    def _stored(self, batch: Batch, logits: Tensor, rwmap: Any) -> MapTensors:
        """A stored map, checked against the batch."""
        if isinstance(rwmap, RWMap):
            check_stored(rwmap, batch)
            return MapTensors.of(rwmap, batch.probs.output)
        values = as_tensor(rwmap, logits.device)
        if values.shape != logits.shape:
            raise RWLossError(
                f"map {tuple(values.shape)} does not fit logits {tuple(logits.shape)}: expected "
                "one value for each class and voxel"
            )
        if self.activation == "sigmoid":  # values of the masks themselves; their complements cost 0
            values = values.flatten(0, 1)
            values = torch.stack([torch.zeros_like(values), values], dim=1)
        return MapTensors(
            batch.labels.long().clamp_min(0),
            batch.num_classes,
            values=values.to(batch.probs.output.dtype),
        )

    def _weighted(self, batch: Batch, tensors: MapTensors) -> MapTensors:
        """The map times the weight of each voxel's true class."""
        if self.class_weights is None:
            return tensors
        if len(self.class_weights) != batch.num_classes:
            raise RWLossError(
                f"{len(self.class_weights)} class_weights for {batch.num_classes} classes: give "
                "one for each"
            )
        weights = batch.probs.output.new_tensor(self.class_weights)
        return tensors.times(weights[tensors.labels])

    def _static_value(
        self, batch: Batch, tensors: MapTensors, link: float | None, *, excess: bool
    ) -> Tensor:
        """Mean cost of a map over voxels that count; with `excess` less the least it can be."""
        if self.include_background:
            costs = voxel_costs(batch.probs, tensors, link)
        else:
            costs = class_costs(batch.probs, tensors, link)[:, 1:].sum(dim=1)
        if excess:
            costs = costs - least_voxel_costs(tensors, link, drop_first=not self.include_background)
        return batch.mean(costs)

    def _unreduced(self, batch: Batch, maps: Sequence[tuple[StaticGroup, MapTensors]]) -> Tensor:
        """Costs of all static terms by class and voxel. (b k *s)."""
        total = torch.zeros_like(batch.probs.output)
        for group, tensors in maps:
            total = total + group.factor * class_costs(batch.probs, tensors, group.link)
        if batch.counts is not None:
            total = total * batch.counts[:, None]
        return total if self.include_background else total[:, 1:]

    def _dynamic_value(self, batch: Batch, leaf: Leaf, *, excess: bool) -> Tensor:
        term = leaf.term
        if not isinstance(term, LossTerm):
            return batch.projected_value(term)
        if excess and leaf.weight < 0:
            raise RWLossError(f"excess: {term} has a weight below 0, so no least value is known")
        value = term.loss(batch.prediction)
        return value - term.minimum if excess else value


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RWLossError(
            f"unknown {name} {value!r}{nearest(str(value), choices)}; "
            f"expected one of {', '.join(choices)}"
        )
