"""Unified focal loss and its two parts: the background fades, the other classes do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from rwloss.maps.dynamic.focal import one_minus
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import Limit, NonNegativeFloat, PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor

Share: TypeAlias = Annotated[float, Limit(ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, Limit(ge=0, lt=1)]
SMOOTH = 1e-7  # of the published code
_CITATION = "Yeung et al., Unified Focal loss, CMIG 2022, arXiv 2102.04525"


class AsymmetricFocal(LossTerm):
    """-delta log p_t, at the background -(1 - delta) (1 - p_t)^gamma log p_t; the mean over voxels.

    delta: share of the classes other than the background. gamma: how fast voxels of the background
    fade as they become right.

    The published code has two classes; here every class but 0 is rare. Stable at every voxel.
    """

    delta: Share = 0.7
    gamma: NonNegativeFloat = 2.0

    name = "asymmetric_focal"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        pull_exponent=0.0,
        limits=(0.0, None),
    )
    citation = f"{_CITATION} (modified asymmetric Focal loss)"
    official_code = "https://github.com/mlyg/unified-focal-loss"

    def loss(self, prediction: Prediction) -> Tensor:
        """Its mean over voxels that count. (b c)."""
        return _by_voxel(prediction, self.delta, self.gamma)


class AsymmetricFocalTversky(LossTerm):
    """(1 - T)^(1 - gamma), of the background 1 - T; the mean over images and classes.

    T = (TP + s) / (TP + delta FN + (1 - delta) FP + s) is the Tversky index. delta: weight of false
    negatives. gamma: how much a class that is not the background is enhanced as it becomes right.
    smooth: s, which keeps the quotient finite.

    The derivative of the power has no limit at T = 1; here (1 - T) (1 - T + 1e-7)^-gamma.
    """

    delta: Share = 0.7
    gamma: BelowOne = 0.75
    smooth: PositiveFloat = SMOOTH

    takes_overlap = True
    name = "asymmetric_focal_tversky"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = f"{_CITATION} (modified asymmetric Focal Tversky loss)"
    official_code = "https://github.com/mlyg/unified-focal-loss"

    def loss(self, prediction: Prediction) -> Tensor:
        """The power of 1 minus the Tversky index. (b c)."""
        return _by_class(prediction, self.delta, self.gamma, self.smooth)


class UnifiedFocal(LossTerm):
    """weight * asymmetric_focal_tversky + (1 - weight) * asymmetric_focal, of one delta and gamma.

    weight: lambda of the paper. delta, gamma: as in both parts.
    """

    weight: Share = 0.5
    delta: Share = 0.6
    gamma: BelowOne = 0.5

    takes_overlap = True
    name = "unified_focal"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=0.0,
        limits=(0.0, None),
    )
    citation = f"{_CITATION} (asymmetric Unified Focal loss)"
    official_code = "https://github.com/mlyg/unified-focal-loss"
    used_by = ("MONAI AsymmetricUnifiedFocalLoss",)

    def loss(self, prediction: Prediction) -> Tensor:
        """The weighted sum of both. (b c)."""
        by_class = _by_class(prediction, self.delta, self.gamma, SMOOTH)
        by_voxel = _by_voxel(prediction, self.delta, self.gamma)
        return self.weight * by_class + (1 - self.weight) * by_voxel


def _by_voxel(prediction: Prediction, delta: float, gamma: float) -> Tensor:
    """Asymmetric focal loss, its mean over voxels that count. (b c), or ()."""
    log_p = prediction.true_log_probs
    cost = -delta * log_p
    if prediction.has_background:
        fading = -(1 - delta) * one_minus(log_p) ** gamma * log_p
        cost = fading.where(prediction.true_class[:, 0] == 0, cost)
    return prediction.mean_by_true_class(cost)


def _by_class(prediction: Prediction, delta: float, gamma: float, smooth: float) -> Tensor:
    """Asymmetric focal Tversky loss. (b c)."""
    import torch

    both, predicted, true = prediction.overlap()
    price = delta * (true - both) + (1 - delta) * (predicted - both)
    lost = (price / (both + price + smooth)).clamp_min(0.0)
    enhanced = lost * (lost + 1e-7) ** -gamma
    if not prediction.has_background:
        return enhanced
    return torch.cat([lost[:, :1], enhanced[:, 1:]], dim=1)
