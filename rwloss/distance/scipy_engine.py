"""Squared distances with SciPy: always installed, exact; each label is cropped to its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def squared_to_other_label_mm2(
    labels: NDArray[Any], spacings_mm: Sequence[tuple[float, ...]]
) -> NDArray[np.float32]:
    """Squared distance in mm² of each voxel to the nearest voxel of another label.

    labels (b *s), whole numbers of 0 or more, with a spacing for each image -> (b *s) float32;
    infinite in an image that holds one label only.
    """
    squared = np.full(labels.shape, np.inf, dtype=np.float32)
    for image, spacing_mm, out in zip(labels, spacings_mm, squared, strict=True):
        _fill(out, image, spacing_mm)
    return squared


def _fill(
    squared: NDArray[np.float32], labels: NDArray[Any], spacing_mm: tuple[float, ...]
) -> None:
    """Set the finite distances, label by label.

    Voxels just outside a label's bounding box have other labels, so the nearest other label is
    never further out than that: each label needs only its box and one voxel around it.
    """
    from scipy.ndimage import find_objects

    # find_objects skips 0 and wants a signed type for large labels.
    boxes = find_objects(labels.astype(np.int32) + 1)
    for label, box in enumerate(boxes):
        if box is None:
            continue
        crop = tuple(
            slice(max(side.start - 1, 0), min(side.stop + 1, size))
            for side, size in zip(box, labels.shape, strict=True)
        )
        inside = labels[crop] == label
        if inside.all():  # the label fills the image
            continue
        target = squared[crop]
        target[inside] = _squared_to_false(inside, spacing_mm)[inside]


def _squared_to_false(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.float64]:
    """Squared distance in mm² to the nearest False voxel. mask (*s) with a False voxel -> (*s).

    From SciPy's nearest voxels, not from its distances: a square root squared again is not exact.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(
        mask, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    squared = np.zeros(mask.shape, dtype=np.float64)
    for axis, (size, spacing) in enumerate(zip(mask.shape, spacing_mm, strict=True)):
        shape = [1] * mask.ndim
        shape[axis] = size
        steps = (nearest[axis] - np.arange(size, dtype=np.int32).reshape(shape)).astype(np.float64)
        steps *= spacing
        steps *= steps
        squared += steps
    return squared
