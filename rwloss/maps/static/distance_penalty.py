"""Distance penalty: mistakes near the boundary of a class cost more."""

from __future__ import annotations

from rwloss.arrays import divide_into
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class DistancePenalty(MapGenerator):
    """0 at the true class, 1 + scale (1 - d / max d) at every other.

    d is the distance in mm from the voxel to the nearest voxel outside its class, max d its
    largest value in the class. The weight is largest at the boundary and 1 at the deepest voxel;
    so a class of one voxel's thickness has 1.
    The paper multiplies cross-entropy by 1 + P, with P a distance map inside and outside of the
    class that is high near its boundary. Here P is max d - d, divided by max d so that it has no
    unit; SegLossOdyssey at fd78e6b divides by its largest value, for two classes. This is the
    linear surrogate, and `.with_link(0)` restores the cross-entropy. Unitless; compact; stable.

    scale: how much more a mistake at the boundary costs; 0 makes all mistakes cost the same.
    """

    scale: NonNegativeFloat = 1.0

    name = "distance_penalty"
    tags = MapTags(
        stable=True,
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        compact=True,
        limits=(0.0, 2.0),
    )
    citation = (
        "Caliva et al., Distance Map Loss Penalty Term, MIDL 2019, arXiv 1908.03679 (eq. 2); "
        "division by max d and linear surrogate ours"
    )
    used_by = ("SegLossOdyssey DisPenalizedCE",)

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        peak = regions.per_voxel(regions.peak_depth_mm)
        if regions.ignored is not None:
            peak = regions.xp.where(regions.ignored, regions.full(1.0), peak)  # not 0 / 0
        weight = 1.0 + self.scale * (1.0 - divide_into(regions.depth_mm, peak))
        return RWMap.compact(
            regions.labels, regions.num_classes, true=regions.full(0.0), other=weight
        )
