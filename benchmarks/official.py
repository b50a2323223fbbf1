"""The peers' formulas as their papers and codes have them: a SciPy transform a class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt


def rectified(
    labels: NDArray[Any], num_classes: int, spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """RRW map of one image, class by class over the whole image. (*s) -> (k *s)."""
    values = np.ones((num_classes, *labels.shape), dtype=np.float32)
    for k in range(num_classes):
        mask = labels == k
        if mask.any():
            depth = distance_transform_edt(mask, sampling=spacing_mm)
            values[k][mask] = -(depth / depth.max())[mask]
    return values


def boundary(
    labels: NDArray[Any], num_classes: int, spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """Kervadec's level set of one image: two transforms a class. (*s) -> (k *s)."""
    values = np.zeros((num_classes, *labels.shape), dtype=np.float32)
    for k in range(num_classes):
        mask = labels == k
        if mask.any():
            outside = distance_transform_edt(~mask, sampling=spacing_mm)
            inside = distance_transform_edt(mask, sampling=spacing_mm)
            values[k] = outside * ~mask - (inside - min(spacing_mm)) * mask
    return values
