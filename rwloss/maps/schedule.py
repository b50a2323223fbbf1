"""Schedules: weights of a region loss and a boundary map that change with the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Literal, get_args

from rwloss.arrays import Array
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, Leaf, as_float, weighted_sum
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.words import nearest

ScheduleName = Literal["rebalance", "constant", "increase", "steal", "gradient_share"]
Ramp = Literal["linear", "cosine"]


@dataclass(frozen=True)
class Blend(Expression):
    """A region loss R and a boundary map B, with weights that follow the epoch e = 0, 1, ...

    schedule, with s = `step` and a = `alpha`:

    - "rebalance": alpha_e R + (1 - alpha_e) B with alpha_e = max(0.01, 1 - s e)
      (Kervadec et al. 2019, eq. 6);
    - "constant": R + a B;
    - "increase": R + alpha_e B with alpha_e = min(1, a + s e);
    - "steal": max(0.1, 1 - s e) R + (a + s e) B;
    - "gradient_share": R + w B, with w such that B has the share |w dB| / (|dR| + |w dB|) = `share`
      of the L2 norms of the gradients at the logits. The loss measures w at its first call in
      training and `every` so many calls after; alpha, step, start and ramp have no part in it.

    step: change per epoch, 0.01 in the papers; None spreads the whole change over the `total` of
    `loss.set_epoch(epoch, total)`. alpha: initial weight of B, 0.01 in the papers. start: epochs
    before the first change. ramp: "linear", or "cosine" for half a wave over the time that the
    linear ramp needs for 0.99. region, boundary: expressions. schedule: one of those above. share:
    part of the gradient norm, between 0 and 1. every: calls from one measurement to the next.

    Source: Kervadec et al., MIDL 2019 and Medical Image Analysis 2021, arXiv 1812.07032, and the
    strategies of their published code.
    """

    region: Expression
    boundary: Expression
    schedule: ScheduleName = "rebalance"
    alpha: float = 0.01
    step: float | None = 0.01
    start: int = 0
    ramp: Ramp = "linear"
    share: float = 0.3
    every: int = 50

    def __post_init__(self) -> None:
        """Check the sides, the schedule's name and the numbers."""
        for side in ("region", "boundary"):
            if not isinstance(getattr(self, side), Expression):
                raise RWLossError(f"blend: expected a map as {side}, got {getattr(self, side)!r}")
        for kind, chosen, names in (
            ("schedule", self.schedule, get_args(ScheduleName)),
            ("ramp", self.ramp, get_args(Ramp)),
        ):
            if chosen not in names:
                raise RWLossError(
                    f"unknown {kind} {chosen!r}{nearest(str(chosen), names) or '.'} "
                    f"There are: {', '.join(names)}"
                )
        for name, value in (("alpha", self.alpha), ("step", self.step)):
            if value is None and name == "step":
                continue
            if isinstance(value, bool) or not (
                isinstance(value, Real) and value >= 0 and math.isfinite(as_float(value))
            ):
                got = repr(value)[:40]  # a number may have thousands of digits
                raise RWLossError(f"blend: expected {name} as a finite number >= 0, got {got}")
            object.__setattr__(self, name, float(value))
        for name, value, least in (("start", self.start, 0), ("every", self.every, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RWLossError(
                    f"blend: expected {name} as a whole number >= {least}, got {value!r}"
                )
        if not (isinstance(self.share, Real) and 0 < as_float(self.share) < 1):
            raise RWLossError(f"blend: expected share between 0 and 1, got {self.share!r}")

    def weights(self, epoch: int, total: int | None = None) -> tuple[float, float]:
        """Weights of region and boundary at an epoch (0 is the first).

        Those of "gradient_share" are 1 and 1: the loss that measures the second multiplies by it.
        """
        # At the first epoch the weights have not moved yet, whatever the number of epochs.
        ramped, since = self._is_ramped, max(0, epoch - self.start)
        moved = self._step(total) * since if since and ramped else 0.0
        if self.ramp == "cosine":
            moved = 0.99 * (1 - math.cos(math.pi * min(1.0, moved / 0.99))) / 2
        match self.schedule:
            case "gradient_share":
                return 1.0, 1.0
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
        """Whether this schedule is spread over the run, or one inside is."""
        return (self.step is None and self._is_ramped) or super().needs_total

    @property
    def _is_ramped(self) -> bool:
        return self.schedule not in {"constant", "gradient_share"}

    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """The map at the first epoch; a loss follows `set_epoch`."""
        weights = self.weights(0)
        return weighted_sum(zip(weights, self.inside, strict=True)).make(regions, probs)

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
            f", {each.name}={getattr(self, each.name)!r}"
            for each in fields(self)[3:]
            if getattr(self, each.name) != each.default
        )
        return f"blend({self.region}, {self.boundary}, schedule={self.schedule!r}{more})"

    def _step(self, total: int | None) -> float:
        if self.step is not None:
            return self.step
        if total is None or total < self.start + 2:
            raise RWLossError(
                f"{self}: step=None spreads the schedule over the run: call "
                f"loss.set_epoch(epoch, total=...) with a total of {self.start + 2} epochs or more"
            )
        return 0.99 / (total - 1 - self.start)
