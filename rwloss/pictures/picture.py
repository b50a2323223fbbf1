"""What a picture shows: everything cut to one slice, with its names and its note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 6
"""Channels of a map in one row; more would need a wider screen than most have."""


@dataclass(frozen=True)
class Row:
    """One map: its text, its channels (k rows columns) in the slice, its unit or ""."""

    text: str
    channels: NDArray[np.float64]
    unit: str


@dataclass(frozen=True)
class Picture:
    """All that the sheet shows; labels (rows columns), -1 where ignored. names: of every class."""

    labels: NDArray[np.int32]
    image: NDArray[Any] | None
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    step_mm: tuple[float, float]
    title: str
    slice_text: str

    @property
    def classes(self) -> list[int]:
        """The classes that get a column: all, or those with the most voxels here."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))
        largest = np.argsort(-counts, kind="stable")[:MAX_CLASSES]
        return sorted(int(k) for k in largest)

    @property
    def note(self) -> str:
        """What a reader who sees such a picture for the first time has to know."""
        parts = [
            "Value of the map at each voxel: what it costs to put probability on the class "
            "(blue: below 0, white: 0, red: above 0). Lines: borders of the classes."
        ]
        if len(self.names) > MAX_CLASSES:
            parts.append(
                f"{MAX_CLASSES} of {len(self.names)} classes: those with the most voxels here."
            )
        return " ".join([*parts, self.slice_text]).strip()
