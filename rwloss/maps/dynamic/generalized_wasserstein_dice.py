"""Generalized Wasserstein Dice: Dice in which some classes are farther apart than others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import einsum, repeat

from rwloss.arrays import constants
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.maps.static.class_cost import Costs, cost_table

if TYPE_CHECKING:
    from torch import Tensor


class GeneralizedWassersteinDice(LossTerm):
    """Σ W / (2 Σ' (1 - W) + Σ W + s) with W = Σ_k M[t, k] p_k; the mean over images.

    Σ' is over the voxels whose class t is not the background. costs: M, as in `class_cost`, divided
    by its largest number. smooth: s, which keeps the quotient finite.

    With include_background=False neither its voxels nor its costs count.
    """

    costs: Costs = "ordinal"
    smooth: PositiveFloat = 1e-5

    name = "generalized_wasserstein_dice"
    tags = MapTags(
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = (
        "Fidon et al., Generalised Wasserstein Dice Score, 2017, arXiv 1707.00478 (eq. 6, 10 to 12)"
    )
    official_code = "https://github.com/LucasFidon/GeneralizedWassersteinDiceLoss"
    used_by = ("MONAI GeneralizedWassersteinDiceLoss",)

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the score of each image, the same for each of its classes. (b c)."""
        channels = prediction.one_hot.shape[1]
        first = 0 if prediction.has_background else 1
        table = cost_table(self.name, self.costs, channels + first)
        most = max(map(max, table)) or 1.0
        inner = [cost / most for row in table[first:] for cost in row[first:]]
        costs = constants(inner, prediction.probs)
        costs = costs.reshape(channels, channels)
        far = einsum(prediction.one_hot, costs, prediction.probs, "b t ..., t k, b k ... -> b ...")
        foreground = prediction.one_hot[:, 1 - first :].sum(dim=1)
        wrong = prediction.pooled_sum(far[:, None])
        right = prediction.pooled_sum((foreground * (1 - far))[:, None])
        return repeat(wrong / (2 * right + wrong + self.smooth), "b 1 -> b c", c=channels)
