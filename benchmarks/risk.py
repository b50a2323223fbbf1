"""Fits the models of `rwloss.stability` to recorded runs, and judges them on runs left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.recorded import RecordedClass
from rwloss.stability.alarm import LOOKS, Judge, scaled
from rwloss.stability.fitted import FloatArray, Logistic, sigmoid
from rwloss.stability.prediction import BEFORE_TRAINING, Calibration, features_before

CANDIDATES = ("pull", "own_probability", "trend", "contrast", "predicted_volume")
"""Signs that need only logits and labels; see `alarm.features_of`."""

FALSE_ALARMS = 0.05
"""The share of recorded surviving classes for which an alarm would have been raised, per look."""

Group: TypeAlias = Literal["dataset", "map"]
GROUPS: tuple[Group, ...] = ("dataset", "map")
BoolArray: TypeAlias = NDArray[np.bool_]

_RIDGE = 1.0
_NEWTON_STEPS = 50


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


@dataclass(frozen=True)
class Quality:
    """How good risks and alarms are for datasets, or maps, that are left out.

    risk, alarm: over all recorded classes ("all"), and over those of each dataset alone. signs: the
    choice for each left-out group.
    """

    risk: dict[Group, dict[str, Calibration]]
    alarm: dict[Group, dict[str, list[AlarmQuality]]]
    signs: dict[Group, dict[str, tuple[str, ...]]]


def fit(names: Sequence[str], features: FloatArray, lost: BoolArray) -> Logistic:
    """The maximum-likelihood model with a ridge of 1 on standardized weights. (n f), (n).

    By Newton's method; the bias has no ridge. Without rows of both kinds, p is the mean.
    """
    scale = features.std(axis=0)
    scale[scale == 0] = 1.0
    mean = features.mean(axis=0)
    rows = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    ridge = np.diag([*[_RIDGE] * features.shape[1], 1e-6])
    weights = np.zeros(rows.shape[1])
    for _ in range(_NEWTON_STEPS):
        found = sigmoid(rows @ weights)
        slope = rows.T @ (found - lost) + ridge @ weights
        curvature = (rows * (found * (1 - found))[:, None]).T @ rows + ridge
        step = np.linalg.solve(curvature, slope)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return Logistic(tuple(names), mean, scale, weights[:-1], float(weights[-1]))


def fit_judge(names: Sequence[str], signs: FloatArray, lost: BoolArray) -> Judge:
    """The model of one look, and the threshold that FALSE_ALARMS of the survivors exceed. (n f)."""
    model = fit(names, signs, lost)
    kept = model.probability(signs[~lost])
    return Judge(model, float(np.quantile(kept, 1 - FALSE_ALARMS, method="higher")))


def before_training(rows: Sequence[RecordedClass]) -> FloatArray:
    """What `predict` looks at. (n 5)."""
    return np.array(
        [features_before(*(getattr(row, name) for name in BEFORE_TRAINING)) for row in rows]
    )


def signs_of(rows: Sequence[RecordedClass]) -> FloatArray:
    """What an alarm may look at, at each of LOOKS. (look n candidate)."""
    return np.array([[scaled(row.signs_at(look), CANDIDATES) for row in rows] for look in LOOKS])


def chosen_signs(signs: FloatArray, lost: BoolArray, maps: NDArray[np.str_]) -> list[int]:
    """Which CANDIDATES rank classes of left-out maps best. (look n candidate), (n), (n).

    Each map is left out once; the area under the ROC curve of the risks is averaged over LOOKS. Of
    sets that differ by less than 0.001, the smallest is taken, then the first.
    """
    sets = [
        [*columns]
        for size in range(1, len(CANDIDATES) + 1)
        for columns in combinations(range(len(CANDIDATES)), size)
    ]
    areas = [
        np.mean([area_under_curve(lost, left_out(at[:, own], lost, maps)) for at in signs])
        for own in sets
    ]
    return next(own for own, area in zip(sets, areas, strict=True) if area > max(areas) - 1e-3)


def left_out(features: FloatArray, lost: BoolArray, groups: NDArray[np.str_]) -> FloatArray:
    """Probability of each row by a model that has not seen its group. (n f) -> (n)."""
    found = np.empty(len(lost))
    for name in np.unique(groups):
        own = groups == name
        found[own] = fit((), features[~own], lost[~own]).probability(features[own])
    return found


def area_under_curve(lost: BoolArray, scores: FloatArray) -> float:
    """Probability that a lost row scores above a kept one; ties count half. NaN without both.

    >>> area_under_curve(np.array([True, True, False]), np.array([0.9, 0.2, 0.2]))
    0.75
    """
    number = int(lost.sum())
    pairs = number * (len(lost) - number)
    above = rankdata(scores)[lost].sum() - number * (number + 1) / 2
    return float(above / pairs) if pairs else float("nan")


def over_runs(
    runs: Sequence[str], of: Callable[[NDArray[np.intp]], float], *, resamples: int = 1000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of rows, resampled by whole runs. (n).

    of: the statistic of the resampled rows; NaN if undefined.
    """
    names, number = np.unique(np.array(runs), return_inverse=True)
    rows = [np.flatnonzero(number == i) for i in range(len(names))]
    rng, found = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        found.append(of(drawn))
    if np.isnan(found).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def quality(rows: Sequence[RecordedClass], *, resamples: int = 1000) -> Quality:
    """Risks and alarms on datasets, and on maps, that are left out. resamples: of the bootstrap."""
    found = Quality({}, {}, {})
    for by in GROUPS:
        risks = left_out(before_training(rows), *_ends(rows, by))
        found.risk[by] = {
            name: _calibration(rows, risks, own, resamples) for name, own in _parts(rows)
        }
        signed = [row for row in rows if row.signs]
        raised, at_looks, found.signs[by] = left_out_alarms(signed, by)
        found.alarm[by] = {
            name: _alarm_quality(signed, raised, at_looks, own, resamples)
            for name, own in _parts(signed)
        }
    return found


