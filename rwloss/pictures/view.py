"""Select the slice of a volume to draw, and its orientation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class View:
    """One slice and its orientation. step_mm: between rows, columns.

    axis: across which a volume (3-D) is cut; None for an image (2-D), which is a slice already.
    """

    step_mm: tuple[float, float]
    axis: int | None = None
    index: int = 0
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    text: str = ""

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values (... *s) -> (... rows columns)."""
        if self.axis is not None:
            values = np.take(values, self.index, axis=self.axis - 3)
        if self.transpose:
            values = np.swapaxes(values, -1, -2)
        return values[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def choose_view(
    labels: NDArray[Any],
    spacing_mm: tuple[float, ...],
    affine: NDArray[Any] | None,
    axis: int | None,
    index: int | None,
) -> View:
    """The requested view, else that of the fullest slice along the axis of the largest spacing.

    An axis of length 1 comes before the largest spacing.

    labels: (*s), -1 where ignored. Raises RWLossError for an axis or a slice that is not there.
    """
    plane = list(range(labels.ndim))
    if labels.ndim == 2:
        if axis is not None or index is not None:
            raise RWLossError("labels with 2 axes have no slices: leave out axis and slice")
        text = ""
    else:
        if axis is None:
            # A single slice is cut out of its volume whatever its spacing.
            axis = max(plane, key=lambda i: (labels.shape[i] == 1, spacing_mm[i], i))
        elif axis not in plane:
            raise RWLossError(f"expected an axis of 0..{labels.ndim - 1}, got {axis}")
        count = labels.shape[axis]
        if index is None:
            index = _fullest_slice(labels, axis)
        elif not 0 <= index < count:
            raise RWLossError(f"expected a slice of 0..{count - 1} along axis {axis}, got {index}")
        plane.remove(axis)
        text = f"Slice {index} of 0..{count - 1} along axis {axis}."
    row, column = plane
    view = View((spacing_mm[row], spacing_mm[column]), axis, index or 0, text=text)
    if affine is None:
        return view
    return _turned(view, np.asarray(affine, dtype=np.float64)[:3, plane])


def _fullest_slice(labels: NDArray[Any], axis: int) -> int:
    """The slice with the most classes, then the most foreground; the first of equals."""

    def fullness(index: int) -> tuple[int, int]:
        counts = np.bincount(np.take(labels, index, axis).reshape(-1) + 1)[1:]
        return int(np.count_nonzero(counts)), int(counts[1:].sum())

    return max(range(labels.shape[axis]), key=fullness)


def _turned(view: View, directions: NDArray[np.float64]) -> View:
    """The view with right, anterior and superior to the right and up.

    directions: (3, 2), the way in RAS of one step along rows, columns.
    """
    first, second = np.argmax(np.abs(directions), axis=0)
    up = bool(directions[first, 0] > 0), bool(directions[second, 1] > 0)
    if first > second:
        return replace(view, flip_rows=up[0], flip_columns=not up[1])
    # Of right, anterior and superior, the earlier one runs to the right.
    return replace(
        view,
        step_mm=view.step_mm[::-1],
        transpose=True,
        flip_rows=up[1],
        flip_columns=not up[0],
    )


def known_labels(labels: NDArray[Any], num_classes: int) -> NDArray[np.int32]:
    """The labels that are classes; -1, which is drawn gray, for all others. (*s)."""
    return np.where((labels >= 0) & (labels < num_classes), labels.astype(np.int32), np.int32(-1))


def channels_of(rwmap: RWMap, view: View) -> NDArray[np.float64]:
    """Values (k rows columns) in the slice, which is cut first: a dense volume is large."""
    cut = rwmap.with_arrays(lambda array: view.cut(np.asarray(array)))
    return np.asarray(cut.dense()[0], dtype=np.float64)
