"""The weight of a blend that keeps a term's share of the gradient at the logits."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, Leaf
from rwloss.maps.schedule import Blend

if TYPE_CHECKING:
    from rwloss.losses.region_wise import RegionWiseLoss


_COUNTS = ContextVar("_COUNTS", default=True)


@contextmanager
def uncounted() -> Iterator[None]:
    """Calls of a loss inside are not training: no schedule notices them."""
    token = _COUNTS.set(False)
    try:
        yield
    finally:
        _COUNTS.reset(token)


@dataclass
class GradientShare:
    """A blend with schedule "gradient_share", and how far it is.

    calls: of the loss in training. weight: of the boundary side, as it was measured last.
    """

    blend: Blend
    calls: int = 0
    weight: float = 1.0

    @classmethod
    def of(cls, expression: Expression | None) -> GradientShare | None:
        """That of an expression; None without one. Raises RWLossError for several."""
        leaves = () if expression is None else expression.leaves(0, 1 << 30)
        found: list[Blend] = []
        for leaf in leaves:
            found += [each for each in _shared(leaf) if each not in found]
        if len(found) > 1:
            raise RWLossError(
                f"{expression} has {len(found)} blends with schedule='gradient_share': expected "
                "one, because each would change the share of the others"
            )
        return cls(found[0]) if found else None

    @property
    def state(self) -> list[float]:
        """Calls and weight."""
        return [self.calls, self.weight]

    def resume(self, state: Sequence[Any]) -> None:
        """Restore calls and weight; the loss must then follow them."""
        self.calls, self.weight = int(state[0]), float(state[1])

    def weighted(self, leaves: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Leaves whose factors hold the measured weight."""
        return tuple(
            replace(leaf, factor=leaf.factor * self.weight)
            if (self.blend, "boundary") in leaf.schedule
            else leaf
            for leaf in leaves
        )

    def follow(
        self, loss: RegionWiseLoss, logits: Any, target: Any, rwmap: Any, **given: Any
    ) -> bool:
        """Count a call in training, and measure where it is time. Whether the weight changed."""
        if not (loss.training and torch.is_grad_enabled() and _COUNTS.get()):
            return False
        self.calls += 1
        if (self.calls - 1) % self.blend.every:
            return False
        heads = logits if isinstance(logits, (list, tuple)) else [logits]
        norms = []
        for side in (self.blend.region, self.blend.boundary):
            copies = [head.detach().requires_grad_() for head in heads]
            own = rwmap if side.static_part is not None else None  # the other side has the map
            with torch.enable_grad():
                value = _with(loss, side).forward(
                    copies if heads is logits else copies[0], target, own, **given
                )
                found = torch.autograd.grad(value, copies, allow_unused=True)
            norms.append(_norm([each for each in found if each is not None], heads[0]))
        region, boundary = norms
        share = self.blend.share
        weight = share / (1 - share) * region / boundary if boundary > 0 else float("nan")
        if not 0 < weight < float("inf"):  # nothing to balance in this batch: keep the last
            return False
        self.weight = weight
        return True


def _shared(leaf: Leaf) -> list[Blend]:
    blends = (blend for blend, _ in leaf.schedule if isinstance(blend, Blend))
    return [blend for blend in blends if blend.schedule == "gradient_share"]


def _with(loss: RegionWiseLoss, side: Expression) -> RegionWiseLoss:
    """The same loss of one side, as one number."""
    clone = copy.copy(loss)
    clone.expression, clone.reduction, clone.share = side, "mean", None
    clone.set_epoch(loss.epoch, loss.total_epochs)
    return clone


def _norm(gradients: Sequence[Tensor], like: Tensor) -> float:
    """L2 norm over all outputs, and over all processes that train together."""
    squares = [each.double().square().sum() for each in gradients]
    total = torch.stack(squares).sum() if squares else torch.zeros((), device=like.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        total = total.double()
        torch.distributed.all_reduce(total)
    return float(total.sqrt())
