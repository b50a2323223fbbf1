"""Soft clDice: Dice between skeletons and masks, for tubes that must stay connected."""

from __future__ import annotations

from functools import partial, reduce
from typing import TYPE_CHECKING, Literal

import einops

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat, NonNegativeInt, PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class SoftClDice(LossTerm):
    """1 - 2 P R / (P + R), the mean over images and classes.

    P = (Σ S(p) y + s) / (Σ S(p) + s) is the share of the predicted skeleton that lies in the truth,
    R = (Σ S(y) p + s) / (Σ S(y) + s) that of the true skeleton that lies in the prediction; S(.) is
    the soft skeleton (Algorithm 1), made of minima and maxima over neighbors.

    iterations: of the skeleton, at least half the thickness of the thickest tube in voxels. smooth:
    s, added to each sum. classes: "apart" takes each class for itself; "together" sums over the
    classes, or overlapping masks, of an image, as the published code and MONAI do. harmonic_smooth:
    added to P + R (MONAI: 1e-4).

    A background is no tube: use include_background=False. In voxels, whatever the spacing.
    """

    iterations: NonNegativeInt = 3
    smooth: PositiveFloat = 1.0
    classes: Literal["apart", "together"] = "apart"
    harmonic_smooth: NonNegativeFloat = 0.0

    name = "soft_cl_dice"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=False,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
        ingredient="skeleton",
    )
    citation = "Shit et al., clDice, CVPR 2021, arXiv 2003.07311 (eq. 3, Algorithm 1 and 2)"
    official_code = "https://github.com/jocpae/clDice"
    used_by = ("MONAI SoftclDiceLoss", "MIST cl_dice")

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the soft clDice. (b c)."""
        probs, truth = prediction.probs, prediction.one_hot
        of_probs, of_truth = (soft_skeleton(each, self.iterations) for each in (probs, truth))
        inside, predicted, found, true = (
            self._joined(prediction.pooled_sum(values), prediction.masks)
            for values in (of_probs * truth, of_probs, of_truth * probs, of_truth)
        )
        precision = (inside + self.smooth) / (predicted + self.smooth)
        recall = (found + self.smooth) / (true + self.smooth)
        return 1 - 2 * precision * recall / (precision + recall + self.harmonic_smooth)

    def _joined(self, sums: Tensor, masks: int) -> Tensor:
        """Sums of each class, or the sums over those of an image for each. (b c) -> (b c)."""
        if self.classes == "apart":
            return sums
        whole = einops.reduce(sums, "(b m) c -> b", "sum", m=masks)
        return einops.repeat(whole, "b -> (b m) c", m=masks, c=sums.shape[1])


def soft_skeleton(values: Tensor, iterations: int) -> Tensor:
    """Soft skeleton of values of 0 to 1: what openings remove, more with each erosion. (b c *s).

    Outside the image there is nothing: neither minimum nor maximum looks there.
    """
    skeleton = (values - _opened(values)).relu()
    for _ in range(iterations):
        values = _eroded(values)
        more = (values - _opened(values)).relu()
        skeleton = skeleton + (more - skeleton * more).relu()
    return skeleton


def _opened(values: Tensor) -> Tensor:
    """Maximum of the eroded values over a voxel and its face, edge and corner neighbors."""
    return reduce(_largest_along, range(values.ndim - 2), _eroded(values))


def _eroded(values: Tensor) -> Tensor:
    """Minimum over a voxel and its face neighbors."""
    import torch

    largest = map(partial(_largest_along, -values), range(values.ndim - 2))
    return -reduce(torch.maximum, largest)


def _largest_along(values: Tensor, axis: int) -> Tensor:
    """Maximum over a voxel and its two neighbors along a spatial axis."""
    from torch.nn import functional

    if not values.numel():
        return values
    pool = functional.max_pool2d if values.ndim == 4 else functional.max_pool3d
    around = [int(each == axis) for each in range(values.ndim - 2)]
    return pool(values, [1 + 2 * each for each in around], stride=1, padding=around)
