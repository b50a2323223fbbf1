"""How precise a stored map is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError

# A default store is within this of the exact map.
MAX_ERROR = 3e-4


def allowed_error(largest: float) -> float:
    """The largest error of stored values in a map whose largest exact value is given.

    MAX_ERROR, and less in proportion below 1, so that a map of a small weight keeps its shape.
    """
    return MAX_ERROR * min(1.0, 2.0 ** math.ceil(math.log2(largest))) if largest > 0 else 0.0


def as_float32(array: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """The values in float32, and the largest error. Raises RWLossError for values beyond it."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32, copy=False)
    error = largest_error(single, array)
    if not math.isfinite(error):
        raise RWLossError(
            f"its map has values up to {float(np.abs(array).max()):g}, beyond float32: give the "
            "expression a smaller weight"
        )
    return single, error


def largest_error(stored: NDArray[Any], exact: NDArray[Any]) -> float:
    """Largest difference between stored and exact values. Infinite where one overflowed."""
    return largest_of(np.subtract(stored, exact, dtype=np.result_type(exact.dtype, np.float32)))


def largest_of(array: NDArray[Any]) -> float:
    """The largest absolute value; 0 for no values."""
    return max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
