"""Spatially varying label smoothing: cross-entropy with targets that are soft near boundaries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class SVLS(LossTerm):
    """-Σ_k q_k log p_k with q half the truth of the voxel, half that of its neighbors.

    The mean over voxels that count. The neighbors are the 3 x 3 (x 3) around the voxel, weighed by
    a Gaussian; outside the image the nearest voxels repeat, and ignored voxels leave their share to
    the others. So q is softer near boundaries and corners. sigma: of the Gaussian, in voxels.

    The least loss is the entropy of q, above 0 at boundaries. Classes of the neighbors are pulled
    up too, which violates the stability principle there.
    """

    sigma: PositiveFloat = 1.0

    name = "svls"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=False,
        pull_exponent=0.0,
        limits=(0.0, None),
        ingredient="soft targets",
    )
    citation = "Islam & Glocker, Spatially Varying Label Smoothing, IPMI 2021, arXiv 2104.05788"
    official_code = "https://github.com/mobarakol/SVLS"
    takes_soft_labels = True
    takes_label_sets = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Cross-entropy with soft targets, its mean over voxels that count. (b c)."""
        counted = prediction.counted
        target = self._smooth(prediction.one_hot) / self._smooth(counted)
        target = target.where(counted > 0, 0.0)
        return prediction.mean_true(-(target * prediction.log_probs).where(target > 0, 0.0))

    def _smooth(self, values: Tensor) -> Tensor:
        """Half the value, half the mean of its neighbors. (b c *s) -> (b c *s)."""
        import torch

        beside = math.exp(-1 / (2 * self.sigma**2))
        middle = 1 / (1 + 2 * beside)
        blurred = values
        for axis in range(2, values.ndim):
            line = blurred.movedim(axis, 0)
            around = torch.cat([line[:1], line[:-1]]) + torch.cat([line[1:], line[-1:]])
            blurred = middle * (blurred + beside * around.movedim(0, axis))
        own = middle ** (values.ndim - 2)
        return (values + (blurred - own * values) / (1 - own)) / 2
