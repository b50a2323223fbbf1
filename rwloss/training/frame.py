"""A window of one size over images of any size: what is too long is cropped, too short padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError


@dataclass(frozen=True)
class Frame:
    """A centred window of `size` over the last axes of arrays of `shape`, lengths in voxels.

    One Frame moves image, labels and map of a case, so that they stay voxel on voxel.

    >>> frame = Frame(shape=(3, 1), size=(2, 3))
    >>> frame.put(np.array([[1], [2], [3]]), fill=0).tolist()
    [[0, 1, 0], [0, 2, 0]]
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that both have the same axes, each of one voxel or more."""
        if len(self.shape) != len(self.size) or min(self.shape + self.size) < 1:
            raise RWLossError(f"expected a size for each axis of {self.shape}, got {self.size}")

    def put(self, values: NDArray[Any], fill: float) -> NDArray[Any]:
        """Values in the window, `fill` around them. (... *shape) -> (... *size)."""
        return self._moved(values, self.shape, self.size, fill)

    def back(self, values: NDArray[Any], fill: float) -> NDArray[Any]:
        """Values of the window in their place, `fill` outside it. (... *size) -> (... *shape)."""
        return self._moved(values, self.size, self.shape, fill)

    @staticmethod
    def _moved(
        values: NDArray[Any], source: Sequence[int], target: Sequence[int], fill: float
    ) -> NDArray[Any]:
        axes = len(source)
        if values.shape[-axes:] != tuple(source):
            raise RWLossError(f"expected an array (... {tuple(source)}), got {values.shape}")
        moved = np.full((*values.shape[:-axes], *target), fill, dtype=values.dtype)
        pairs = list(zip(source, target, strict=True))
        take: tuple[Any, ...] = (..., *(_middle(length, of) for length, of in pairs))
        place: tuple[Any, ...] = (..., *(_middle(of, length) for length, of in pairs))
        moved[place] = values[take]
        return moved


def _middle(length: int, other: int) -> slice:
    """The middle of an axis that the other one has room for.

    A crop and its pad must be each other's inverse, so both round the same way.
    """
    start = max(length - other, 0) // 2
    return slice(start, start + min(length, other))


def padded(lengths: Sequence[int], multiple_of: int) -> tuple[int, ...]:
    """Lengths rounded up to a multiple.

    >>> padded((41, 56), 8)
    (48, 56)
    """
    return tuple(-(-length // multiple_of) * multiple_of for length in lengths)
