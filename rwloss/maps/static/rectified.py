"""Rectified region-wise map (RRW): depth in the class, scaled to 1 at its deepest voxel."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rwloss.arrays import Array, divide_into, from_numpy, to_numpy
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.limits import PositiveFloat
from rwloss.maps.static.class_weighted import Beta, ClassWeights, Weighted
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class Rectified(Weighted, MapGenerator):
    """-d / max d of the class at the true class, +1 at every other class.

    d is the distance in mm from the voxel to the nearest voxel outside its class. Unitless, in [-1,
    1]; compact; stable at every voxel. A class of one voxel, and a class that fills the image, has
    -1 everywhere.

    scope: what the maximum is taken over. "image": the class in the given image, so a crop of a
    full map differs from the map of the crop, and a small lesion beside a large one gets almost 0;
    "component": each connected component of the class.
    clip_mm: upper limit of the depth; None for no limit.
    weights: w_t, the weight of the true class by a rule or as numbers (see `class_weighted`); the
    map is then -w_t d / max d and +w_t. None for 1. beta: for "effective_number".
    """

    scope: Literal["image", "component"] = "image"
    clip_mm: PositiveFloat | None = None
    weights: ClassWeights | None = None
    beta: Beta = 0.9999

    name = "rectified"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        compact=True,
        limits=(-1.0, 1.0),
    )
    citation = (
        "Valverde & Tohka, Region-wise Loss for Biomedical Image Segmentation, Pattern "
        "Recognition 2023, arXiv 2108.01405 (RRW); scope and clip_mm ours"
    )
    official_code = "https://github.com/jmlipman/RegionWiseLoss"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        xp, depth, clip_mm = regions.xp, regions.depth_mm, self.clip_mm
        if clip_mm is not None:
            depth = xp.clip(depth, None, clip_mm)
        if self.scope == "image":
            peak = regions.peak_depth_mm
            peak = peak if clip_mm is None else xp.clip(peak, None, clip_mm)
            true = regions.divided_by_class(depth, peak, negative=True)
        else:
            minus_peak = _minus_peak_of_component(regions)
            if clip_mm is not None:
                minus_peak = xp.clip(minus_peak, -clip_mm, None)
            if regions.ignored is not None:
                minus_peak = xp.where(regions.ignored, regions.full(1.0), minus_peak)  # not 0 / 0
            true = divide_into(depth, minus_peak)
        other = regions.full(1.0)
        if self.weights is not None:
            weight = self.voxel_weights(regions)
            true, other = true * weight, weight
        return RWMap.compact(regions.labels, regions.num_classes, true=true, other=other)

    def _is_finite(self) -> bool:
        """Yes: d > 0 by its maximum is in 0..1. Not if a subclass computes something else."""
        plain = self.scope == "image" and self.weights is None
        return plain and type(self).compute is Rectified.compute


def _minus_peak_of_component(regions: Regions) -> Array:
    """Largest depth in mm of each voxel's component, below 0. (b *s), new."""
    from scipy.ndimage import maximum

    depths, components = to_numpy(regions.depth_mm), to_numpy(regions.components)
    peak = np.zeros_like(depths)
    for depth, component, out in zip(depths, components, peak, strict=True):
        count = int(component.max(initial=0))
        if count:
            of_each = np.zeros(count + 1, dtype=np.float32)
            of_each[1:] = -maximum(depth, component, np.arange(1, count + 1))
            out[...] = of_each[component]
    return from_numpy(peak, regions.labels)
