"""Losses for the outputs of nnU-Net's network and the targets of its data loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.integrations.masks import masks_with_ignored
from rwloss.integrations.nnunet.distances import WholeRegions
from rwloss.losses import RegionWiseLoss
from rwloss.maps.expression import Expression
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap


class PlanLoss(RegionWiseLoss):
    """`rwloss.RegionWiseLoss` with the two arguments that nnU-Net passes to a loss.

    expression: an expression or its text.
    spacing_mm: the plan's, one number per axis of a patch, in the plan's order of axes.
    regions: whether the network predicts regions, which may overlap. The target then has one mask
    per channel of the output and, with an ignore label, a last mask of the voxels to ignore.
    ignore_label: the label of voxels that belong to no class: they end a region, have no cost and
    do not count in the mean.
    head_weights: one per output, from high to low resolution; None without deep supervision.
    batch_dice: the plan's: Dice and the other overlap losses cover the whole batch.

    distances: of the whole volumes of the next batch, `far` and `peaks` of `WholeRegions`; None if
    each patch has the map of its own labels.

    >>> import torch
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
        batch_dice: bool = False,
    ) -> None:
        """Raises RWLossError for an expression that can't be parsed; see the class."""
        self.distances: tuple[Tensor, Tensor] | None = None
        self.has_ignore_mask = regions and ignore_label is not None
        super().__init__(
            expression,
            spacing_mm=tuple(float(mm) for mm in spacing_mm),
            activation="sigmoid" if regions else "softmax",
            ignore_index=IGNORED if self.has_ignore_mask else ignore_label,
            deep_supervision_weights=head_weights,
            batch=batch_dice,
        )
        if self.uses_image:
            raise RWLossError(
                f"{self.expression} uses the image, which nnU-Net does not pass to its loss: train "
                "with `rwloss train`, or take a map of the labels alone"
            )

    def forward(self, net_output: Any, target: Any) -> Tensor:  # type: ignore[override]
        """The loss of a batch. net_output (b k *s), target (b 1 *s) or masks (b k *s) -> ().

        Lists of both, from high to low resolution, with deep supervision. Computed in float32, also
        under autocast. Raises RWLossError if shapes or labels do not fit.
        """
        if self.has_ignore_mask:
            many = isinstance(target, (list, tuple))
            all_masks = target if many else [target]  # (b k+1 *s), the last one of what to ignore
            kept = [masks_with_ignored(x, 1, x.shape[1] - 1)[:, :-1] for x in all_masks]
            target = kept if many else kept[0]
        return super().forward(net_output, target, self._whole_map(target))

    @torch.no_grad()
    def _whole_map(self, target: Any) -> RWMap | None:
        """The map of the static terms from the distances of whole volumes, if there are any."""
        if self.distances is None or self.expression is None:
            return None
        labels = (target[0] if isinstance(target, (list, tuple)) else target)[:, 0]
        far, peaks = self.distances
        static = self.expression.static_part
        assert static is not None, "check_follows"
        patch = Regions(labels, far.shape[1], self.spacing_mm, self.ignore_index)
        rwmap: RWMap = static(WholeRegions.of(patch, far, peaks))
        return rwmap


class AddedLoss(nn.Module):
    """A loss of nnU-Net plus a `PlanLoss`, whose weights are those of its expression.

    own: called with nnU-Net's outputs and targets, lists with deep supervision. added:
    the `PlanLoss`.

    >>> import torch
    >>> loss = AddedLoss(torch.nn.CrossEntropyLoss(), PlanLoss("0 * boundary", spacing_mm=(1, 1)))
    >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    >>> bool(loss(logits, labels) == loss.own(logits, labels))
    True
    """

    def __init__(self, own: nn.Module, added: PlanLoss) -> None:
        """Keep both; see the class."""
        super().__init__()
        self.own, self.added = own, added

    def set_epoch(self, epoch: int, total: int | None = None) -> None:
        """Set the epoch of the expression's schedules."""
        self.added.set_epoch(epoch, total)

    def forward(self, net_output: Any, target: Any) -> Tensor:
        """The sum of both losses. Arguments as for `PlanLoss`. ()."""
        own: Tensor = self.own(net_output, target)
        added: Tensor = self.added(net_output, target)
        return own + added
