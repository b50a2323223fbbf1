"""Tversky loss and its focal form: Dice with two weights for false positives and negatives."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat, PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Tversky(LossTerm):
    """1 - (TP + s) / (TP + alpha FP + beta FN + s), the mean over images and classes.

    TP = Σ p y, FP = Σ p (1 - y), FN = Σ (1 - p) y. alpha: weight of false positives. beta: weight
    of false negatives; 0.3 and 0.7 favor recall, 0.5 and 0.5 are Dice. smooth: s, which keeps the
    quotient finite. smooth_nr: another number for the numerator.
    """

    alpha: NonNegativeFloat = 0.3
    beta: NonNegativeFloat = 0.7
    smooth: PositiveFloat = 1e-5
    smooth_nr: NonNegativeFloat | None = field(default=None, kw_only=True)

    takes_overlap = True
    name = "tversky"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = "Salehi et al., MLMI 2017, arXiv 1706.05721 (eq. 3)"
    used_by: ClassVar[tuple[str, ...]] = (
        "MONAI TverskyLoss",
        "smp TverskyLoss",
        "SegLossOdyssey TverskyLoss",
    )
    takes_soft_labels = True
    takes_label_sets = "marginal"

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the Tversky index. (b c)."""
        both, predicted, true = prediction.overlap()
        price = self.alpha * (predicted - both) + self.beta * (true - both)
        smooth_nr = self.smooth if self.smooth_nr is None else self.smooth_nr
        return 1 - (both + smooth_nr) / (both + price + self.smooth)


class FocalTversky(Tversky):
    """(1 - Tversky index)^(1 / gamma), the mean over images and classes.

    gamma: 4/3 is the paper's choice. Above 1 the gradient grows as a class becomes right, without
    limit in the formula (here 1 - index is at least 1e-7, with no gradient below); below 1 it
    fades.

    The rest is as in `tversky`; the paper swaps the names of the two weights.
    """

    gamma: PositiveFloat = 4 / 3

    name = "focal_tversky"
    citation = "Abraham & Khan, ISBI 2019, arXiv 1810.07842 (eq. 4)"
    official_code = "https://github.com/nabsabraham/focal-tversky-unet"
    used_by = ("smp TverskyLoss", "SegLossOdyssey FocalTversky_loss")

    def loss(self, prediction: Prediction) -> Tensor:
        """(1 - Tversky index)^(1 / gamma). (b c)."""
        # The derivative of a root is infinite at 0, the least loss.
        return super().loss(prediction).clamp_min(1e-7) ** (1 / self.gamma)
