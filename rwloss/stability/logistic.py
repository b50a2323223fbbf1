"""A small logistic model, fitted with NumPy, and its quality on held-out groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]

_RIDGE = 1.0
_STEPS = 50


@dataclass(frozen=True, eq=False)
class Logistic:
    """log(p / (1 - p)) = bias + Σ weights (features - mean) / scale. (f) each."""

    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    bias: float

    @classmethod
    def fit(cls, features: FloatArray, lost: BoolArray) -> Logistic:
        """The maximum-likelihood model with a ridge of 1 on standardized weights. (n f), (n).

        By Newton's method; the bias has no ridge. Without rows of both kinds, p is the mean.
        """
        scale = features.std(axis=0)
        scale[scale == 0] = 1.0
        mean = features.mean(axis=0)
        rows = np.column_stack([(features - mean) / scale, np.ones(len(features))])
        ridge = np.diag([*[_RIDGE] * features.shape[1], 1e-6])
        weights = np.zeros(rows.shape[1])
        for _ in range(_STEPS):
            found = _sigmoid(rows @ weights)
            slope = rows.T @ (found - lost) + ridge @ weights
            curvature = (rows * (found * (1 - found))[:, None]).T @ rows + ridge
            step = np.linalg.solve(curvature, slope)
            weights -= step
            if np.abs(step).max() < 1e-10:
                break
        return cls(mean, scale, weights[:-1], float(weights[-1]))

    def probability(self, features: FloatArray) -> FloatArray:
        """Probability of a loss. (n f) -> (n)."""
        return _sigmoid((features - self.mean) / self.scale @ self.weights + self.bias)


def left_out(features: FloatArray, lost: BoolArray, groups: Sequence[str]) -> FloatArray:
    """Probability of each row by a model that has not seen its group. (n f) -> (n)."""
    found, names = np.empty(len(lost)), np.array(groups)
    for name in np.unique(names):
        own = names == name
        found[own] = Logistic.fit(features[~own], lost[~own]).probability(features[own])
    return found


def area_under_curve(lost: BoolArray, scores: FloatArray) -> float:
    """Probability that a lost row scores above a kept one; ties count half. NaN without both.

    >>> area_under_curve(np.array([True, True, False]), np.array([0.9, 0.2, 0.2]))
    0.75
    """
    above = scores[lost][:, None] - scores[~lost][None]
    return float(((np.sign(above) + 1) / 2).mean()) if above.size else float("nan")


def area_interval(
    lost: BoolArray, scores: FloatArray, runs: Sequence[str], *, resamples: int = 1000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the area, over whole runs. (n)."""
    return over_runs(
        runs, lambda drawn: area_under_curve(lost[drawn], scores[drawn]), resamples=resamples
    )


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
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(low), float(high)


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))
