"""Metrics per class and case, and their means.

Everything that is left out of a mean is counted.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from rwloss.errors import RWLossError
from rwloss.metrics.class_pair import ClassPair
from rwloss.metrics.registry import DEFAULT, find, known, require, select, values_of

ClassState = Literal["both", "missed", "false alarm", "empty"]
Penalty: TypeAlias = float | Literal["diagonal"] | None

TOLERANCE_MM = 1.0
"""Default tolerance of the normalized surface distance, in mm, or in voxels without a spacing."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class of one case. values: of each metric, by its name in `rwloss.metrics`.

    Distances are in mm, or in voxels without a spacing. A metric without a value is None: see
    `rwloss.metrics.Metric` for classes that one side lacks. Each metric is also an attribute.

    label: its number. truth_voxels, predicted_voxels: how many voxels of the class each side has.

    >>> ClassScore(1, truth_voxels=8, predicted_voxels=0, values={"dice": 0.0}).dice
    0.0
    """

    label: int
    truth_voxels: int
    predicted_voxels: int
    values: Mapping[str, float | None] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float | None:
        """The value of a metric."""
        try:
            found: float | None = self.__dict__["values"][name]
            return found
        except KeyError:
            raise AttributeError(f"the metric {name!r} was not measured") from None

    @property
    def state(self) -> ClassState:
        """Which of truth and prediction have the class.

        >>> ClassScore(label=1, truth_voxels=8, predicted_voxels=0).state
        'missed'
        """
        if self.truth_voxels:
            return "both" if self.predicted_voxels else "missed"
        return "false alarm" if self.predicted_voxels else "empty"

    def as_fields(self) -> dict[str, Any]:
        """All fields as one level of plain values."""
        return {
            "label": self.label,
            "truth_voxels": self.truth_voxels,
            "predicted_voxels": self.predicted_voxels,
            **self.values,
            "state": self.state,
        }


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

    def as_fields(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self) | {"classes": [each.as_fields() for each in self.classes]}

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> CaseScore:
        """The scores from the result of `as_fields`, of this version or an earlier one.

        Raises ValueError, LookupError or TypeError for anything else.
        """
        classes = [
            {**each, "values": {name: each[name] for name in known(each)}}
            for each in fields["classes"]
        ]
        return TypeAdapter(cls).validate_python({**fields, "classes": classes})


@dataclass(frozen=True)
class Statistic:
    """Statistics of n values. Mean and median need one value, std (divisor n - 1) needs two; else
    None.

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
    """Summary of one class over cases: the number of cases of each state, and the means with their
    n.

    cases = both + missed + false_alarms + empty. values: of each metric, over the cases where it
    has a value. For Dice these are all cases except the empty ones; for distances those where both
    have the class, and with a penalty also the missed ones and false alarms. Each metric is also an
    attribute: `summary.dice.mean`.
    """

    label: int
    name: str
    cases: int
    both: int
    missed: int
    false_alarms: int
    empty: int
    values: Mapping[str, Statistic] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Statistic:
        """The means of a metric."""
        try:
            found: Statistic = self.__dict__["values"][name]
            return found
        except KeyError:
            raise AttributeError(f"the metric {name!r} was not measured") from None

    def as_fields(self) -> dict[str, Any]:
        """All fields as plain values."""
        values = {name: asdict(each) for name, each in self.values.items()}
        return asdict(replace(self, values={})) | values


