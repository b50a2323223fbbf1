"""Sizes of windows that a network can take."""

from __future__ import annotations

from collections.abc import Sequence


def padded(lengths: Sequence[int], multiple_of: int) -> tuple[int, ...]:
    """Lengths rounded up to a multiple.

    >>> padded((41, 56), 8)
    (48, 56)
    """
    return tuple(-(-length // multiple_of) * multiple_of for length in lengths)
