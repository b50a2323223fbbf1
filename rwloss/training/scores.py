"""Dice and surface distances per class and case, by MONAI, and their means.

Whatever is left out of a mean is counted.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.training.environment import require_monai

ClassState = Literal["both", "missed", "false alarm", "empty"]
Penalty: TypeAlias = float | Literal["diagonal"] | None

TOLERANCE_MM = 1.0
"""Default tolerance of the normalized surface distance, in mm, or in voxels without a spacing."""


@dataclass(frozen=True)
class ClassScore:
    """One class of one case. dice is in 0..1, distances are in mm, or in voxels without a spacing.

    dice: 0 if only one of truth and prediction has the class; None if neither has it.
    hd95_mm: the 95th percentile of the distances from one surface to the other, the larger of both
    directions. assd_mm: the mean of all these distances, the average symmetric surface distance.
    Both are None unless truth and prediction have the class.
    nsd: the normalized surface distance, in 0..1: the share of both surfaces that lies within the
    tolerance of the other; 0 and None as for dice. Source: Nikolov et al., arXiv 1809.04430, with
    every surface voxel counted once, as MONAI does.
    """

    label: int
    truth_voxels: int
    predicted_voxels: int
    dice: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None
    nsd: float | None = None

    @property
    def state(self) -> ClassState:
        """Which of truth and prediction have the class.

        >>> ClassScore(label=1, truth_voxels=8, predicted_voxels=0, dice=0.0).state
        'missed'
        """
        if self.truth_voxels:
            return "both" if self.predicted_voxels else "missed"
        return "false alarm" if self.predicted_voxels else "empty"


@dataclass(frozen=True)
class CaseScore:
    """All classes of one case except the background, in the order of their labels.

    spacing_mm: None if unknown; distances are then in voxels. diagonal_mm: of the whole image, in
    the same unit.
    """

    name: str
    spacing_mm: tuple[float, ...] | None
    diagonal_mm: float
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class Statistic:
    """Of n values. Mean and median need one value, std (divisor n - 1) needs two; else None.

    >>> Statistic.of([0.5, 1.0])
    Statistic(n=2, mean=0.75, median=0.75, std=0.3535533905932738)
    """

    n: int
    mean: float | None
    median: float | None
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Statistic:
        """The statistic of these values. Raises RWLossError for one that is not finite."""
        found = sorted(values)
        if not all(map(math.isfinite, found)):
            raise RWLossError(f"expected finite values to average, got {found}")
        return cls(
            n=len(found),
            mean=statistics.fmean(found) if found else None,
            median=statistics.median(found) if found else None,
            std=statistics.stdev(found) if len(found) > 1 else None,
        )


@dataclass(frozen=True)
class ClassSummary:
    """One class over cases: the number of cases of each state, and the means, each with its n.

    cases = both + missed + false_alarms + empty. Dice and NSD are over all cases except the empty
    ones, and 0 for missed ones and false alarms. Distances are over the cases where both have the
    class, and with a penalty over the missed ones and false alarms too.
    """

    label: int
    name: str
    cases: int
    both: int
    missed: int
    false_alarms: int
    empty: int
    dice: Statistic
    hd95_mm: Statistic
    assd_mm: Statistic
    nsd: Statistic


@dataclass(frozen=True)
class Scores:
    """Scores of cases. class_names: one per class, the background (which has no scores) first.

    >>> found = ClassScore(1, truth_voxels=9, predicted_voxels=8, dice=0.94, hd95_mm=1, assd_mm=0.1)
    >>> missed = ClassScore(1, truth_voxels=4, predicted_voxels=0, dice=0.0)
    >>> cases = [CaseScore(name, (1.0, 1.0), 90.0, (one,)) for name, one in
    ...          [("a", found), ("b", missed)]]
    >>> [lesion] = Scores(tuple(cases), ("background", "lesion")).summary()
    >>> lesion.dice.mean, lesion.hd95_mm.mean, lesion.hd95_mm.n, lesion.missed
    (0.47, 1.0, 1, 1)
    """

    cases: tuple[CaseScore, ...]
    class_names: tuple[str, ...]

    def summary(self, penalty: Penalty = None) -> tuple[ClassSummary, ...]:
        """Each class except the background over all cases.

        penalty: the distance in mm that missed classes and false alarms count with in the mean
        distances, or "diagonal" for the diagonal of their image; None leaves them out.
        Raises RWLossError for a penalty that is not a length.
        """
        check_penalty(penalty)
        return tuple(self._of(label, penalty) for label in range(1, len(self.class_names)))

    def _of(self, label: int, penalty: Penalty) -> ClassSummary:
        found = [(case, case.classes[label - 1]) for case in self.cases]
        states = Counter(score.state for _, score in found)

        def distances(name: Literal["hd95_mm", "assd_mm"]) -> Statistic:
            values = []
            for case, score in found:
                value = getattr(score, name)
                if score.state in {"missed", "false alarm"} and penalty is not None:
                    value = case.diagonal_mm if penalty == "diagonal" else penalty
                if value is not None:
                    values.append(float(value))
            return Statistic.of(values)

        return ClassSummary(
            label=label,
            name=self.class_names[label],
            cases=len(found),
            both=states["both"],
            missed=states["missed"],
            false_alarms=states["false alarm"],
            empty=states["empty"],
            dice=Statistic.of(score.dice for _, score in found if score.dice is not None),
            hd95_mm=distances("hd95_mm"),
            assd_mm=distances("assd_mm"),
            nsd=Statistic.of(score.nsd for _, score in found if score.nsd is not None),
        )


def check_penalty(penalty: Penalty) -> None:
    """Raise RWLossError unless the penalty is a length in mm, "diagonal" or None."""
    if penalty in {None, "diagonal"}:
        return
    if isinstance(penalty, str) or not 0 <= float(penalty or 0) < math.inf:
        raise RWLossError(
            f"expected a penalty of 0 mm or more, or 'diagonal' for that of the image, got "
            f"{penalty!r}"
        )


def score(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    num_classes: int,
    spacing_mm: Sequence[float] | None = None,
    *,
    name: str = "",
    distances: bool = True,
    tolerance_mm: float = TOLERANCE_MM,
) -> CaseScore:
    """Dice, HD95, ASSD and NSD of each class but 0. (*s), (*s) -> scores.

    labels: the truth; voxels below 0 are ignored: they belong to no class in either, and end a
    region. predicted: voxels below 0 belong to no class. *s 2-D or 3-D.
    spacing_mm: one length per axis; without it, distances are in voxels.
    distances: False leaves out the surface distances, which take most of the time.
    tolerance_mm: of the normalized surface distance, in the unit of the distances.

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
    require_monai()
    from scipy.ndimage import find_objects

    _check(predicted, labels, num_classes, spacing_mm)
    if not 0 < tolerance_mm < math.inf:
        raise RWLossError(f"expected a tolerance above 0 mm, got {tolerance_mm}")
    spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    # The class + 1, 0 where there is none: as `find_objects` needs it.
    truth = np.where(labels < 0, 0, labels.astype(np.int32) + 1)
    found = np.where((labels < 0) | (predicted < 0), 0, predicted.astype(np.int32) + 1)
    boxes = [find_objects(values, max_label=num_classes) for values in (truth, found)]
    classes = []
    for label in range(1, num_classes):
        # No voxel of either lies outside the box around both, so that the crop changes nothing.
        present = [of_classes[label] for of_classes in boxes if of_classes[label] is not None]
        if not present:
            classes.append(ClassScore(label, truth_voxels=0, predicted_voxels=0))
            continue
        box = tuple(
            slice(min(each.start for each in sides), max(each.stop for each in sides))
            for sides in zip(*present, strict=True)
        )
        masks = found[box] == label + 1, truth[box] == label + 1
        classes.append(_class_score(label, masks, spacing, tolerance_mm if distances else None))
    lengths_mm = (count * length for count, length in zip(labels.shape, spacing, strict=True))
    return CaseScore(
        name=name,
        spacing_mm=None if spacing_mm is None else spacing,
        diagonal_mm=math.hypot(*lengths_mm),
        classes=tuple(classes),
    )


