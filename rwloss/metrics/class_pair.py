"""One class in prediction and truth, with quantities that several metrics share, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassPair:
    """One class of one case. predicted, truth: (*s) boolean; *s 2-D or 3-D.

    They may be cropped to the box around both: no metric sees a difference. image_shape: of the
    whole image. spacing_mm: one length per axis; 1 each measures in voxels. tolerance_mm: of
    metrics that have one and name none.
    """

    predicted: Mask
    truth: Mask
    spacing_mm: Sequence[float]
    image_shape: Sequence[int]
    tolerance_mm: float = 1.0

    @cached_property
    def voxels(self) -> tuple[int, int]:
        """Numbers of voxels of prediction and truth."""
        return int(np.count_nonzero(self.predicted)), int(np.count_nonzero(self.truth))

    @cached_property
    def common(self) -> int:
        """Number of voxels that both have."""
        return int(np.count_nonzero(self.predicted & self.truth))

    @property
    def both(self) -> bool:
        """Whether prediction and truth both have the class."""
        return min(self.voxels) > 0

    @cached_property
    def components(self) -> tuple[tuple[NDArray[Any], int], tuple[NDArray[Any], int]]:
        """Connected components of prediction and truth: (*s) from 1 on, and their number.

        Voxels that share a face, an edge or a corner are connected.
        """
        from scipy.ndimage import label

        every = np.ones((3,) * self.truth.ndim)
        predicted, truth = (label(mask, every) for mask in (self.predicted, self.truth))
        return predicted, truth

    @cached_property
    def betti_numbers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of prediction and truth; see `topology.betti_numbers`."""
        from rwloss.metrics.topology import betti_numbers

        return betti_numbers(self.predicted), betti_numbers(self.truth)

    @cached_property
    def surface_distances_mm(self) -> tuple[Floats, Floats]:
        """Distances from each surface voxel of the prediction to the truth's surface, and back.

        Surface voxels have a face neighbor outside the class, or lie at the border of the image.
        """
        from scipy.ndimage import binary_erosion

        first, second = (
            np.argwhere(mask & ~binary_erosion(mask)) for mask in (self.predicted, self.truth)
        )
        return distances_mm(first, second, self.spacing_mm)

    @cached_property
    def surface_elements(self) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Areas and distances; see `surface.elements`."""
        from rwloss.metrics.surface import elements

        return elements(self)


def distances_mm(
    first: NDArray[Any], second: NDArray[Any], spacing_mm: Sequence[float]
) -> tuple[Floats, Floats]:
    """Distance from each place to the nearest of the other, and back. (n d), (m d) -> (n), (m).

    Rounded to float32, so that a distance that equals a tolerance on paper is within it.
    """
    from scipy.spatial import KDTree

    scale = np.asarray(spacing_mm, dtype=np.float64)
    places = first * scale, second * scale
    there, back = (
        np.asarray(KDTree(other, leafsize=32).query(own)[0], dtype=np.float32)
        for own, other in (places, places[::-1])
    )
    return there.astype(np.float64), back.astype(np.float64)
