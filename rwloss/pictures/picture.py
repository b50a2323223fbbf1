"""What a picture shows: everything cut to one slice, with its names and its note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 6
"""Channels of a map in one row; more would need a wider screen than most people have."""


@dataclass(frozen=True)
class MapRow:
    """One map: its text, its channels (k rows columns) in the slice, and its unit or ""."""

    text: str
    channels: NDArray[np.float64]
    unit: str = ""


@dataclass(frozen=True)
class Picture:
    """Everything on the sheet.

    labels: (rows columns), -1 where ignored. names: of every class. step_mm: between rows and
    between columns. meaning: what the colours of the channels say.
    """

    labels: NDArray[np.int32]
    image: NDArray[Any] | None
    rows: Sequence[MapRow]
    names: tuple[str, ...]
    step_mm: tuple[float, float]
    title: str
    meaning: str
    slice_text: str

    @property
    def classes(self) -> list[int]:
        """The classes that get a column: all, or those with the most voxels here."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.names))
        largest = np.argsort(-counts, kind="stable")[:MAX_CLASSES]
        return sorted(int(k) for k in largest)

    @property
    def note(self) -> str:
        """What readers need to know when they see such a picture for the first time."""
        shown = ""
        if len(self.names) > MAX_CLASSES:
            shown = f"{MAX_CLASSES} of {len(self.names)} classes: those with the most voxels here."
        return " ".join(filter(None, [self.meaning, shown, self.slice_text]))
