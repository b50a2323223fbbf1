"""Overlap of volumes, of boundaries and of center lines, and errors of the volume."""

from __future__ import annotations

import math

import numpy as np

from rwloss.metrics.class_pair import ClassPair, Mask

BOUNDARY_WIDTH = 0.02
"""Width of the boundary for `boundary_iou`, as a share of the diagonal of the image."""


def dice(pair: ClassPair) -> float:
    """2 |P and T| / (|P| + |T|), in 0..1."""
    return 2 * pair.common / sum(pair.voxels)


def iou(pair: ClassPair) -> float:
    """|P and T| / |P or T|, the Jaccard index, in 0..1."""
    return pair.common / (sum(pair.voxels) - pair.common)


def relative_volume_difference(pair: ClassPair) -> float:
    """(|P| - |T|) / |T|, signed; 1 if T is empty, because it is then relative to P."""
    predicted, truth = pair.voxels
    return (predicted - truth) / (truth or predicted)


def relative_volume_error(pair: ClassPair) -> float:
    """The absolute value of `relative_volume_difference`."""
    return abs(relative_volume_difference(pair))


def boundary_iou(pair: ClassPair) -> float:
    """IoU of the voxels of each mask within d of its outline, in 0..1.

    d: 2 % of the diagonal of the image in voxels, rounded, 1 or more. Distances are of chess moves
    (d erosions by 3 x 3 pixels, or 3 x 3 x 3 voxels), so the spacing is not used. Beyond the image
    is outside. Source: Cheng et al., Boundary IoU, CVPR 2021, arXiv 2103.16562, and the official
    code, which is 2-D; 3-D is the same with a diagonal of three axes.
    """
    width = max(1, round(BOUNDARY_WIDTH * math.hypot(*pair.image_shape)))
    predicted, truth = (_boundary(mask, width) for mask in (pair.predicted, pair.truth))
    return int(np.count_nonzero(predicted & truth)) / int(np.count_nonzero(predicted | truth))


def _boundary(mask: Mask, width: int) -> Mask:
    from scipy.ndimage import distance_transform_cdt

    depth = distance_transform_cdt(np.pad(mask, 1), metric="chessboard")
    inner = (slice(1, -1),) * mask.ndim
    return np.asarray(mask & (depth[inner] <= width))


def cl_dice(pair: ClassPair) -> float:
    """Harmonic mean of the shares of each skeleton that lie in the other mask, in 0..1.

    Skeletons by scikit-image's thinning; see `skeleton`. Source: Shit et al., clDice, CVPR 2021,
    arXiv 2003.07311, eqs. 1 and 2.
    """
    from rwloss.maps.static.skeleton_recall import skeleton

    shares = []
    for mask, other in ((pair.predicted, pair.truth), (pair.truth, pair.predicted)):
        line = skeleton(mask)
        shares.append(int(np.count_nonzero(line & other)) / max(1, int(np.count_nonzero(line))))
    return 2 * math.prod(shares) / (sum(shares) or 1)
