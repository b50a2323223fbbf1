"""Soft Dice loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Dice(LossTerm):
    """1 - (2 Σ p y + s) / (Σ p + Σ y + s), the mean over images and classes.

    smooth: s, added to numerator and denominator, so that an absent class that is not predicted
    has loss 0. The map gives the wrong classes different values: with three classes or more it
    violates the stability principle, which does not harm training.
    """

    smooth: PositiveFloat = 1e-5

    name = "dice"
    tags = MapTags(unit="unitless", commutes_with=frozenset({"flip", "rot90"}), uses_spacing=False)
    citation = "Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797 (Σ p, not Σ p²)"

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the soft Dice. (b c)."""
        both, predicted, true = prediction.overlap()
        total = predicted + true
        return total.sub(both, alpha=2) / (total + self.smooth)
