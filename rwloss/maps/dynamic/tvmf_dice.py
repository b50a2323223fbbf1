"""t-vMF Dice loss: Dice as a cosine, made narrower."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class TvMFDice(LossTerm):
    """(1 - f)² with f = (1 + c) / (1 + kappa (1 - c)) - 1 and c the cosine of p and y.

    The mean over images and classes. c = Σ p y / sqrt(Σ p² Σ y). kappa: how narrow; 0 is the cosine
    itself. The paper's adaptive form takes 32 times the class's validation Dice.

    An absent class has no direction: its loss is 0. c does not change when all p of a class shrink
    alike, so that a class that has died is pulled as much as a living one; and where p is above the
    others of its class it is pushed down, which violates the stability principle with two classes
    too.
    """

    kappa: NonNegativeFloat = 32.0

    name = "tvmf_dice"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=False,
        pull_exponent=0.0,
        limits=(0.0, 4.0),
    )
    citation = "Kato & Hotta, Adaptive t-vMF Dice loss, CBM 2024, arXiv 2207.07842"
    official_code = "https://github.com/usagisukisuki/Adaptive_t-vMF_Dice_loss"

    def loss(self, prediction: Prediction) -> Tensor:
        """The squared distance of f to 1. (b c)."""
        both, squares, true = prediction.overlap(power=2)
        cosine = both / ((squares + 1e-20).sqrt() * true.clamp_min(1.0).sqrt())
        apart = (1 - cosine).clamp_min(0.0)
        # 1 - f without its rounding near c = 1.
        lost = apart * (1 + 2 * self.kappa) / (1 + self.kappa * apart)
        return lost**2 * (true > 0)
