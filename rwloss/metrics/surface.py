"""Distances between surfaces. None where one side has no surface, for there is no distance to it.

HD95 and HD are the larger one of both directions; ASSD is over all distances.
"""

from __future__ import annotations

import numpy as np

from rwloss.metrics.class_pair import ClassPair, distances_mm


def hd95_mm(pair: ClassPair) -> float | None:
    """The larger one of both directions' 95th percentiles of the surface distances."""
    if not pair.both:
        return None
    return max(float(np.percentile(way, 95)) for way in pair.surface_distances_mm)


def hd_mm(pair: ClassPair) -> float | None:
    """The Hausdorff distance: the largest surface distance."""
    return max(float(way.max()) for way in pair.surface_distances_mm) if pair.both else None


def assd_mm(pair: ClassPair) -> float | None:
    """The average symmetric surface distance: the mean of all surface distances."""
    return float(np.concatenate(pair.surface_distances_mm).mean()) if pair.both else None


def nsd(pair: ClassPair, tolerance_mm: float | None = None) -> float:
    """Share of the surface voxels of both within the tolerance of the other surface, in 0..1.

    Each surface voxel counts once, as in MONAI. tolerance_mm: by default that of the pair.
    """
    if not pair.both:
        return 0.0
    within = np.concatenate(pair.surface_distances_mm) <= _tolerance(pair, tolerance_mm)
    return float(within.mean())


def surface_dice(pair: ClassPair, tolerance_mm: float | None = None) -> float:
    """Share of the surface area (in 2-D, of the length) within the tolerance of the other's.

    In 0..1. The surface runs between voxel centres: each 2 x 2 (x 2) neighbourhood that is neither
    full nor empty is an element, with the area that marching cubes give it at this spacing.
    Distances are between elements. tolerance_mm: by default that of the pair.
    Source: Nikolov et al., arXiv 1809.04430, as computed by deepmind/surface-distance.
    MONAI has the table of areas.
    """
    if not pair.both:
        return 0.0
    from monai.metrics.utils import get_mask_edges

    *masks, predicted, truth = get_mask_edges(pair.predicted, pair.truth, spacing=pair.spacing_mm)
    distances = distances_mm(np.argwhere(masks[0]), np.argwhere(masks[1]), pair.spacing_mm)
    tolerance = _tolerance(pair, tolerance_mm)
    within = whole = 0.0
    for mask, area, distance in zip(masks, (predicted, truth), distances, strict=True):
        of_elements = area[mask].astype(np.float64)
        within += float(of_elements[distance <= tolerance].sum())
        whole += float(of_elements.sum())
    return within / whole


def _tolerance(pair: ClassPair, given: float | None) -> float:
    return pair.tolerance_mm if given is None else given
