"""The risk that a class is lost, from what is known before training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from rwloss.errors import RWLossError
from rwloss.stability.logistic import (
    BoolArray,
    FloatArray,
    Logistic,
    area_interval,
    area_under_curve,
    left_out,
)
from rwloss.stability.recorded import RecordedClass, recorded_classes


def predict(
    pull: float,
    pull_exponent: float,
    fraction: float,
    *,
    learning_rate: float,
    steps: int,
) -> float:
    """Probability that a class is lost in training, in 0..1.

    pull, pull_exponent: of the class, from `check_expression`. fraction: share of the class in the
    training voxels. A logistic model of their logarithms and of those of learning rate and steps,
    fitted on the included recorded runs: small U-Nets, 2-D, Adam. `calibration` measures it on
    held-out datasets and maps.

    Raises RWLossError for values that are not finite or not above 0 (the exponent may be 0).

    >>> low, high = (
    ...     predict(pull, 1.0, 0.02, learning_rate=4e-3, steps=300) for pull in (0.5, 0.001)
    ... )
    >>> low < high
    True
    """
    given = {
        "fraction": fraction,
        "learning_rate": learning_rate,
        "steps": steps,
    }
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise RWLossError(f"expected {name} as a number above 0, got {value!r}")
    if math.isnan(pull) or math.isnan(pull_exponent):
        raise RWLossError(
            "the pull ratio or exponent is unknown (NaN): the class is absent, or is not pulled "
            "up at all"
        )
    row = _features(pull, pull_exponent, fraction, learning_rate, steps)
    return float(_model().probability(row[None])[0])


@dataclass(frozen=True)
class Calibration:
    """How well the model ranks risks for held-out datasets or maps.

    rows, lost: recorded classes, and how many of them were lost. area: under the ROC curve of the
    left-out risks, with its 95 % bootstrap interval over runs; pull_area: that of the pull ratio
    alone. expected: mean of the left-out risks, which should equal lost / rows.
    """

    rows: int
    lost: int
    area: float
    interval: tuple[float, float]
    pull_area: float
    pull_interval: tuple[float, float]
    expected: float


def calibration(
    by: Literal["dataset", "map"] = "dataset", rows: Sequence[RecordedClass] | None = None
) -> Calibration:
    """Left-out quality of `predict`: each dataset, or each map, is predicted from the others.

    rows: recorded classes; by default the included ones. by: what is left out.
    """
    rows = recorded_classes() if rows is None else rows
    features, lost = _of(rows)
    runs, groups = [row.run for row in rows], [getattr(row, by) for row in rows]
    risks, pulls = left_out(features, lost, groups), -features[:, 0]
    return Calibration(
        rows=len(rows),
        lost=int(lost.sum()),
        area=area_under_curve(lost, risks),
        interval=area_interval(lost, risks, runs),
        pull_area=area_under_curve(lost, pulls),
        pull_interval=area_interval(lost, pulls, runs),
        expected=float(risks.mean()),
    )


def _features(
    pull: float, pull_exponent: float, fraction: float, learning_rate: float, steps: int
) -> FloatArray:
    """(5). A pull ratio of 0 or below counts as 1e-6, an infinite one as 1e3."""
    return np.array(
        [
            math.log10(min(max(pull, 1e-6), 1e3)),
            pull_exponent,
            math.log10(fraction),
            math.log10(learning_rate),
            math.log10(steps),
        ]
    )


def _of(rows: Sequence[RecordedClass]) -> tuple[FloatArray, BoolArray]:
    """Features (n 5) of recorded classes, and whether they were lost (n)."""
    features = [
        _features(row.pull, row.pull_exponent, row.fraction, row.learning_rate, row.steps)
        for row in rows
    ]
    return np.array(features), np.array([row.lost for row in rows])


@cache
def _model() -> Logistic:
    return Logistic.fit(*_of(recorded_classes()))
