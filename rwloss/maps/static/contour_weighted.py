"""Contour weights: mistakes at the contour of a class cost more."""

from __future__ import annotations

from typing import Any

from rwloss.arrays import Array
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class ContourWeighted(MapGenerator):
    """0 at the true class, 1 + weight at every other on the contour, 1 off it.

    The contour of a class is what an erosion by 3 x 3 (x 3) voxels takes from it: its voxels with a
    neighbor of another class, through faces, edges or corners. The edge of the image is no contour.
    The published weights multiply cross-entropy; this is their linear surrogate, and
    `.with_link(0)` restores the cross-entropy. Unitless; compact; stable.

    weight: lambda, the price of a voxel on the contour beyond 1.
    """

    weight: NonNegativeFloat = 2.0

    name = "contour_weighted"
    tags = MapTags(
        stable=True,
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        compact=True,
        limits=(0.0, 3.0),
    )
    citation = (
        "Huang & Sui, Contour-weighted Loss, ISBI 2024, arXiv 2407.06176; linear surrogate ours"
    )
    official_code = "https://github.com/huangzyong/Contour-weighted-Loss-Seg"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        xp, labels = regions.xp, regions.labels
        contour = _around(xp.minimum, labels) != _around(xp.maximum, labels)
        weight = 1.0 + self.weight * xp.astype(contour, xp.float32)
        return RWMap.compact(labels, regions.num_classes, true=regions.full(0.0), other=weight)


def _around(pick: Any, labels: Array) -> Array:
    """The smallest or largest label of each voxel and its neighbors. (b *s)."""
    for axis in range(1, labels.ndim):
        ahead = (slice(None),) * axis + (slice(1, None),)
        behind = (slice(None),) * axis + (slice(None, -1),)
        found = labels + 0
        found[ahead] = pick(found[ahead], labels[behind])
        found[behind] = pick(found[behind], labels[ahead])
        labels = found
    return labels
