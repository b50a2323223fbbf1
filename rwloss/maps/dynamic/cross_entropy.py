"""Cross-entropy: as a map, -1 / p at the true class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from einops import rearrange, repeat

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.maps.loss_term import LossTerm, Prediction, sum_by_group

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(LossTerm):
    """-log p_t, the mean over voxels that count.

    masks: with overlapping masks, "apart" takes each as a problem of its own, inside and outside;
    "together" takes the masks of an image as classes, -Σ_m y_m log s_m with s the softmax of their
    logits (MONAI's DiceCELoss with sigmoid=True). One mask is always apart. weight: one number per
    class (of masks: outside and inside); the mean is then that of w_t (-log p_t), divided by the
    mean of w_t, as in torch. With soft labels -Σ_k y_k log p_k and the mean of Σ_k w_k y_k; torch
    divides by no weights then.

    Its map is -K / p_t at the true class and 0 at the others: stable at every voxel. It is computed
    from the log-softmax, so it stays finite where p_t underflows. A map of `Regions.from_masks`
    takes masks apart in any case.
    """

    masks: Literal["apart", "together"] = "apart"
    weight: tuple[NonNegativeFloat, ...] | None = None

    name = "cross_entropy"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        pull_exponent=0.0,
        limits=(0.0, None),
    )
    takes_label_sets = True
    takes_soft_labels = True
    citation = "Negative log-likelihood; as torch.nn.functional.cross_entropy"
    used_by = (
        "torch CrossEntropyLoss",
        "nnU-Net DC_and_CE_loss",
        "MONAI DiceCELoss",
        "MIST dice_cross_entropy",
        "smp SoftCrossEntropyLoss",
        "SegLossOdyssey CrossentropyND",
    )

    def loss(self, prediction: Prediction) -> Tensor:
        """-log p_t, its mean over voxels that count. (b c), or ()."""
        if self.masks == "apart" or prediction.masks == 1:
            loss = prediction.mean_expected(lambda log_p: -log_p, self.weight)
            return loss if self.weight is None else loss * self._scale(prediction, self.weight)
        import torch

        if self.weight is not None:
            raise RWLossError(f"{self}: weight is one number per class, which masks together lack")
        if not prediction.has_background:
            raise RWLossError(
                f"{self} needs the outside of each mask too, to know their logits: drop "
                "include_background=False"
            )
        # The softmax of [0, x] keeps the logit of a mask as this difference.
        outside, inside = prediction.log_probs.unbind(dim=1)
        logits = rearrange(inside - outside, "(b m) ... -> b m ...", m=prediction.masks)
        costs = -rearrange(logits.log_softmax(dim=1), "b m ... -> (b m) ...")
        truth = prediction.one_hot[:, 1]
        costs = truth * costs.masked_fill(truth == 0, 0.0)
        # The mean is over voxels of images, not of masks.
        by_class = torch.stack([torch.zeros_like(costs), prediction.masks * costs], dim=1)
        return prediction.mean_by_class(by_class)

    def _scale(self, prediction: Prediction, weight: Sequence[float]) -> Tensor:
        """1 by the mean weight of the true class over the voxels that count. (), or (b 1)."""
        if not prediction.has_background:
            raise RWLossError(
                f"{self} needs the background, whose weight may be 0: drop include_background=False"
            )
        groups = prediction.groups
        counted = sum_by_group(prediction.counted, groups)
        weights = sum_by_group(prediction.true_weights(weight), groups)
        scale = counted / weights.clamp_min(1e-30)
        if groups == 1:
            return scale
        return repeat(scale, "g -> (g b) 1", b=len(prediction.one_hot) // groups)
