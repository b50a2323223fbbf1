"""2-D slices of volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AXIAL = 2
"""The axis that axial slices are stacked along, in the (right, anterior, superior) of NIfTI."""


def stacked(values: NDArray[Any], spatial_axes: int, axis: int = AXIAL) -> NDArray[Any]:
    """Slices along the first axis. (... *s) -> (n ... h w); a 2-D image is one slice."""
    if spatial_axes == 2:
        return values[None]
    return np.moveaxis(values, values.ndim - spatial_axes + axis, 0)


def unstacked(slices: NDArray[Any], spatial_axes: int, axis: int = AXIAL) -> NDArray[Any]:
    """The volume again. (n ... h w) -> (... *s)."""
    if spatial_axes == 2:
        volume: NDArray[Any] = slices[0]
        return volume
    return np.moveaxis(slices, 0, slices.ndim - spatial_axes + axis)
