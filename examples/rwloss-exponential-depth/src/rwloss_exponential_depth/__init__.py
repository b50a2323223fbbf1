"""A map for rwloss: depth in the class, levelling off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rwloss import Regions, RWMap
from rwloss.maps import MapGenerator, MapTags
from rwloss.maps.limits import PositiveFloat


@dataclass(frozen=True)
class ExponentialDepth(MapGenerator):
    """-(1 - exp(-d / tau)) at the true class, +1 at every other.

    d is the distance in mm from the voxel to the nearest voxel outside its class. Unlike
    `rectified`, nothing depends on the deepest voxel: a small lesion weighs the same beside a large
    one as alone. Unitless, in (-1, 1]; compact; stable at every voxel. A class that fills the image
    has the depth of the smallest spacing everywhere.

    tau_mm: the depth at which the map has come 63 % of its way.
    """

    tau_mm: PositiveFloat = 3.0

    name: ClassVar[str] = "exponential_depth"
    tags: ClassVar[MapTags] = MapTags(
        stable=True, signed=True, unit="unitless", commutes_with=frozenset({"flip", "rot90"})
    )
    citation: ClassVar[str] = "An example of rwloss; no paper"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        true = regions.xp.exp(-regions.depth_mm / self.tau_mm) - 1.0
        return RWMap.compact(
            regions.labels, regions.num_classes, true=true, other=regions.full(1.0)
        )
