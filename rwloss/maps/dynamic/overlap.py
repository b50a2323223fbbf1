"""Sums that the overlap losses (Dice, generalised Dice, Tversky) are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rwloss.maps.loss_term import Prediction

if TYPE_CHECKING:
    from torch import Tensor


class Overlap(NamedTuple):
    """Sums over the voxels of each image and class. (b c) each."""

    both: Tensor
    predicted: Tensor
    true: Tensor


def overlap(prediction: Prediction) -> Overlap:
    """Sum of p·y, of p and of y, for each image and class. (b c)."""
    probs, truth = prediction.probs, prediction.one_hot
    return Overlap(
        prediction.sum_space(probs * truth),
        prediction.sum_space(probs),
        prediction.sum_space(truth),
    )
