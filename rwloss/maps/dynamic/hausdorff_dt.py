"""Hausdorff distance loss by distance transforms of truth and prediction, and its logarithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from einops import rearrange, reduce, repeat

from rwloss import distance
from rwloss.arrays import eager, plain_call
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class HausdorffDT(LossTerm):
    """(p - y)² (d_p^alpha + d_y^alpha), the mean over voxels that count, images and classes.

    d_y is the distance in mm of each voxel to the boundary of the true class, inside and outside;
    d_p that to the boundary of {p > 0.5}. Both are constants for the gradient; d is 0 where a mask
    is empty or full. alpha: power of the distance, 2 in the paper.
    """

    alpha: PositiveFloat = 2.0

    name = "hausdorff_dt"
    tags = MapTags(
        commutes_with=frozenset({"flip", "rot90"}),
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, None),
    )
    citation = "Karimi & Salcudean, IEEE TMI 2020, arXiv 1904.10030 (eq. 8, two-sided)"
    used_by: ClassVar[tuple[str, ...]] = ("MONAI HausdorffDTLoss", "SegLossOdyssey HausdorffDTLoss")

    @property
    def unit(self) -> str:
        """mm to the power of alpha."""
        return f"mm^{self.alpha:g}"

    def loss(self, prediction: Prediction) -> Tensor:
        """(p - y)² (d_p^alpha + d_y^alpha), its mean over voxels that count. (b c)."""
        return prediction.mean_space(self._costs(prediction))

    def _costs(self, prediction: Prediction) -> Tensor:
        """(p - y)² (d_p^alpha + d_y^alpha). (b c *s)."""
        probs, truth = prediction.probs, prediction.one_hot
        spacings = prediction.spacings_mm
        # The larger of the two terms is (far)^alpha: float32 holds it for any image.
        far = self._power(truth > 0.5, spacings) + self._power(probs.detach() > 0.5, spacings)
        return (probs - truth) ** 2 * far

    @eager  # no compiled graph can hold a distance transform
    def _power(self, masks: Tensor, spacings: tuple[tuple[float, ...], ...]) -> Tensor:
        """Distance to each mask's boundary, to the power of alpha. masks (b c *s) -> (b c *s)."""
        rows = [row for row in spacings for _ in range(masks.shape[1])]
        far: Tensor = plain_call(
            lambda flat: abs(distance.signed_distance_mm(flat, rows)),
            rearrange(masks, "b c ... -> (b c) ..."),
        )
        return rearrange(far**self.alpha, "(b c) ... -> b c ...", c=masks.shape[1])


class LogHausdorffDT(HausdorffDT):
    """log(1 + H), H the mean of `hausdorff_dt` over the voxels and classes of an image; their mean.

    Overlapping masks of an image are in one H. With batch=True, H is that of the whole batch, as in
    MONAI's LogHausdorffDTLoss. alpha: as in `hausdorff_dt`.
    """

    name = "log_hausdorff_dt"
    citation = "log(1 + H) of Karimi & Salcudean, IEEE TMI 2020, arXiv 1904.10030 (eq. 8), as MONAI"
    used_by = ("MONAI LogHausdorffDTLoss",)

    @property
    def unit(self) -> str:
        """None that follows the spacing: it is the logarithm of 1 plus mm^alpha."""
        return ""

    def loss(self, prediction: Prediction) -> Tensor:
        """log(1 + H) of each image, the same for each of its classes. (b c)."""
        sums = prediction.pooled_sum(self._costs(prediction))
        counted = prediction.pooled_sum(prediction.counted).expand_as(sums)
        by_image, m = "(b m) c -> b", prediction.masks
        number = reduce(counted, by_image, "sum", m=m).clamp_min(1.0)
        mean: Tensor = reduce(sums, by_image, "sum", m=m) / number
        return repeat(mean.log1p(), "b -> (b m) c", m=m, c=sums.shape[1])
