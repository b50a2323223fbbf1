"""Soft Dice loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat, PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Dice(LossTerm):
    """1 - (2 Σ p y + s) / (Σ p + Σ y + s), the mean over images and classes.

    smooth: s, added to numerator and denominator, so that an absent class that is not predicted has
    loss 0; smooth_nr: another number for the numerator. squared_pred: Σ p² in place of Σ p.
    jaccard: 1 - intersection / union, (2 Σ p y + s) / (2 (Σ p + Σ y - Σ p y) + s). weight: factor
    of each class's loss, one number per class (of masks: outside and inside); the mean is not
    divided by them.

    These are the options of MONAI's DiceLoss. The map gives the wrong classes different values:
    with three classes or more it violates the stability principle, which does not harm training.
    """

    smooth: PositiveFloat = 1e-5
    smooth_nr: NonNegativeFloat | None = None
    squared_pred: bool = False
    jaccard: bool = False
    weight: tuple[NonNegativeFloat, ...] | None = None

    takes_overlap = True
    name = "dice"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = "Milletari et al., V-Net, 3DV 2016, arXiv 1606.04797 (Σ p; squared_pred: Σ p²)"
    official_code = "https://github.com/faustomilletari/VNet"
    used_by = (
        "nnU-Net DC_and_CE_loss",
        "MONAI DiceLoss",
        "MIST dice",
        "smp DiceLoss",
        "SegLossOdyssey SoftDiceLoss",
    )
    takes_soft_labels = True
    takes_label_sets = "marginal"

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the soft Dice. (b c)."""
        both, predicted, true = prediction.overlap(power=2 if self.squared_pred else 1)
        total = 2 * (predicted + true - both) if self.jaccard else predicted + true
        above = total.sub(both, alpha=2)
        if self.smooth_nr is not None:
            above = above + (self.smooth - self.smooth_nr)
        losses = above / (total + self.smooth)
        return losses if self.weight is None else losses * prediction.class_weights(self.weight)
