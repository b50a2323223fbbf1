"""One-sided Hausdorff distance loss: distances to the truth alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.dynamic.hausdorff_dt import HausdorffDT

if TYPE_CHECKING:
    from torch import Tensor

    from rwloss.maps.loss_term import Prediction


class HausdorffOneSided(HausdorffDT):
    """(p - y)² d_y^alpha, the mean over voxels that count, images and classes.

    `hausdorff_dt` without the distances to the prediction: they need no new transform at each
    step. d_y is 0 where a class is absent or fills the image. alpha: 2 is the paper's choice.
    """

    name = "hausdorff_one_sided"
    citation = (
        "Karimi & Salcudean, IEEE TMI 2020, arXiv 1904.10030 (eq. 8, the truth's side), as in MIST"
    )

    def loss(self, prediction: Prediction) -> Tensor:
        """(p - y)² d_y^alpha, its mean over voxels that count. (b c)."""
        truth = prediction.one_hot
        far = self._power(truth > 0.5, prediction.spacings_mm)
        return prediction.mean_space((prediction.probs - truth) ** 2 * far)
