"""One-sided Hausdorff distance loss: distances to the truth alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rwloss.maps.dynamic.hausdorff_dt import HausdorffDT

if TYPE_CHECKING:
    from torch import Tensor

    from rwloss.maps.loss_term import Prediction


class HausdorffOneSided(HausdorffDT):
    """(p - y)² d_y^alpha, the mean over voxels that count, images and classes.

    `hausdorff_dt` without the distances to the prediction: they need no new transform at each step.
    d_y is 0 where a class is absent or fills the image. alpha: power of the distance, 2 in the
    paper.
    """

    name = "hausdorff_one_sided"
    citation = (
        "Karimi & Salcudean, IEEE TMI 2020, arXiv 1904.10030 (eq. 8, the truth's side), as in MIST"
    )
    tags = replace(HausdorffDT.tags, limits=(0.0, None), ingredient="distance")
    used_by = ("MIST hausdorff_one_sided",)

    def loss(self, prediction: Prediction) -> Tensor:
        """(p - y)² d_y^alpha, its mean over voxels that count. (b c)."""
        truth = prediction.one_hot
        far = self._power(truth > 0.5, prediction.spacings_mm)
        return prediction.mean_space((prediction.probs - truth) ** 2 * far)
