"""U-Net border weights: mistakes between touching objects cost more."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rwloss import distance
from rwloss.arrays import from_numpy, to_numpy
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.limits import NonNegativeFloat, PositiveFloat
from rwloss.maps.static.class_weighted import Beta, ClassWeights, Weighted
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

# Beyond this many sigma, exp(-d² / (2 sigma²)) is 0 in float32: farther objects change nothing.
_REACH = 14.6


class UNetBorder(Weighted, MapGenerator):
    """0 at the true class, w(x) = w_c + w0 exp(-(d1 + d2)² / (2 sigma²)) at every other.

    d1 and d2 are the distances in mm to the nearest and the second nearest object; objects are the
    connected components of each class but the background, and a voxel in one has d1 = 0. With fewer
    than two objects the second term is 0. The published weights multiply cross-entropy; this is
    their linear surrogate w(x) (1 - p_t), and `.with_link(0)` restores the cross-entropy.

    w0: largest weight between objects. sigma_mm: how far it reaches, in mm. weights: w_c, the
    weight of the true class, by a rule or as numbers (see `class_weighted`), or None for 1. beta:
    for "effective_number".

    Unitless; compact; stable.
    """

    w0: NonNegativeFloat = 10.0
    sigma_mm: PositiveFloat = 5.0
    weights: ClassWeights | None = "inverse"
    beta: Beta = 0.9999

    name = "unet_border"
    tags = MapTags(
        stable=True,
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        compact=True,
        limits=(0.0, None),
        uses_components=True,
    )
    citation = (
        "Ronneberger et al., U-Net, MICCAI 2015, arXiv 1505.04597 (eq. 2); linear surrogate ours"
    )

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        labels, components = to_numpy(regions.labels), to_numpy(regions.components)
        border = np.zeros(labels.shape, dtype=np.float32)
        if border.size:
            for i, spacing_mm in enumerate(regions.spacings_mm):
                border[i] = self._border(labels[i], components[i], spacing_mm)
        weight = from_numpy(border, regions.labels) + self.voxel_weights(regions)
        return RWMap.compact(
            regions.labels, regions.num_classes, true=regions.full(0.0), other=weight
        )

    def _border(
        self, labels: NDArray[np.int_], components: NDArray[np.int32], spacing_mm: tuple[float, ...]
    ) -> NDArray[np.float32]:
        """w0 exp(-(d1 + d2)² / (2 sigma²)) of one image. labels, components (*s) -> (*s)."""
        from scipy.ndimage import find_objects

        first = np.full(labels.shape, np.inf, dtype=np.float32)
        second = first.copy()
        margins = [math.ceil(_REACH * self.sigma_mm / spacing) for spacing in spacing_mm]
        objects = np.where(labels > 0, components, 0)
        for number, box in enumerate(find_objects(objects), start=1):
            if box is None:
                continue
            near = tuple(
                slice(max(side.start - margin, 0), side.stop + margin)
                for side, margin in zip(box, margins, strict=True)
            )
            mask = objects[near] == number
            if mask.all():  # the object fills the image: there is no other
                continue
            far = distance.distance_to_mm(mask[None], [spacing_mm])[0]
            np.minimum(second[near], np.maximum(first[near], far), out=second[near])
            np.minimum(first[near], far, out=first[near])
        return np.asarray(
            self.w0 * np.exp(-((first + second) ** 2) / (2 * self.sigma_mm**2)), dtype=np.float32
        )
