"""Dice and surface distances of label maps, by MONAI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.training.environment import require_monai
from rwloss.training.scores import CaseScore, ClassScore


def score(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    num_classes: int,
    spacing_mm: Sequence[float] | None = None,
    *,
    name: str = "",
    distances: bool = True,
) -> CaseScore:
    """Dice, HD95 and average symmetric surface distance of each class but 0. (*s), (*s) -> scores.

    labels: the truth; voxels below 0 are ignored: they belong to no class in either, and end a
    region. predicted: voxels below 0 belong to no class. *s 2-D or 3-D.
    spacing_mm: one length per axis; without it, distances are in voxels.
    distances: False leaves out the surface distances, which take most of the time.

    As in MONAI, a surface consists of the voxels of a class with a face neighbour outside it or at
    the border of the image. Distances are between the centres of these voxels, exact to float32.
    `ClassScore` documents the values if truth or prediction lacks the class.

    Raises RWLossError for shapes that differ, labels that are not classes, a spacing that does not
    fit, and if MONAI is not installed.

    >>> truth = np.zeros((6, 6), int)
    >>> truth[1:5, 1:5] = 1
    >>> [square] = score(np.roll(truth, 1, axis=1), truth, 2, (1.0, 2.5)).classes
    >>> square.dice, square.hd95_mm
    (0.75, 2.5)
    """
    from scipy.ndimage import find_objects

    _check(predicted, labels, num_classes, spacing_mm)
    spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    ignored = labels < 0
    truth, found = _numbered(labels, ignored), _numbered(predicted, ignored | (predicted < 0))
    boxes = [find_objects(values, max_label=num_classes) for values in (truth, found)]
    classes = []
    for label in range(1, num_classes):
        # No voxel of either lies outside the box around both, so that the crop changes nothing.
        box = _union(*(of_classes[label] for of_classes in boxes))
        masks = (found[box] == label + 1, truth[box] == label + 1) if box else None
        classes.append(_class_score(label, masks, spacing, distances))
    lengths_mm = (count * length for count, length in zip(labels.shape, spacing, strict=True))
    return CaseScore(
        name=name,
        spacing_mm=None if spacing_mm is None else spacing,
        diagonal_mm=math.hypot(*lengths_mm),
        classes=tuple(classes),
    )


def _check(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    num_classes: int,
    spacing_mm: Sequence[float] | None,
) -> None:
    if predicted.shape != labels.shape:
        raise RWLossError(f"prediction {predicted.shape} and labels {labels.shape} differ in shape")
    if labels.ndim not in {2, 3} or labels.size == 0:
        raise RWLossError(f"expected label maps of 2 or 3 axes with voxels, got {labels.shape}")
    for values, whose in ((labels, "the truth"), (predicted, "the prediction")):
        if int(values.max()) >= num_classes:
            raise RWLossError(
                f"{whose} has the class {int(values.max())}, and there are {num_classes} classes "
                f"(0..{num_classes - 1}): pass num_classes, or ignore_label if it is not a class"
            )
    if spacing_mm is not None and (
        len(spacing_mm) != labels.ndim
        or not all(0 < float(length) < math.inf for length in spacing_mm)
    ):
        raise RWLossError(
            f"expected {labels.ndim} lengths above 0 in spacing_mm, got {tuple(spacing_mm)}"
        )


def _numbered(labels: NDArray[Any], nothing: NDArray[np.bool_]) -> NDArray[Any]:
    """The class + 1 at each voxel (*s), 0 where there is nothing: as `find_objects` needs it."""
    numbers = labels.astype(np.int32)
    numbers += 1
    numbers[nothing] = 0
    return numbers


def _union(
    first: tuple[slice, ...] | None, second: tuple[slice, ...] | None
) -> tuple[slice, ...] | None:
    """The box around two boxes."""
    if first is None or second is None:
        return first or second
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )


def _class_score(
    label: int,
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    spacing_mm: tuple[float, ...],
    distances: bool,
) -> ClassScore:
    """The score of one class. masks: prediction and truth (*s); None if both are empty."""
    if masks is None:
        return ClassScore(label, truth_voxels=0, predicted_voxels=0)
    predicted, truth = (int(np.count_nonzero(mask)) for mask in masks)
    if not predicted or not truth:
        return ClassScore(label, truth, predicted, dice=0.0)
    hd95_mm, assd_mm = _surface_distances(*masks, spacing_mm) if distances else (None, None)
    return ClassScore(label, truth, predicted, _dice(*masks), hd95_mm, assd_mm)


def _dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Dice of two masks (*s) that are not both empty."""
    require_monai()
    import torch
    from monai.metrics.meandice import compute_dice

    first, second = (torch.from_numpy(mask)[None, None] for mask in (found, truth))
    # With ignore_empty, MONAI gives NaN if the truth is empty, even if the prediction is wrong.
    return float(compute_dice(first, second, ignore_empty=False))


def _surface_distances(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[float, float]:
    """HD95 and average symmetric surface distance of two masks (*s) with voxels, in mm.

    The values of MONAI's compute_hausdorff_distance and compute_average_surface_distance, which
    would search the same distances twice.
    """
    require_monai()
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    edges = get_mask_edges(found, truth)
    there, back = (
        np.asarray(get_surface_distance(start, end, spacing=spacing_mm), dtype=np.float64)
        for start, end in (edges, edges[::-1])
    )
    hd95_mm = max(float(np.percentile(way, 95)) for way in (there, back))
    return hd95_mm, float(np.concatenate([there, back]).mean())
