"""Boundary DoU loss: the difference over the union, with less of the inside for large classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import Limit, PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class BoundaryDoU(LossTerm):
    """(Σ p² + Σ y - 2 Σ p y) / (Σ p² + Σ y - (1 + a) Σ p y + s), the mean over images and classes.

    a = 1 - 2 C / Σ y, at most `largest`; C counts the voxels of the class that have a face neighbor
    outside it, or lie at the edge of the image. A large class, most of which is inside, has a near
    1: its inside hardly counts. largest: limit of a, 0.8 in the published code. smooth: s; the
    published code adds it to the numerator too, so that an absent class costs 1 there whatever is
    predicted.
    """

    largest: Annotated[float, Limit(le=1)] = 0.8
    smooth: PositiveFloat = 1e-5

    name = "boundary_dou"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
        ingredient="contour",
    )
    citation = "Sun et al., Boundary Difference Over Union Loss, MICCAI 2023, arXiv 2308.00220"
    official_code = "https://github.com/sunfan-bvb/BoundaryDoULoss"

    def loss(self, prediction: Prediction) -> Tensor:
        """Difference over union. (b c)."""
        both, squares, true = prediction.overlap(power=2)
        contour = prediction.pooled_sum(_contour(prediction.one_hot))
        alpha = (1 - 2 * contour / true.clamp_min(1.0)).clamp_max(self.largest)
        differs = squares + true - 2 * both
        return differs / (differs + (1 - alpha) * both + self.smooth)


def _contour(truth: Tensor) -> Tensor:
    """1 at voxels with a face neighbor that is 0, or at the edge of the image. (b c *s)."""
    from torch.nn.functional import pad

    inside = truth
    for axis in range(2, truth.ndim):
        size = truth.shape[axis]
        wider = pad(truth, [0, 0] * (truth.ndim - 1 - axis) + [1, 1])
        inside = inside * wider.narrow(axis, 0, size) * wider.narrow(axis, 2, size)
    return truth - inside
