"""Colours and grey values that every picture of a case shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY, IGNORED = "#ececec", "#a8a8a8"

# Okabe & Ito's colours, told apart with every common form of colour blindness.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
"""Of foreground classes, from class 1 on."""

# ColorBrewer's RdBu without its dark ends, on which no line can be seen.
_BLUE_TO_RED = (
    *("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7"),
    *("#fddbc7", "#f4a582", "#d6604d", "#b2182b"),
)


def rgb(colour: str) -> NDArray[np.uint8]:
    """Red, green and blue of a colour such as "#E69F00"."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def diverging(values: NDArray[Any]) -> NDArray[np.float64]:
    """Blue at -1, white at 0, red at 1. (*s) -> (*s 3), of 0..1."""
    steps = np.linspace(-1, 1, len(_BLUE_TO_RED))
    colours = np.array([rgb(colour) for colour in _BLUE_TO_RED]) / 255
    return np.stack([np.interp(values, steps, colours[:, i]) for i in range(3)], axis=-1)


def grey(image: NDArray[Any]) -> NDArray[np.float64]:
    """The image from its 1st to its 99th percentile as 0..1; black where it is not finite."""
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    low, high = np.percentile(values[finite], (1, 99))
    scaled = (np.where(finite, values, low) - low) / (high - low if high > low else 1.0)
    return np.asarray(np.clip(scaled, 0.0, 1.0))
