"""Poly-1 loss: cross-entropy or focal loss with another first coefficient of its series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rwloss.maps.dynamic.focal import one_minus
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import Limit, NonNegativeFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Poly(LossTerm):
    """(1 - p_t)^gamma (epsilon (1 - p_t) - log p_t), the mean over voxels that count.

    gamma: 0 is Poly-1 cross-entropy, above 0 Poly-1 focal loss. epsilon: what is added to the first
    coefficient of the series in 1 - p_t, at least -1: below, voxels that are nearly right would be
    pushed down.

    Stable at every voxel.
    """

    gamma: NonNegativeFloat = 0.0
    epsilon: Annotated[float, Limit(ge=-1)] = 1.0

    name = "poly"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        pull_exponent=0.0,
        limits=(0.0, None),
    )
    citation = "Leng et al., PolyLoss, ICLR 2022, arXiv 2204.12511 (Poly-1)"
    takes_soft_labels = True
    takes_label_sets = True

    def loss(self, prediction: Prediction) -> Tensor:
        """(1 - p_t)^gamma (epsilon (1 - p_t) - log p_t), its mean over voxels that count. (b c)."""

        def cost(log_p: Tensor) -> Tensor:
            wrong = one_minus(log_p)
            return wrong**self.gamma * (self.epsilon * wrong - log_p)

        return prediction.mean_expected(cost)
