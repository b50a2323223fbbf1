"""Rectified region-wise map (RRW): depth in the class, scaled to 1 at its deepest voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class Rectified(MapGenerator):
    """-d / max d of the class at the true class, +1 at every other class.

    d is the distance in mm from the voxel to the nearest voxel outside its class. Unitless, in
    [-1, 1]; compact; stable at every voxel. A class of one voxel, and a class that fills the image,
    has -1 everywhere.

    scope: what the maximum is taken over. "image": the class in the image that is given, so a crop
    of a full map differs from the map of the crop.
    """

    scope: Literal["image"] = "image"

    name: ClassVar[str] = "rectified"
    tags: ClassVar[MapTags] = MapTags(
        stable=True, signed=True, commutes_with=frozenset({"flip", "rot90"})
    )
    citation: ClassVar[str] = (
        "Valverde & Tohka, Region-wise Loss for Biomedical Image Segmentation, Pattern "
        "Recognition 2023, arXiv 2108.01405 (RRW)"
    )

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        depth = regions.depth_mm
        peak = regions.per_voxel(regions.peak_depth_mm)
        if regions.ignored is not None:
            peak = regions.xp.where(regions.ignored, regions.full(1.0), peak)  # 0 / 1, not 0 / 0
        return RWMap.compact(
            regions.labels, regions.num_classes, true=-(depth / peak), other=regions.full(1.0)
        )
