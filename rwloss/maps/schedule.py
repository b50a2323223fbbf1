"""Schedules: weights of a region loss and a boundary map that change with the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal, get_args

from rwloss.arrays import Array
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, Leaf, as_float, weighted_sum
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.words import nearest

ScheduleName = Literal["rebalance", "constant", "increase", "steal"]


@dataclass(frozen=True)
class Blend(Expression):
    """A region loss R and a boundary map B, with weights that follow the epoch e = 0, 1, ...

    schedule, with s = `step` and a = `alpha`:

    - "rebalance": alpha_e R + (1 - alpha_e) B with alpha_e = max(0.01, 1 - s e)
      (Kervadec et al. 2019, eq. 6);
    - "constant": R + a B;
    - "increase": R + alpha_e B with alpha_e = min(1, a + s e);
    - "steal": max(0.1, 1 - s e) R + (a + s e) B.

    step: change in an epoch, 0.01 in the papers; None spreads the whole way over the `total` of
    `loss.set_epoch(epoch, total)`. alpha: first weight of B, 0.01 in the papers.

    Source: Kervadec et al., MIDL 2019 and Medical Image Analysis 2021, arXiv 1812.07032, and the
    strategies of their published code.
    """

    region: Expression
    boundary: Expression
    schedule: ScheduleName = "rebalance"
    alpha: float = 0.01
    step: float | None = 0.01

    def __post_init__(self) -> None:
        """Check the sides, the strategy's name and numbers."""
        for side in ("region", "boundary"):
            if not isinstance(getattr(self, side), Expression):
                raise RWLossError(f"blend: expected a map as {side}, got {getattr(self, side)!r}")
        if self.schedule not in get_args(ScheduleName):
            raise RWLossError(
                f"unknown schedule {self.schedule!r}{nearest(str(self.schedule), _NAMES)}; "
                f"there are: {', '.join(_NAMES)}"
            )
        for name, value in (("alpha", self.alpha), ("step", self.step)):
            if value is None and name == "step":
                continue
            if isinstance(value, bool) or not (isinstance(value, Real) and value >= 0):
                raise RWLossError(f"blend: expected {name} of 0 or more, got {value!r}")
            if not math.isfinite(as_float(value)):
                raise RWLossError(f"blend: expected a finite {name}")
            object.__setattr__(self, name, float(value))

    def weights(self, epoch: int, total: int | None = None) -> tuple[float, float]:
        """Weights of region and boundary at an epoch (0 is the first)."""
        # At the first epoch nothing has moved, whatever the number of epochs.
        moved = self._step(total) * epoch if epoch and self.schedule != "constant" else 0.0
        match self.schedule:
            case "rebalance":
                alpha = max(0.01, 1.0 - moved)
                return alpha, 1.0 - alpha
            case "constant":
                return 1.0, self.alpha
            case "increase":
                return 1.0, min(1.0, self.alpha + moved)
            case "steal":
                return max(0.1, 1.0 - moved), self.alpha + moved

    @property
    def is_static(self) -> bool:
        """False: its map changes with the epoch. The terms inside may be static."""
        return False

    @property
    def needs_total(self) -> bool:
        """Whether this schedule spreads over the run, or one inside does."""
        sides = (self.region, self.boundary)
        spreads = self.step is None and self.schedule != "constant"
        return spreads or any(side.needs_total for side in sides)

    @property
    def needs_class_counts(self) -> bool:
        """Whether a side does."""
        return self.region.needs_class_counts or self.boundary.needs_class_counts

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The blend of the resolved sides."""
        region, boundary = (side.resolved(class_counts) for side in (self.region, self.boundary))
        return replace(self, region=region, boundary=boundary)

    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """The map at the first epoch; a loss follows `set_epoch`."""
        region, boundary = self.weights(0)
        mixed = weighted_sum([(region, self.region), (boundary, self.boundary)])
        return self._named(mixed(regions, probs), regions)

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """Both sides' leaves, with the factors of this epoch."""
        sides = zip(("region", "boundary"), self.weights(epoch, total), strict=True)
        return tuple(
            replace(leaf, factor=factor * leaf.factor, schedule=((self, side), *leaf.schedule))
            for side, factor in sides
            for leaf in getattr(self, side).leaves(epoch, total)
        )

    def __str__(self) -> str:
        """Canonical text, such as "blend(generalized_dice, boundary, schedule='rebalance')"."""
        more = "".join(
            f", {name}={value!r}"
            for name, value, default in (("alpha", self.alpha, 0.01), ("step", self.step, 0.01))
            if value != default
        )
        return f"blend({self.region}, {self.boundary}, schedule={self.schedule!r}{more})"

    def _step(self, total: int | None) -> float:
        if self.step is not None:
            return self.step
        if total is None or total < 2:
            raise RWLossError(
                f"{self}: step=None spreads the schedule over the run: call "
                "loss.set_epoch(epoch, total=...) with a total of 2 epochs or more"
            )
        return 0.99 / (total - 1)


_NAMES = get_args(ScheduleName)


def blend(
    region: Expression | str,
    boundary: Expression | str,
    schedule: ScheduleName = "rebalance",
    alpha: float = 0.01,
    step: float | None = 0.01,
) -> Blend:
    """A region loss and a boundary map, weighted by the epoch; see `Blend` for the formulas.

    >>> str(blend("generalized_dice", "boundary"))
    "blend(generalized_dice, boundary, schedule='rebalance')"
    """
    from rwloss.maps.parser import parse

    sides = [parse(side) if isinstance(side, str) else side for side in (region, boundary)]
    return Blend(sides[0], sides[1], schedule, alpha, step)
