"""Length term of the active-contour loss: the length of the soft boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.arrays import constants
from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class ActiveContourLength(LossTerm):
    """|∇p| in 1/mm, the mean over voxels that count, images and classes.

    ∇p by forward differences over the spacing, 0 past the last voxel of an axis and towards voxels
    that don't count. |∇p| is computed as sqrt(|∇p|² + 1e-8) - 1e-4, so that a flat prediction has
    loss 0 and a gradient. The loss ignores the truth: use it together with another term.
    """

    name = "active_contour_length"
    tags = MapTags(unit="1/mm", stable_with_two=False, limits=(0.0, None))
    citation = (
        "Length term of Chen et al., Learning Active Contour Models for Medical Image "
        "Segmentation, CVPR 2019 (eq. 7)"
    )
    official_code = "https://github.com/xuuuuuuchen/Active-Contour-Loss"
    takes_soft_labels = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Gradient magnitude in 1/mm, its mean over voxels that count. (b c)."""
        from torch.nn.functional import pad

        probs, counted = prediction.probs, prediction.counted
        squares = 0.0 * probs  # with a gradient, of 0, where an image is one voxel
        for axis in range(2, probs.ndim):
            size = probs.shape[axis]
            if size < 2:
                continue
            spacing = constants([row[axis - 2] for row in prediction.spacings_mm], probs)
            both = counted.narrow(axis, 1, size - 1) * counted.narrow(axis, 0, size - 1)
            step = probs.diff(dim=axis) * both / spacing.reshape(-1, *[1] * (probs.ndim - 1))
            after_last = [0, 0] * (probs.ndim - 1 - axis) + [0, 1]
            squares = squares + pad(step**2, after_last)
        magnitude = (squares + 1e-8).sqrt() - 1e-4
        return prediction.mean_space(magnitude * counted)
