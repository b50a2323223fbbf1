"""The loss of an nnU-Net plan: what its network and its data loader give, in our terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.losses import RegionWiseLoss
from rwloss.maps.expression import Expression
from rwloss.maps.parser import parse
from rwloss.regions import IGNORED


class PlanLoss(nn.Module):
    """`rwloss.RegionWiseLoss` behind the two arguments that nnU-Net gives a loss.

    expression: an expression or its text.
    spacing_mm: the plan's, a number for each axis of a patch, in the plan's order of axes.
    regions: whether the network predicts regions, which may overlap: the target then has a mask
    for each of its channels, and behind them, with an ignore label, one of what to ignore.
    ignore_label: the label of voxels that belong to no class: they end a region, cost nothing and
    do not count in the mean.
    head_weights: one for each output, high to low resolution; see `head_weights`.

    >>> loss = PlanLoss("rectified", spacing_mm=(1.0, 0.5))
    >>> labels = torch.tensor([[[[0, 0, 1], [0, 1, 1]]]], dtype=torch.int16)
    >>> loss(torch.zeros(1, 2, 2, 3), labels).ndim
    0
    """

    def __init__(
        self,
        expression: Expression | str,
        *,
        spacing_mm: Sequence[float],
        regions: bool = False,
        ignore_label: int | None = None,
        head_weights: Sequence[float] | None = None,
    ) -> None:
        """Raises RWLossError for an expression that can't be read; the class documents the rest."""
        super().__init__()
        self.expression = parse(expression) if isinstance(expression, str) else expression
        self.region_wise = RegionWiseLoss(
            self.expression,
            spacing_mm=tuple(float(mm) for mm in spacing_mm),
            activation="sigmoid" if regions else "softmax",
            ignore_index=IGNORED if regions and ignore_label is not None else ignore_label,
            deep_supervision_weights=head_weights,
        )
        self.has_ignore_mask = regions and ignore_label is not None

    def set_epoch(self, epoch: int, total: int | None = None) -> None:
        """Tell schedules the epoch, 0 for the first, and how many there will be."""
        self.region_wise.set_epoch(epoch, total)

    def forward(
        self, net_output: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The loss of a batch. net_output (b k *s), target (b 1 *s) or masks (b k *s) -> ().

        Lists of both, high to low resolution, with deep supervision. Computed in float32, under
        autocast too. Raises RWLossError where shapes or labels do not fit.
        """
        if self.has_ignore_mask:
            target = (
                [_without_ignored(masks) for masks in target]
                if isinstance(target, (list, tuple))
                else _without_ignored(target)  # type: ignore[arg-type]
            )
        value: Tensor = self.region_wise(net_output, target)
        return value


def head_weights(heads: int, least: float = 0.0) -> list[float]:
    """Weights of deep supervision as nnU-Net has them, high to low resolution, with a sum of 1.

    1/2^i, and `least` for the last output, of which nnU-Net makes no use.

    >>> head_weights(3)
    [0.6666666666666666, 0.3333333333333333, 0.0]
    """
    if heads < 1:
        raise RWLossError(f"expected 1 output or more, got {heads}")
    weights = [0.5**i for i in range(heads)]
    if heads > 1:  # a single output is the first one too
        weights[-1] = least
    total = sum(weights)
    return [weight / total for weight in weights]


def _without_ignored(masks: Tensor) -> Tensor:
    """Masks (b k+1 *s), the last of what to ignore -> (b k *s), -1 where ignored."""
    ignored = masks[:, -1:] != 0
    return masks[:, :-1].to(torch.int8).masked_fill(ignored, IGNORED)
