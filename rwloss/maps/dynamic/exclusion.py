"""Exclusion loss: a cost for each class that a voxel is known not to be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Exclusion(LossTerm):
    """A cost for probability at each class that a voxel is not; e_k is 1 where k is not allowed.

    Without label sets every class but the true one is excluded. With `RegionWiseLoss(label_sets=)`
    a set's classes are all allowed at its voxels. The paper's term for classes that are known not
    to be there, beside the marginal cross-entropy and Dice, which are `cross_entropy` and `dice`
    with label sets.

    measure: "cross_entropy", Σ_k e_k log (p_k + 1), the mean over voxels that count; or "dice",
    2 Σ p e / (Σ p + Σ e), the mean over images and classes. The published code uses the second,
    twice, and notes the 1 of the first.
    """

    measure: Literal["cross_entropy", "dice"] = "cross_entropy"

    name = "exclusion"
    tags = MapTags(
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = (
        "Shi et al., Marginal loss and exclusion loss, Medical Image Analysis 2021, arXiv "
        "2007.03868 (exclusion cross-entropy with epsilon = 1, and exclusion Dice)"
    )
    official_code = (
        "https://github.com/MIRACLE-Center/Partially-supervised-multi-organ-segmentation"
    )
    takes_label_sets = True
    takes_soft_labels = True

    def __post_init__(self) -> None:
        """The map of the Dice is of the whole image, and below 0 where a class is allowed."""
        super().__post_init__()
        if self.measure == "dice":
            tags = replace(self.tags, signed=True, commutes_with=frozenset({"flip", "rot90"}))
            object.__setattr__(self, "tags", tags)

    def loss(self, prediction: Prediction) -> Tensor:
        """The cost of excluded classes. (b c)."""
        from torch.nn.functional import pad

        excluded = prediction.counted - prediction.allowed
        if self.measure == "cross_entropy":
            return prediction.mean_true(prediction.probs.log1p() * excluded)
        sets, channels = len(prediction.sets), excluded.shape[1]
        probs, excluded = (each[:, : channels - sets] for each in (prediction.probs, excluded))
        both, predicted, size = map(prediction.pooled_sum, (probs * excluded, probs, excluded))
        losses = 2 * both / (predicted + size).clamp_min(1e-7)
        return pad(losses, (0, sets)) * (channels / (channels - sets))