def left_out_alarms(
    rows: Sequence[RecordedClass], by: Group
) -> tuple[BoolArray, FloatArray, dict[str, tuple[str, ...]]]:
    """Alarms raised up to each look (look n), the risks there (look n), and the signs per group.

    Each dataset, or map, is judged by models of the others, with the signs that `chosen_signs`
    chooses from the others alone.
    """
    (lost, groups), (_, maps), signs = _ends(rows, by), _ends(rows, "map"), signs_of(rows)
    raised, risks = np.zeros(signs.shape[:2], dtype=bool), np.zeros(signs.shape[:2])
    names = {}
    for group in np.unique(groups):
        own = groups == group
        columns = chosen_signs(signs[:, ~own], lost[~own], maps[~own])
        names[str(group)] = tuple(CANDIDATES[i] for i in columns)
        for i, at in enumerate(signs[..., columns]):
            judge = fit_judge(names[str(group)], at[~own], lost[~own])
            risks[i, own] = judge.model.probability(at[own])
            raised[i, own] = risks[i, own] > judge.threshold
    return np.maximum.accumulate(raised), risks, names


def _ends(rows: Sequence[RecordedClass], by: Group) -> tuple[BoolArray, NDArray[np.str_]]:
    """Which are lost (n), and their groups (n)."""
    return np.array([row.lost for row in rows]), np.array([getattr(row, by) for row in rows])