@dataclass(frozen=True)
class Scores:
    """Scores of cases. class_names: one per class, the background (which has no scores) first.

    >>> found = ClassScore(1, 9, 8, {"dice": 0.94, "hd95_mm": 1.0})
    >>> missed = ClassScore(1, 4, 0, {"dice": 0.0, "hd95_mm": None})
    >>> cases = [CaseScore(name, (1.0, 1.0), 90.0, (one,)) for name, one in
    ...          [("a", found), ("b", missed)]]
    >>> [lesion] = Scores(tuple(cases), ("background", "lesion")).summary()
    >>> lesion.dice.mean, lesion.hd95_mm.mean, lesion.hd95_mm.n, lesion.missed
    (0.47, 1.0, 1, 1)
    """

    cases: tuple[CaseScore, ...]
    class_names: tuple[str, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that any case has, in the order of tables; the default ones without cases."""
        classes = (each for case in self.cases for each in case.classes)
        return known(name for each in classes for name in each.values) or DEFAULT

    def summary(self, penalty: Penalty = None) -> tuple[ClassSummary, ...]:
        """Summary of each class except the background over all cases.

        penalty: the distance in mm that counts for missed classes and false alarms in the mean
        distances, or "diagonal" for the diagonal of their image; None leaves them out.
        Raises RWLossError for a penalty that is not a length.
        """
        check_penalty(penalty)
        return tuple(self._of(label, penalty) for label in range(1, len(self.class_names)))

    def _of(self, label: int, penalty: Penalty) -> ClassSummary:
        found = [(case, case.classes[label - 1]) for case in self.cases]
        states = Counter(score.state for _, score in found)

        def over_cases(name: str) -> Statistic:
            values = []
            for case, score in found:
                value = score.values.get(name)
                takes_penalty = find(name).is_distance and penalty is not None
                if takes_penalty and score.state in {"missed", "false alarm"}:
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
            values={name: over_cases(name) for name in self.metrics},
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


def check_tolerance(tolerance_mm: float) -> None:
    """Raise RWLossError unless the tolerance is a length above 0."""
    if not 0 < tolerance_mm < math.inf:
        raise RWLossError(f"expected a tolerance above 0 mm, got {tolerance_mm}")


def score(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    num_classes: int,
    spacing_mm: Sequence[float] | None = None,
    *,
    name: str = "",
    metrics: Iterable[str] = ("default",),
    tolerance_mm: float = TOLERANCE_MM,
) -> CaseScore:
    """Metrics of each class but 0. (*s), (*s) -> scores.

    labels: the truth; voxels below 0 are ignored: they belong to no class in either, and end a
    region. predicted: voxels below 0 belong to no class. *s 2-D or 3-D.
    spacing_mm: one length per axis; without it, distances are in voxels.
    metrics: names of `rwloss.metrics`, "default" or "all".
    tolerance_mm: of nsd and surface_dice, in the unit of the distances.

    Raises RWLossError for shapes that differ, labels that are not classes, a spacing that does not
    fit, an unknown metric, and one whose package is not installed.

    >>> truth = np.zeros((6, 6), int)
    >>> truth[1:5, 1:5] = 1
    >>> [square] = score(np.roll(truth, 1, axis=1), truth, 2, (1.0, 2.5)).classes
    >>> square.dice, square.hd95_mm
    (0.75, 2.5)
    """
    from scipy.ndimage import find_objects

    names = select(metrics)
    require(names)
    _check(predicted, labels, num_classes, spacing_mm)
    check_tolerance(tolerance_mm)
    spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    # The class + 1, or 0 for no class, as `find_objects` needs it.
    truth = np.where(labels < 0, 0, labels.astype(np.int32) + 1)
    found = np.where((labels < 0) | (predicted < 0), 0, predicted.astype(np.int32) + 1)
    boxes = [find_objects(values, max_label=num_classes) for values in (truth, found)]
    classes = []
    for label in range(1, num_classes):
        # No voxel of either lies outside the box around both, so the crop changes nothing.
        present = [of_classes[label] for of_classes in boxes if of_classes[label] is not None]
        if not present:
            classes.append(ClassScore(label, 0, 0, dict.fromkeys(names)))
            continue
        box = tuple(
            slice(min(each.start for each in sides), max(each.stop for each in sides))
            for sides in zip(*present, strict=True)
        )
        masks = found[box] == label + 1, truth[box] == label + 1
        pair = ClassPair(*masks, spacing, labels.shape, tolerance_mm)
        predicted_voxels, truth_voxels = pair.voxels
        values = values_of(pair, names)
        classes.append(ClassScore(label, truth_voxels, predicted_voxels, values))
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
    check_labels(labels, num_classes)
    check_labels(predicted, num_classes, "the prediction")
    if spacing_mm is not None and (
        len(spacing_mm) != labels.ndim
        or not all(0 < float(length) < math.inf for length in spacing_mm)
    ):
        raise RWLossError(
            f"expected {labels.ndim} lengths above 0 in spacing_mm, got {tuple(spacing_mm)}"
        )


def check_labels(labels: NDArray[Any], num_classes: int, whose: str = "the truth") -> None:
    """Raise RWLossError unless the labels are integers below num_classes."""
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (np.floor(labels) == labels)).all():
        raise RWLossError(f"{whose} does not hold integer labels: give classes, not probabilities")
    if int(labels.max()) >= num_classes:
        raise RWLossError(
            f"{whose} has the class {int(labels.max())}, and there are {num_classes} classes "
            f"(0..{num_classes - 1}): pass num_classes, or ignore_label if it is not a class"
        )
