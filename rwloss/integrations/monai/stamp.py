"""What a map is of, as one number that goes with its values: metadata gets lost on the way."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from torch import Tensor

EXPRESSION = "rwmap_expression"
"""A key of a map's metadata: the text of its expression, in a batch a list of them."""

# 10 bits and 14: a whole number below 2**24, which float32 keeps.
_CLASSES, _DIGESTS = 1 << 10, 1 << 14
LEAST = _CLASSES
"""Labels, masks and one-hot targets are below every stamp, unless a label is that large."""


@dataclass(frozen=True)
class Stamp:
    """What is told of a map.

    num_classes: 0 for several masks (one is a map of two classes); 1023 stands for more too.
    digest: of the expression's text; 0 where the number is none of a stamp.
    """

    num_classes: int
    digest: int

    @classmethod
    def of(cls, num_classes: int, expression: str) -> Stamp:
        """The stamp of a map with so many classes, 0 for several masks."""
        return cls(min(num_classes, _CLASSES - 1), digest(expression))

    @classmethod
    def of_number(cls, number: float) -> Stamp:
        """The stamp that a number stands for."""
        whole = int(number) if LEAST <= number < _DIGESTS * _CLASSES else 0
        if whole != number:
            return cls(0, 0)
        return cls(whole % _CLASSES, whole // _CLASSES)

    @property
    def number(self) -> int:
        """A whole number from `LEAST` to 2**24."""
        return self.digest * _CLASSES + self.num_classes


def digest(expression: str) -> int:
    """A number of an expression's text, from 1 to 16383."""
    return 1 + zlib.crc32(expression.encode()) % (_DIGESTS - 1)


def is_stamped(packed: Tensor) -> bool:
    """Whether these are maps, moved in whatever way, and no labels or one-hot. (b m *s)."""
    if packed.shape[1] < 5:
        return False
    # Compared wide: torch wraps what a narrow type can't hold.
    return bool((packed[:, -1].float() >= LEAST).any())


def stamps_of(packed: Tensor) -> list[Stamp]:
    """The stamps of maps that were moved by whole voxels: any voxel has them. (b m *s)."""
    numbers = packed[:, -1].flatten(1)[:, 0]
    return [Stamp.of_number(number) for number in numbers.tolist()]