def _check(
    predicted: NDArray[Any], labels: NDArray[Any], num_classes: int, spacing_mm: Any
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


def _class_score(
    label: int,
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    spacing_mm: tuple[float, ...],
    tolerance_mm: float | None,
) -> ClassScore:
    """The score of one class. masks: prediction and truth (*s), not both empty.

    tolerance_mm: None leaves out the distances.
    """
    predicted, truth = (int(np.count_nonzero(mask)) for mask in masks)
    if not predicted or not truth:
        return ClassScore(label, truth, predicted, 0.0, nsd=None if tolerance_mm is None else 0.0)
    import torch
    from monai.metrics.meandice import compute_dice
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    first, second = (torch.from_numpy(mask)[None, None] for mask in masks)
    dice = float(compute_dice(first, second))
    if tolerance_mm is None:
        return ClassScore(label, truth, predicted, dice)
    # The values of MONAI's compute_hausdorff_distance, compute_average_surface_distance and
    # compute_surface_dice, which would search the same distances three times.
    edges = get_mask_edges(*masks)
    there, back = (
        np.asarray(get_surface_distance(start, end, spacing=spacing_mm), dtype=np.float64)
        for start, end in (edges, edges[::-1])
    )
    hd95_mm = max(float(np.percentile(way, 95)) for way in (there, back))
    both = np.concatenate([there, back])
    nsd = float((both <= tolerance_mm).mean())
    return ClassScore(label, truth, predicted, dice, hd95_mm, float(both.mean()), nsd)
