"""The risk that a class is lost, from what is known before training."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rwloss.errors import RWLossError
from rwloss.stability.fitted import FloatArray, Logistic, fitted

BEFORE_TRAINING = ("pull", "pull_exponent", "fraction", "learning_rate", "steps")
"""What `predict` looks at, in the order of `features_before`."""

_MARGIN = 0.1  # of a feature: about a quarter of a number, a tenth of an exponent


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
    fitted to recorded runs: small U-Nets, 2-D, Adam. `calibration` measures it on held-out datasets
    and maps. Warns of numbers outside those of the recorded runs: the risk is an extrapolation.

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
    row = features_before(pull, pull_exponent, fraction, learning_rate, steps)
    _warn_outside(row, (pull, pull_exponent, fraction, learning_rate, steps))
    return float(Logistic.read(fitted()["risk"]["model"]).probability(row[None])[0])


def features_before(
    pull: float, pull_exponent: float, fraction: float, learning_rate: float, steps: float
) -> FloatArray:
    """The features of the model: logarithms to base 10, and the exponent itself. (5).

    A pull ratio of 0 or below counts as 1e-6, an infinite one as 1e3.
    """
    return np.array(
        [
            math.log10(min(max(pull, 1e-6), 1e3)),
            pull_exponent,
            math.log10(fraction),
            math.log10(learning_rate),
            math.log10(steps),
        ]
    )


def _warn_outside(row: FloatArray, values: tuple[float, ...]) -> None:
    """Warn of values outside those of the recorded runs."""
    ranges = [fitted()["fitted_on"]["ranges"][name] for name in BEFORE_TRAINING]
    low, high = (features_before(*ends) for ends in zip(*ranges, strict=True))
    outside = (row < low - _MARGIN) | (row > high + _MARGIN)
    if outside.any():
        named = ", ".join(
            f"{name} {values[i]:g} (recorded: {ranges[i][0]:g} to {ranges[i][1]:g})"
            for i, name in enumerate(BEFORE_TRAINING)
            if outside[i]
        )
        warnings.warn(f"the risk is an extrapolation: {named}", stacklevel=3)


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


def calibration(by: Literal["dataset", "map"] = "dataset") -> Calibration:
    """Left-out quality of `predict`: each dataset, or each map, is predicted from the others.

    by: what is left out.
    """
    found = dict(fitted()["risk"]["left_out"][by])
    for name in ("interval", "pull_interval"):
        found[name] = tuple(found[name])
    return Calibration(**found)
