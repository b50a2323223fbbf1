"""Labels whose depth has a formula, to test values and symmetries of maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwloss.regions import Regions
from rwloss.testing.inputs import CheckInput, check_input, prediction_by_class

Shape: TypeAlias = Literal["half-space", "slab", "ball", "single voxel"]


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """One image of classes 0 and 1 with its depth by formula. labels (1 *s), depth_mm (1 *s).

    depth_mm: distance in mm from each voxel to the nearest voxel of the other class, float64.
    within_mm: largest difference from the depth on the grid; 0 where the formula is exact.
    across: the axis along which a half-space or a slab ends; nothing changes along the others.
    """

    shape: Shape
    input: CheckInput
    depth_mm: NDArray[np.float64]
    within_mm: float = 0.0
    across: int | None = None

    @property
    def regions(self) -> Regions:
        """Labels, number of classes and spacing."""
        return self.input.regions()

    def __str__(self) -> str:
        """Shape and size, such as "half-space 6x7 across axis 0"."""
        return self.input.what


def closed_forms(num_classes: int = 2) -> tuple[ClosedForm, ...]:
    """A half-space and a slab across each axis, a ball and a single voxel; in 2-D and in 3-D.

    num_classes: at least 2; classes above 1 are absent.

    >>> form = closed_forms()[0]
    >>> str(form), form.depth_mm[0, :, 0].round(3).tolist()
    ('half-space 6x7 across axis 0', [2.4, 1.6, 0.8, 0.8, 1.6, 2.4])
    """
    return tuple(_forms(num_classes))


def _forms(num_classes: int) -> Iterator[ClosedForm]:
    for size, spacing_mm in (((6, 7), (0.8, 2.5)), ((5, 6, 4), (0.8, 1.1, 2.5))):
        for axis in range(len(size)):
            yield _layers("half-space", size, spacing_mm, axis, num_classes)
            yield _layers("slab", size, spacing_mm, axis, num_classes)
        yield _single_voxel(size, spacing_mm, num_classes)
    for sides in (2, 3):
        yield _ball(sides, num_classes)


def _layers(
    shape: Literal["half-space", "slab"],
    size: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    axis: int,
    num_classes: int,
) -> ClosedForm:
    """Class 1 from the middle on, or in two layers there."""
    at = np.indices(size)[axis]
    middle = size[axis] // 2
    if shape == "half-space":
        inside = at >= middle
        layers = np.where(inside, at - middle + 1, middle - at)
    else:
        inside = (at >= middle - 1) & (at <= middle)
        layers = np.where(inside, 1, np.where(at < middle, middle - 1 - at, at - middle))
    return _form(shape, inside, layers * spacing_mm[axis], spacing_mm, num_classes, across=axis)


def _single_voxel(
    size: tuple[int, ...], spacing_mm: tuple[float, ...], num_classes: int
) -> ClosedForm:
    """Class 1 at the middle of an image with odd sides: every flip and turn maps it to itself."""
    size = tuple(2 * (side // 2) + 1 for side in size)
    from_middle = _from_middle(size, spacing_mm)
    inside = from_middle == 0
    depth = np.where(inside, min(spacing_mm), from_middle)
    return _form("single voxel", inside, depth, spacing_mm, num_classes)


def _ball(sides: int, num_classes: int) -> ClosedForm:
    """Class 1 within 3.2 voxels of the middle.

    The nearest voxel centre beyond the surface is at least as far as the surface, and at most one
    voxel diagonal farther. The formula takes the middle of that range.
    """
    spacing_mm, radius_mm = (1.3,) * sides, 3.2 * 1.3
    from_middle = _from_middle((9,) * sides, spacing_mm)
    diagonal = 1.3 * math.sqrt(sides)
    depth = np.abs(radius_mm - from_middle) + diagonal / 2
    return _form(
        "ball", from_middle <= radius_mm, depth, spacing_mm, num_classes, within_mm=diagonal / 2
    )


def _from_middle(size: tuple[int, ...], spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    squares = np.zeros(size)
    for at, side, spacing in zip(np.indices(size), size, spacing_mm, strict=True):
        squares += ((at - side // 2) * spacing) ** 2
    return np.sqrt(squares)


def _form(
    shape: Shape,
    inside: NDArray[np.bool_],
    depth_mm: NDArray[np.float64],
    spacing_mm: tuple[float, ...],
    num_classes: int,
    *,
    within_mm: float = 0.0,
    across: int | None = None,
) -> ClosedForm:
    labels = inside[None].astype(np.int64)
    size = "x".join(map(str, inside.shape))
    what = f"{shape} {size}" + ("" if across is None else f" across axis {across}")
    probs = prediction_by_class(labels, num_classes)
    case = check_input(what, labels, num_classes, spacing_mm, probs)
    return ClosedForm(shape, case, depth_mm[None], within_mm, across)
