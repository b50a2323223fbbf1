"""Dice and surface distances of label maps, by MONAI; empty and missed classes are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.training.extras import require_monai
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
    region. predicted: voxels below 0 are of no class. *s 2-D or 3-D.
    spacing_mm: one length for each axis; without it distances are in voxels.
    distances: False leaves the surface distances out, which take most of the time.

    A surface is made of the voxels of a class with a face neighbour outside it, or at the image's
    border, as MONAI has it; distances are between the centres of such voxels, exact to float32.
    `ClassScore` says what stands where one of the two lacks the class.

    Raises RWLossError for shapes that differ, labels that are no class, a spacing that does not
    fit, and where MONAI is not installed.

    >>> truth = np.zeros((6, 6), int)
    >>> truth[1:5, 1:5] = 1
    >>> [square] = score(np.roll(truth, 1, axis=1), truth, 2, (1.0, 2.5)).classes
    >>> square.dice, square.hd95_mm
    (0.75, 2.5)
    """
    _check(predicted, labels, num_classes, spacing_mm)
    spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    ignored = labels < 0
    truth, found = _numbered(labels, ignored), _numbered(predicted, ignored | (predicted < 0))
    boxes = zip(*(_boxes(values, num_classes) for values in (truth, found)), strict=True)
    classes = []
    for label, (of_truth, of_found) in enumerate(boxes):
        if label == 0:
            continue
        # Outside the box around both there is no voxel of either: nothing changes by the crop.
        box = _union(of_truth, of_found)
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
                f"(0..{num_classes - 1}): pass num_classes, or ignore_label if it is none"
            )
    if spacing_mm is not None and (
        len(spacing_mm) != labels.ndim
        or not all(0 < float(length) < math.inf for length in spacing_mm)
    ):
        raise RWLossError(
            f"expected {labels.ndim} lengths above 0 in spacing_mm, got {tuple(spacing_mm)}"
        )


def _numbered(labels: NDArray[Any], nothing: NDArray[np.bool_]) -> NDArray[Any]:
    """The class + 1 at each voxel (*s), and 0 where there is nothing: what `_boxes` takes."""
    numbers = labels.astype(np.int32)
    numbers += 1
    numbers[nothing] = 0
    return numbers


def _boxes(values: NDArray[Any], num_classes: int) -> list[tuple[slice, ...] | None]:
    """The box around each class, of values that are the class + 1."""
    from scipy.ndimage import find_objects

    return [*find_objects(values, max_label=num_classes)]


def _union(
    first: tuple[slice, ...] | None, second: tuple[slice, ...] | None
) -> tuple[slice, ...] | None:
    """The box around both."""
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
    """The score of one class. masks: of prediction and truth (*s); None where both are empty."""
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
    # With ignore_empty MONAI says NaN whenever the truth is empty, even where the prediction is
    # wrong.
    return float(compute_dice(first, second, ignore_empty=False))


def _surface_distances(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[float, float]:
    """HD95 and average symmetric surface distance of two masks (*s) with voxels, in mm.

    What MONAI's compute_hausdorff_distance and compute_average_surface_distance give, which search
    the same distances once each, and warn of each other's options.
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
