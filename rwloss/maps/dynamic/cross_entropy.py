"""Cross-entropy: as a map, -1 / p at the true class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from einops import rearrange

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(LossTerm):
    """-log p_t, the mean over voxels that count.

    masks: with overlapping masks, "apart" takes each as a problem of its own, inside and outside;
    "together" takes the masks of an image as classes, -Σ_m y_m log s_m with s the softmax of their
    logits (MONAI's DiceCELoss with sigmoid=True). One mask is always apart.

    Its map is -K / p_t at the true class and 0 at the others: stable at every voxel. It is computed
    from the log-softmax, so it stays finite where p_t underflows. A map of `Regions.from_masks`
    takes masks apart in any case.
    """

    masks: Literal["apart", "together"] = "apart"

    name = "cross_entropy"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
    )
    citation = "Negative log-likelihood; as torch.nn.functional.cross_entropy"

    def loss(self, prediction: Prediction) -> Tensor:
        """-log p_t, its mean over voxels that count. (b c)."""
        if self.masks == "apart" or prediction.masks == 1:
            return prediction.mean_by_true_class(-prediction.true_log_probs)
        if not prediction.has_background:
            raise RWLossError(
                f"{self} needs the outside of each mask too, to know their logits: drop "
                "include_background=False"
            )
        # The softmax of [0, x] keeps the logit of a mask as this difference.
        outside, inside = prediction.log_probs.unbind(dim=1)
        logits = rearrange(inside - outside, "(b m) ... -> b m ...", m=prediction.masks)
        costs = -rearrange(logits.log_softmax(dim=1), "b m ... -> (b m) ...")
        inside_costs = costs.masked_fill(prediction.one_hot[:, 1] == 0, 0.0)
        # The mean is over voxels of images, not of masks.
        return prediction.mean_by_true_class(prediction.masks * inside_costs)
