"""Boundary distance map: the level set of each class."""

from __future__ import annotations

from itertools import product
from typing import Literal

from rwloss import distance
from rwloss.arrays import Array, is_torch, zero_where
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class Boundary(MapGenerator):
    """Signed distance of each class: below 0 inside, above 0 outside.

    d is the distance in mm from a voxel of the class to the nearest voxel outside it, or from a
    voxel outside to the nearest of the class.

    convention: "kervadec" is -(d - s) inside, s the smallest spacing of an axis longer than one
    voxel (the published -(d - 1) at unit spacing); so a voxel at distance s has 0, and at
    anisotropic spacing the other voxels of the inner edge are below 0. "valverde" is -d inside.
    "edge" is -d inside but 0 at the inner edge, the voxels with a face neighbor outside
    (`compute_sdf` of SegLossOdyssey). "maurer" is minus the distance to the inner edge, here the
    voxels with a face, edge or corner neighbor outside (ITK's SignedMaurerDistanceMap, MIST).
    Outside it is +d. normalize: "none" leaves mm; "max" divides each class of each image by its
    largest absolute value, to [-1, 1]; "sides" divides inside and outside each by its own, so that
    a small class has values down to -1 too (MIST, with "maurer").

    A class that is absent, or that fills the image, has 0 everywhere. Dense; with three classes or
    more almost every voxel violates the stability principle.
    """

    convention: Literal["kervadec", "valverde", "edge", "maurer"] = "kervadec"
    normalize: Literal["none", "max", "sides"] = "none"

    name = "boundary"
    tags = MapTags(
        commutes_with=frozenset({"flip", "rot90"}),
        stable_with_two=True,
        compact=False,
        limits=(None, None),
    )
    citation = (
        "Kervadec et al., Boundary Loss for Highly Unbalanced Segmentation, MIDL 2019, "
        "arXiv 1812.07032 (eq. 5)"
    )
    official_code = "https://github.com/LIVIAETS/boundary-loss"
    used_by = ("MONAI BoundaryLoss", "MIST boundary", "SegLossOdyssey BDLoss")

    @property
    def unit(self) -> str:
        """mm, or unitless when divided by the largest value."""
        return "mm" if self.normalize == "none" else "unitless"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> dense map (b k *s), mm or unitless."""
        values = regions.signed_distances_mm(less_inside=self.convention == "kervadec")
        edge = None
        if self.convention in {"edge", "maurer"}:
            edge = _inner_edge(regions, with_corners=self.convention == "maurer")
            if self.convention == "maurer":  # the nearest edge of all is that of the voxel's class
                edge = distance.distance_to_mm(edge, regions.spacings_mm)
        # Class by class NumPy's arrays stay in the cache; a GPU needs fewer, larger operations.
        for part in [values] if is_torch(values) else values.swapaxes(0, 1):
            self._finish(part, regions, edge)
        return RWMap.from_dense(regions.labels, values)

    def _is_finite(self) -> bool:
        """Yes for distances themselves. Not if a subclass computes something else."""
        plain = self.convention in {"kervadec", "valverde"} and self.normalize == "none"
        return plain and type(self).compute is Boundary.compute

    def _finish(self, signed: Array, regions: Regions, edge: Array | None) -> None:
        """Turn signed distances into values of the map, in place. (b *s), or all in (b k *s).

        edge (b *s): whether a voxel is at the inner edge, or how far it is from there.
        """
        xp, axes = regions.xp, regions.labels.ndim - 1

        def beside(array: Array) -> Array:
            return array if signed.ndim == array.ndim else array[:, None]

        if self.convention == "maurer" and edge is not None:
            signed[...] = xp.where(signed < 0, -beside(edge), signed)
        elif edge is not None:
            zero_where(signed, (signed < 0) & beside(edge))
        if regions.ignored is not None:  # before the maximum: they belong to no class
            zero_where(signed, beside(regions.ignored))
        if self.normalize != "none":
            spatial = tuple(range(-axes, 0))
            deepest = -xp.min(signed, axis=spatial, keepdims=True)
            farthest = xp.max(signed, axis=spatial, keepdims=True)
            if self.normalize == "max":
                deepest = farthest = xp.maximum(deepest, farthest)
            largest = xp.where(signed < 0, deepest, farthest)
            signed /= xp.where(largest > 0, largest, xp.ones_like(largest))


def _inner_edge(regions: Regions, *, with_corners: bool) -> Array:
    """Whether a voxel has a neighbor of another class, through faces at least. (b *s), boolean."""
    labels = regions.labels
    edge = regions.xp.zeros_like(labels, dtype=regions.xp.bool)
    first, last = slice(1, None), slice(None, -1)
    for step in product((0, 1, -1), repeat=labels.ndim - 1):
        # Each pair of neighbors once: the first step that is not 0 goes ahead.
        if step <= (0,) * len(step) or (sum(map(abs, step)) > 1 and not with_corners):
            continue
        ahead = (slice(None), *({0: slice(None), 1: first, -1: last}[one] for one in step))
        behind = (slice(None), *({0: slice(None), 1: last, -1: first}[one] for one in step))
        differs = labels[ahead] != labels[behind]
        edge[ahead] |= differs
        edge[behind] |= differs
    return edge
