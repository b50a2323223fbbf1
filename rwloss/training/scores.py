"""Scores per class and case, and their means; whatever is left out of a mean is counted."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rwloss.errors import RWLossError

ClassState = Literal["both", "missed", "false alarm", "empty"]
Penalty: TypeAlias = float | Literal["diagonal"] | None


@dataclass(frozen=True)
class ClassScore:
    """One class of one case. dice is in 0..1, distances are in mm, or in voxels without a spacing.

    dice: 0 if only one of truth and prediction has the class; None if neither has it.
    hd95_mm: the 95th percentile of the distances from one surface to the other, the larger of both
    directions. assd_mm: the mean of all these distances, the average symmetric surface distance.
    Both are None unless truth and prediction have the class.
    """

    label: int
    truth_voxels: int
    predicted_voxels: int
    dice: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None

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

    cases = both + missed + false_alarms + empty. Dice is over all cases except the empty ones, and
    0 for missed ones and false alarms. Distances are over the cases where both have the class, and
    with a penalty over the missed ones and false alarms too.
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
