"""Distances between surfaces. None if one side has no surface, because there is no distance to it.

HD95 and HD are the larger one of both directions; ASSD is over all distances.
"""

from __future__ import annotations

import numpy as np

from rwloss.metrics.class_pair import ClassPair, Floats, distances_mm


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

    In 0..1. The surface runs between voxel centers: each 2 x 2 (x 2) neighborhood that is neither
    full nor empty is an element, with the area that marching cubes give it at this spacing.
    Distances are between elements. tolerance_mm: by default that of the pair.
    Source: Nikolov et al., arXiv 1809.04430, as computed by deepmind/surface-distance.
    MONAI has the table of areas.
    """
    if not pair.both:
        return 0.0
    tolerance, within, whole = _tolerance(pair, tolerance_mm), 0.0, 0.0
    for areas, distances in zip(*pair.surface_elements, strict=True):
        within += float(areas[distances <= tolerance].sum())
        whole += float(areas.sum())
    return within / whole


def elements(pair: ClassPair) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Areas in mm^2 (lengths in mm) of the surface elements of prediction and truth, and the
    distances in mm of each to the nearest of the other.
    """
    from monai.metrics.utils import get_code_to_measure_table
    from scipy.ndimage import correlate

    table, kernel = get_code_to_measure_table(pair.spacing_mm)  # type: ignore[no-untyped-call]
    area_of, weights = table.numpy().astype(np.float64), kernel.numpy()[0, 0].astype(np.uint8)
    areas, places = [], []
    for mask in (pair.predicted, pair.truth):
        # One bit for each corner of the neighborhood that is inside; uint8 holds the 8 of them.
        bits = correlate(np.pad(mask, 1).astype(np.uint8), weights, mode="constant")
        on_surface = (bits > 0) & (bits < len(area_of) - 1)
        places.append(np.argwhere(on_surface))
        areas.append(area_of[bits[on_surface]])
    return (areas[0], areas[1]), distances_mm(places[0], places[1], pair.spacing_mm)


def _tolerance(pair: ClassPair, given: float | None) -> float:
    return pair.tolerance_mm if given is None else given
