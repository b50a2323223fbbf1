"""Generalized surface loss: mistakes weighed by their squared distance, as a share of the most."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rwloss.maps.dynamic.hausdorff_dt import HausdorffDT

if TYPE_CHECKING:
    from torch import Tensor

    from rwloss.maps.loss_term import Prediction


class GeneralizedSurface(HausdorffDT):
    """1 - Σ d^alpha (1 - y - p)² / Σ d^alpha, the mean over images and classes; from 0 to 1.

    d is the distance in mm of each voxel to the boundary of the true class, inside and outside; 1
    everywhere where the class is absent or fills the image. alpha: power of the distance, 2 in the
    paper.

    The paper's class weights are left out, as in its code. The pull on a dead class fades with p²,
    faster than that of a fixed map: use it together with another term, as the paper does.
    """

    name = "generalized_surface"
    citation = "Celaya et al., A Generalized Surface Loss, 2023, arXiv 2302.03868; as in MIST"
    tags = replace(HausdorffDT.tags, pull_exponent=2.0, limits=(0.0, 1.0), ingredient="distance")
    official_code = "https://github.com/aecelaya/gen-surf-loss"
    used_by = ("MIST generalized_surface",)

    @property
    def unit(self) -> str:
        """Of a ratio: none."""
        return "unitless"

    def loss(self, prediction: Prediction) -> Tensor:
        """The weighed share of mistakes. (b c)."""
        truth = prediction.one_hot
        far = self._power(truth > 0.5, prediction.spacings_mm)
        nowhere = far.flatten(2).sum(dim=2) == 0  # absent, or without an outside
        far = far.masked_fill(nowhere.reshape(*nowhere.shape, *[1] * (far.ndim - 2)), 1.0)
        wrong = (truth - prediction.probs).abs()  # 1 - (1 - wrong)² without its rounding
        most = prediction.pooled_sum(far * prediction.counted)
        found = prediction.pooled_sum(far * wrong * (2 - wrong))
        return found / most.where(most > 0, 1.0)
