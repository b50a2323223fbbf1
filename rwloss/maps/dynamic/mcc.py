"""Loss by Matthews' correlation coefficient, which also counts what is rightly left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class MCC(LossTerm):
    """1 - (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)), from 0 to 2.

    The mean over images and classes. TP = Σ p y, FP = Σ p (1 - y), FN = Σ (1 - p) y, and TN the
    rest. A class that is absent or fills the image has no correlation: its loss is 0.
    """

    takes_overlap = True
    name = "mcc"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=0.5,
        limits=(0.0, 2.0),
    )
    citation = "Abhishek & Hamarneh, ISBI 2021, arXiv 2010.13454 (eq. 3 to 5)"
    official_code = "https://github.com/kakumarabhishek/MCC-Loss"
    used_by = ("MONAI MCCLoss", "smp MCCLoss")

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the correlation. (b c)."""
        counted = prediction.pooled_sum(prediction.counted)
        size = counted.clamp_min(1.0)
        both, predicted, true = (sums / size for sums in prediction.overlap())
        # As shares of the image nothing overflows. TP TN - FP FN is TP - (TP + FP) (TP + FN).
        spread = predicted * (1 - predicted).clamp_min(0.0) * true * (1 - true)
        correlation = (both - predicted * true) / (spread + 1e-20).sqrt()
        return (1 - correlation).clamp_min(0.0) * ((true > 0) & (true < 1))
