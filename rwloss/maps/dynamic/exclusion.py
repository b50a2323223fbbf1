"""Exclusion loss: a cost for each class that a voxel is known not to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Exclusion(LossTerm):
    """Σ_k e_k log (p_k + 1), the mean over voxels that count; e_k is 1 where k is not allowed.

    Without label sets every class but the true one is excluded. With `RegionWiseLoss(label_sets=)`
    a set's classes are all allowed at its voxels. The paper's term for classes that are known not
    to be there, beside the marginal cross-entropy, which is `cross_entropy` with label sets.
    """

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
        "2007.03868 (exclusion cross-entropy with epsilon = 1)"
    )
    takes_label_sets: ClassVar[bool] = True
    takes_soft_labels = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Σ_k e_k log (p_k + 1), its mean over voxels that count. (b c)."""
        costs = prediction.probs.log1p() * (prediction.counted - prediction.allowed)
        return prediction.mean_true(costs)