def _parts(rows: Sequence[RecordedClass]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """All rows, and those of each dataset."""
    yield "all", np.arange(len(rows))
    for name in sorted({row.dataset for row in rows}):
        yield name, np.flatnonzero([row.dataset == name for row in rows])


def _calibration(
    rows: Sequence[RecordedClass], risks: FloatArray, own: NDArray[np.intp], resamples: int
) -> Calibration:
    lost = np.array([rows[i].lost for i in own])
    pulls = -before_training([rows[i] for i in own])[:, BEFORE_TRAINING.index("pull")]
    runs = [rows[i].run for i in own]
    return Calibration(
        rows=len(own),
        lost=int(lost.sum()),
        area=area_under_curve(lost, risks[own]),
        interval=_area_interval(lost, risks[own], runs, resamples),
        pull_area=area_under_curve(lost, pulls),
        pull_interval=_area_interval(lost, pulls, runs, resamples),
        expected=float(risks[own].mean()),
    )


def _alarm_quality(
    rows: Sequence[RecordedClass],
    raised: BoolArray,
    risks: FloatArray,
    own: NDArray[np.intp],
    resamples: int,
) -> list[AlarmQuality]:
    lost, runs = np.array([rows[i].lost for i in own]), [rows[i].run for i in own]
    found = []
    for look, alarmed, at in zip(LOOKS, raised[:, own], risks[:, own], strict=True):
        # A resample may have no lost class: its mean is NaN and is ignored.
        recall, false = (
            over_runs(runs, partial(_mean, alarmed, of), resamples=resamples)
            for of in (lost, ~lost)
        )
        found.append(
            AlarmQuality(
                look=look,
                lost=int(lost.sum()),
                hits=int(alarmed[lost].sum()),
                recall_interval=recall,
                kept=int((~lost).sum()),
                false=int(alarmed[~lost].sum()),
                false_interval=false,
                area=area_under_curve(lost, at),
                area_interval=_area_interval(lost, at, runs, resamples),
            )
        )
    return found


def _mean(raised: BoolArray, of: BoolArray, drawn: NDArray[np.intp]) -> float:
    """Share of the resampled rows `of` a kind that raised an alarm."""
    own = raised[drawn][of[drawn]]
    return float(own.mean()) if own.size else float("nan")


def _area_interval(
    lost: BoolArray, scores: FloatArray, runs: Sequence[str], resamples: int
) -> tuple[float, float]:
    def of(drawn: NDArray[np.intp]) -> float:
        return area_under_curve(lost[drawn], scores[drawn])

    return over_runs(runs, of, resamples=resamples)


def fitted_content(rows: Sequence[RecordedClass], found: Quality) -> dict[str, Any]:
    """The content of rwloss/stability/fitted.json: models of all rows, and their quality."""
    lost, _ = _ends(rows, "dataset")
    signed = [row for row in rows if row.signs]
    of_signed, maps = _ends(signed, "map")
    signs = signs_of(signed)
    columns = chosen_signs(signs, of_signed, maps)
    names = [CANDIDATES[i] for i in columns]
    looks = {}
    for look, at in zip(LOOKS, signs[..., columns], strict=True):
        judge = fit_judge(names, at, of_signed)
        looks[f"{look:g}"] = {"threshold": judge.threshold, "model": _written(judge.model)}
    content: dict[str, Any] = _rounded(
        {
            "fitted_on": {
                "risk": _counts(rows),
                "alarm": _counts(signed),
                "datasets": sorted({row.dataset for row in rows}),
                "maps": sorted({row.map for row in rows}),
                "ranges": {
                    name: [pick(getattr(row, name) for row in rows) for pick in (min, max)]
                    for name in BEFORE_TRAINING
                },
            },
            "risk": {
                "model": _written(fit(BEFORE_TRAINING, before_training(rows), lost)),
                "left_out": {by: asdict(parts["all"]) for by, parts in found.risk.items()},
            },
            "alarm": {
                "looks": looks,
                "left_out": {
                    by: [asdict(each) for each in parts["all"]] for by, parts in found.alarm.items()
                },
            },
        }
    )
    return content


def _counts(rows: Sequence[RecordedClass]) -> dict[str, int]:
    lost = sum(row.lost for row in rows)
    return {"runs": len({row.run for row in rows}), "classes": len(rows), "lost": lost}


def _written(model: Logistic) -> dict[str, Any]:
    numbers = zip(model.names, model.mean, model.scale, model.weights, strict=True)
    features = {
        name: {"mean": mean, "scale": scale, "weight": weight}
        for name, mean, scale, weight in numbers
    }
    return {"bias": model.bias, "features": features}


def _rounded(content: Any) -> Any:
    """Numbers in six digits."""
    if isinstance(content, dict):
        return {name: _rounded(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(each) for each in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content
