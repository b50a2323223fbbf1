"""Select the signs of an alarm, and measure its quality on held-out runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.stability.alarm import Judge, scaled
from rwloss.stability.logistic import (
    BoolArray,
    area_interval,
    area_under_curve,
    left_out,
    over_runs,
)
from rwloss.stability.recorded import LOOKS, RecordedClass, recorded_classes

CANDIDATES = ("pull", "own_probability", "trend", "contrast", "predicted_volume")
"""Signs that need only logits and labels; see `alarm.features_of`."""

Group: TypeAlias = Literal["dataset", "map"]


@dataclass(frozen=True)
class AlarmQuality:
    """Alarms raised up to a look, for lost and for surviving classes.

    hits of lost, false of kept: numbers of recorded classes. recall, false_alarms: their shares,
    with 95 % bootstrap intervals over runs. area: under the ROC curve of the risk at this look.
    """

    look: float
    lost: int
    hits: int
    recall_interval: tuple[float, float]
    kept: int
    false: int
    false_interval: tuple[float, float]
    area: float
    area_interval: tuple[float, float]

    @property
    def recall(self) -> float:
        """hits / lost."""
        return self.hits / self.lost

    @property
    def false_alarms(self) -> float:
        """false / kept."""
        return self.false / self.kept

    def __str__(self) -> str:
        """The numbers in one line."""
        shares = [
            f"{share:.1%} ({low:.0%} to {high:.0%}, {count} of {of})"
            for share, (low, high), count, of in (
                (self.recall, self.recall_interval, self.hits, self.lost),
                (self.false_alarms, self.false_interval, self.false, self.kept),
            )
        ]
        low, high = self.area_interval
        return (
            f"up to {self.look:.0%} of the steps: recall {shares[0]}, false alarms {shares[1]}, "
            f"area {self.area:.3f} ({low:.3f} to {high:.3f})"
        )


def can_judge(rows: Sequence[RecordedClass], by: Group) -> bool:
    """Whether `alarm_quality` is possible: three groups or more, two of them with losses."""
    groups, with_losses = (
        {getattr(row, by) for row in rows if row.signs and (row.lost or not only_lost)}
        for only_lost in (False, True)
    )
    return len(groups) > 2 and len(with_losses) > 1


def chosen_signs(rows: Sequence[RecordedClass], by: Group = "dataset") -> tuple[str, ...]:
    """The set of CANDIDATES that ranks left-out classes best.

    Each dataset, or map, is left out once; the area under the ROC curve of the risks is averaged
    over LOOKS. Of sets that differ by less than 0.001, the smallest is taken, then the first.
    """
    sets = [names for n in range(1, len(CANDIDATES) + 1) for names in combinations(CANDIDATES, n)]
    areas = {names: np.mean([*_areas(rows, by, names)]) for names in sets}
    best = max(areas.values())
    return next(names for names in sets if areas[names] > best - 1e-3)


def _areas(rows: Sequence[RecordedClass], by: Group, names: tuple[str, ...]) -> Iterator[float]:
    for look in LOOKS:
        known = [row for row in rows if look in row.signs]
        lost = np.array([row.lost for row in known])
        features = np.array([scaled(row.signs_at(look), names) for row in known])
        yield area_under_curve(lost, left_out(features, lost, [getattr(row, by) for row in known]))


def alarm_quality(
    by: Group = "dataset",
    rows: Sequence[RecordedClass] | None = None,
    signs: tuple[str, ...] | None = None,
    *,
    resamples: int = 1000,
) -> tuple[list[AlarmQuality], dict[str, tuple[str, ...]]]:
    """The quality of alarms on left-out datasets or maps, at each look; and the signs of each
    group.

    Each dataset, or map, is judged by models of the others, with the signs that `chosen_signs`
    chooses from the others alone. signs: those to use instead of selected ones. rows: recorded
    classes; by default the included ones. resamples: of the bootstrap. Raises RWLossError if there
    are too few groups: see `can_judge`.
    """
    rows = [row for row in (recorded_classes() if rows is None else rows) if row.signs]
    if not can_judge(rows, by):
        raise RWLossError(
            f"expected recorded runs of three {by}s or more, two of them with losses: the signs "
            f"are chosen on those that are not left out, each of which is left out in turn"
        )
    groups = np.array([getattr(row, by) for row in rows])
    others = {
        str(group): [row for row in rows if getattr(row, by) != group]
        for group in np.unique(groups)
    }
    names = {
        group: chosen_signs(training, by) if signs is None else signs
        for group, training in others.items()
    }
    lost, runs = np.array([row.lost for row in rows]), [row.run for row in rows]
    alarmed, found = np.zeros(len(rows), dtype=bool), []
    for look in LOOKS:
        risks = np.zeros(len(rows))
        for group, training in others.items():
            judge = Judge.fit(training, look, names[group])
            for i in np.flatnonzero(groups == group):
                risks[i] = judge.risk(rows[i].signs_at(look))
                alarmed[i] |= risks[i] > judge.threshold
        # A resample may have no lost class: its mean is NaN and is ignored.
        intervals = [
            over_runs(runs, partial(_mean, alarmed, of), resamples=resamples)
            for of in (lost, ~lost)
        ]
        found.append(
            AlarmQuality(
                look,
                int(lost.sum()),
                int(alarmed[lost].sum()),
                intervals[0],
                int((~lost).sum()),
                int(alarmed[~lost].sum()),
                intervals[1],
                area_under_curve(lost, risks),
                area_interval(lost, risks, runs, resamples=resamples),
            )
        )
    return found, names


def _mean(raised: BoolArray, of: BoolArray, drawn: NDArray[np.intp]) -> float:
    """Share of the resampled rows `of` a kind that raised an alarm."""
    own = raised[drawn][of[drawn]]
    return float(own.mean()) if own.size else float("nan")
