"""Generalised Dice loss: classes weighted by the inverse square of their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class GeneralizedDice(LossTerm):
    """1 - 2 Σ_k w_k Σ p y / Σ_k w_k Σ (p + y) with w_k = 1 / (Σ y_k)², the mean over images.

    An absent class has weight 0 (its inverse square is infinite), so this term alone does not
    punish false positives of an absent class.
    """

    name = "generalized_dice"
    tags = MapTags(unit="unitless", commutes_with=frozenset({"flip", "rot90"}))
    citation = (
        "Sudre et al., DLMIA 2017, arXiv 1707.03237; as in Kervadec et al., MIDL 2019, "
        "arXiv 1812.07032 (eq. 1)"
    )

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the generalised Dice of each image, the same for each of its classes. (b c)."""
        both, predicted, true = prediction.overlap()
        # Only ratios of weights count: relative to the largest class, squares stay in range.
        size = true / true.amax(dim=1, keepdim=True).clamp_min(1.0)
        weight = (size > 0) / size.clamp_min(1e-12) ** 2
        above = (weight * both).sum(dim=1)
        below = (weight * (predicted + true)).sum(dim=1)
        # An image in which no voxel counts has a denominator of 0: its loss is 0.
        some = below > 0
        ratio = above / below.where(some, below.new_ones(()))
        return ((1 - 2 * ratio) * some)[:, None].expand_as(both)
