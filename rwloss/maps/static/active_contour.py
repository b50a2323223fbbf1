"""Active contour map, the region term of the active-contour loss: all mistakes cost the same."""

from __future__ import annotations

from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class ActiveContour(MapGenerator):
    """0 at the true class, 1 at every other: the loss is the mean wrong probability.

    z_k = 0 where k is the true class, else 1. Unitless; compact; stable at every voxel.
    """

    name = "active_contour"
    tags = MapTags(
        stable=True,
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        compact=True,
        limits=(0.0, 1.0),
    )
    citation = (
        "Region term of Chen et al., Learning Active Contour Models for Medical Image "
        "Segmentation, CVPR 2019; as a map: Valverde & Tohka, Pattern Recognition 2023, "
        "arXiv 2108.01405 (RW-AC)"
    )
    official_code = "https://github.com/xuuuuuuchen/Active-Contour-Loss"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        ones = regions.full(1.0)
        return RWMap.compact(
            regions.labels, regions.num_classes, true=regions.full(0.0), other=ones
        )
