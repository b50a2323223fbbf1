"""Boundary distance map: the level set of each class."""

from __future__ import annotations

from typing import Literal

from rwloss.arrays import Array, add_where, zero_where
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class Boundary(MapGenerator):
    """Signed distance of each class: below 0 inside, above 0 outside.

    With d the distance in mm from a voxel of the class to the nearest voxel outside it, or from a
    voxel outside to the nearest of the class:

    convention: "kervadec" is -(d - s) inside, s the smallest spacing (the published -(d - 1) at
    unit spacing), so voxels at the inner edge have 0; "valverde" is -d inside. Outside it is +d.
    normalize: "none" leaves mm; "max" divides each class of each image by its largest absolute
    value, to [-1, 1].

    A class that is absent, or that fills the image, has 0 everywhere. Dense; with three classes or
    more almost every voxel violates the stability principle.
    """

    convention: Literal["kervadec", "valverde"] = "kervadec"
    normalize: Literal["none", "max"] = "none"

    name = "boundary"
    tags = MapTags(commutes_with=frozenset({"flip", "rot90"}))
    citation = (
        "Kervadec et al., Boundary Loss for Highly Unbalanced Segmentation, MIDL 2019, "
        "arXiv 1812.07032 (eq. 5)"
    )

    @property
    def unit(self) -> str:
        """mm, or unitless when divided by the largest value."""
        return "mm" if self.normalize == "none" else "unitless"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> dense map (b k *s), mm or unitless."""
        values = regions.signed_distances_mm()
        for k in range(regions.num_classes):
            self._finish(values[:, k], regions)
        return RWMap.from_dense(regions.labels, values)

    def _finish(self, signed: Array, regions: Regions) -> None:
        """Turn the signed distance of one class into its channel of the map, in place. (b *s)."""
        xp = regions.xp
        if self.convention == "kervadec":
            inside = signed < 0
            add_where(signed, regions.smallest_spacing_mm, inside)
            # The inner edge is 0, not what rounding left of d - s, which may be above 0.
            zero_where(signed, inside & (signed > -1e-6 * regions.smallest_spacing_mm))
        if regions.ignored is not None:  # before the maximum: they belong to no class
            zero_where(signed, regions.ignored)
        if self.normalize == "max":
            spatial = tuple(range(1, signed.ndim))
            largest = xp.max(xp.abs(signed), axis=spatial, keepdims=True)
            signed /= xp.where(largest > 0, largest, xp.ones_like(largest))
