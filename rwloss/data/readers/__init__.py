"""One reader per family of formats: their result type, and two checks before memory is allocated.

`rwloss.data.formats` chooses among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rwloss.errors import RWLossError

DEFLATE_RATIO = 1032
"""The most that deflate (gzip, PNG, .npz) can shrink anything, from its format."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """The values (*s) of one file as it stores them, any numeric dtype and byte order.

    step: distance between neighboring values if the file stores scaled integers, else 0.
    is_palette: the values are indices of a color table, not gray values. colours: the names of the
    first axis, if the values are a color picture (c *s).
    """

    values: NDArray[Any]
    spacing_mm: tuple[float, ...] | None = None
    affine: NDArray[Any] | None = None
    step: float = 0.0
    is_palette: bool = False
    colours: str = ""


def check_shape(shape: Sequence[int], max_voxels: int) -> None:
    """Refuse an impossible shape, or one of more than max_voxels voxels.

    Raises RWLossError.
    """
    if not shape or min(shape) < 1:
        raise RWLossError(f"its header announces the shape {tuple(shape)}, which holds no voxel")
    voxels = math.prod(shape)
    if voxels > max_voxels:
        raise RWLossError(
            f"its header announces {voxels} voxels {tuple(shape)}, more than the limit of "
            f"{max_voxels}: the header is damaged, or pass a larger max_voxels"
        )


def check_bytes(needed: int, present: int, *, ratio: int = 1) -> None:
    """Refuse a header that announces more bytes than the file can hold, before allocating them.

    ratio: the most that the file's compression can shrink anything. Raises RWLossError.
    """
    if needed > present * ratio:
        raise RWLossError(
            f"it is cut short: its header announces {needed} bytes of voxels, and the "
            f"{present} {'compressed ' if ratio > 1 else ''}bytes of the file cannot hold them"
        )
