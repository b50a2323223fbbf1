"""Colours and grey values that every picture of a case shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY, IGNORED = "#ececec", "#a8a8a8"

# Okabe & Ito's colours, told apart with every common form of colour blindness.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
"""Of foreground classes, from class 1 on."""


def grey(image: NDArray[Any]) -> NDArray[np.float64]:
    """The image from its 1st to its 99th percentile as 0..1; black where it is not finite."""
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    low, high = np.percentile(values[finite], (1, 99))
    scaled = (np.where(finite, values, low) - low) / (high - low if high > low else 1.0)
    return np.asarray(np.clip(scaled, 0.0, 1.0))
