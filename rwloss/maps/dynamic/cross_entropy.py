"""Cross-entropy: as a map, -1 / p at the true class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class CrossEntropy(LossTerm):
    """-log p_t, the mean over voxels that count.

    Its map is -K / p_t at the true class and 0 at the others: stable at every voxel. It is computed
    from the log-softmax, so it stays finite where p_t underflows.
    """

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
        return prediction.mean_by_true_class(-prediction.true_log_probs)
