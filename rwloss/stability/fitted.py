"""The models that ship, as numbers in fitted.json: what they are fitted on, and how good they are.

`python -m benchmarks.recorded_runs` writes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Logistic:
    """log(p / (1 - p)) = bias + Σ weights (features - mean) / scale. (f) each, by their names."""

    names: tuple[str, ...]
    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    bias: float

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Logistic:
        """A model of fitted.json."""
        features = content["features"]
        mean, scale, weights = (
            np.array([each[what] for each in features.values()])
            for what in ("mean", "scale", "weight")
        )
        return cls(tuple(features), mean, scale, weights, content["bias"])

    def probability(self, features: FloatArray) -> FloatArray:
        """Probability of a loss. (n f) -> (n)."""
        return sigmoid((features - self.mean) / self.scale @ self.weights + self.bias)


def sigmoid(values: FloatArray) -> FloatArray:
    """1 / (1 + exp(-values)), without overflow."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))


@cache
def fitted() -> Mapping[str, Any]:
    """The content of fitted.json."""
    text = files("rwloss.stability").joinpath("fitted.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
