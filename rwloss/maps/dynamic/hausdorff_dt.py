"""Hausdorff distance loss by distance transforms of the truth and of the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from pydantic import PositiveFloat

from rwloss import distance
from rwloss.arrays import eager, plain_call
from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class HausdorffDT(LossTerm):
    """(p - y)² (d_p^alpha + d_y^alpha), the mean over voxels that count, images and classes.

    d_y is the distance in mm of each voxel to the boundary of the true class, inside and outside;
    d_p that to the boundary of {p > 0.5}. Both are constants for the gradient; d is 0 where a mask
    is empty or full. alpha: 2 is the paper's choice.
    """

    alpha: PositiveFloat = 2.0

    name = "hausdorff_dt"
    tags = MapTags(commutes_with=frozenset({"flip", "rot90"}))
    citation = "Karimi & Salcudean, IEEE TMI 2020, arXiv 1904.10030 (eq. 8, two-sided)"

    @property
    def unit(self) -> str:
        """mm to the power of alpha."""
        return f"mm^{self.alpha:g}"

    def loss(self, prediction: Prediction) -> Tensor:
        """(p - y)² (d_p^alpha + d_y^alpha), its mean over voxels that count. (b c)."""
        probs, truth = prediction.probs, prediction.one_hot
        spacings = prediction.spacings_mm
        # The larger of the two terms is (far)^alpha: float32 holds it for any image.
        far = self._power(truth > 0.5, spacings) + self._power(probs.detach() > 0.5, spacings)
        return prediction.mean_space((probs - truth) ** 2 * far)

    @eager  # no compiled graph can hold a distance transform
    def _power(self, masks: Tensor, spacings: tuple[tuple[float, ...], ...]) -> Tensor:
        """Distance to each mask's boundary, to the power of alpha. masks (b c *s) -> (b c *s)."""
        rows = [row for row in spacings for _ in range(masks.shape[1])]
        far: Tensor = plain_call(
            lambda flat: abs(distance.signed_distance_mm(flat, rows)),
            rearrange(masks, "b c ... -> (b c) ..."),
        )
        return rearrange(far**self.alpha, "(b c) ... -> b c ...", c=masks.shape[1])
