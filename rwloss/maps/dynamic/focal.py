"""Focal loss: cross-entropy with less weight on voxels that are already right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Focal(LossTerm):
    """-(1 - p_t)^gamma log p_t, the mean over voxels that count.

    gamma: how fast a voxel fades as it becomes right; 0 is cross-entropy, 2 the paper's choice.
    mean_over: "voxels", or "classes" for the mean over voxels and classes, which is K times smaller
    (MONAI's with use_softmax=True). renormalize: without the background, p_t is the share among the
    other classes, as by a softmax without the background's logit (MONAI's with
    include_background=False). weight: the paper's alpha_t, one number per class (of masks: outside
    and inside); the mean is not divided by them.

    The map is 0 at the wrong classes and at most 0 at the true one: no violating voxel, unless
    renormalized.
    """

    gamma: NonNegativeFloat = 2.0
    mean_over: Literal["voxels", "classes"] = "voxels"
    renormalize: bool = False
    weight: tuple[NonNegativeFloat, ...] | None = None

    name = "focal"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        pull_exponent=0.0,
        limits=(0.0, None),
    )
    takes_label_sets = True
    takes_soft_labels = True
    citation = (
        "Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002 (eq. 4)"
    )
    official_code = "https://github.com/facebookresearch/Detectron"
    used_by = ("MONAI FocalLoss", "smp FocalLoss", "SegLossOdyssey FocalLoss")

    @property
    def is_stable(self) -> bool:
        """Not where the probabilities are renormalized: the wrong classes then differ."""
        return super().is_stable and not self.renormalize

    def loss(self, prediction: Prediction) -> Tensor:
        """-(1 - p_t)^gamma log p_t, its mean over voxels that count. (b c)."""
        if self.renormalize:
            if prediction.log_probs.shape[1] == 1:
                raise RWLossError(f"{self} has one class left, whose share is always 1")
            prediction = prediction.with_log_probs(prediction.log_probs.log_softmax(dim=1))
        parts = prediction.one_hot.shape[1] if self.mean_over == "classes" else 1
        return prediction.mean_expected(
            lambda log_p: -(one_minus(log_p) ** self.gamma) * log_p / parts, self.weight
        )


def one_minus(log_p: Tensor) -> Tensor:
    """1 - p from log p, for a power of it: exact for p near 1, and at least 1e-12.

    The power has an infinite derivative at 0 if it is below 1. Where p is 0 a loss with log p is
    infinite, and its gradient that of log p.
    """
    return (-log_p.clamp_min(-200.0).expm1()).clamp_min(1e-12)
