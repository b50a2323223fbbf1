"""Voxel spacings in mm: from an affine, from a file's unit, and checks that file and caller
agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from rwloss.errors import RWLossError
from rwloss.regions import POSSIBLE_MM

# The volume of three unit axes; 1 if they stand at right angles.
_FLAT = 1e-6

MAX_COSINE = 1e-3
"""Axes count as perpendicular up to this cosine (0.06 degrees): no length is off by more than 0.05
%.

Headers round their directions to about 1e-6; a tilted gantry gives 0.1 and more.
"""

_MM_PER_UNIT = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6, "pm": 1e-9, "in": 25.4}
_MM_PER_UNIT |= {"meter": 1e3, "metre": 1e3, "millimeter": 1.0, "nanometer": 1e-6, "inch": 25.4}
_MM_PER_UNIT |= dict.fromkeys(("micron", "micrometer"), 1e-3)
# NIfTI's codes; everyone takes the unknown unit for mm.
_NIFTI_UNITS = {0: "mm", 1: "m", 2: "mm", 3: "um"}


def mm_per_unit(unit: str | int) -> float:
    """Millimeters per unit: a name such as "mm" or "micron", or NIfTI's xyzt_units.

    Raises RWLossError for a unit that is not a known length.

    >>> mm_per_unit("µm"), mm_per_unit(3)
    (0.001, 0.001)
    """
    if not isinstance(unit, str):
        unit = _NIFTI_UNITS.get(int(unit) & 7, f"of code {int(unit) & 7}")
    name = unit.strip().lower().replace("\u00b5", "u").replace("\u03bc", "u")
    known = _MM_PER_UNIT.get(name) or _MM_PER_UNIT.get(name.removesuffix("s"))
    if known is None:
        raise RWLossError(f"unknown unit of length {unit!r}: expected mm, um, nm, cm or m")
    return known


def spacing_from_affine(
    affine: ArrayLike, *, unit: str | int = "mm", shape: Sequence[int] | None = None
) -> tuple[float, ...]:
    """Spacing in mm of each axis of an affine (d+1 d+1): the lengths of its columns.

    unit: of the affine's lengths, as in `mm_per_unit`. shape: of the volume, if known, to get one
    length per axis of it; its axes of length 1 may be oblique, because no distance goes along them.

    Raises RWLossError for impossible lengths, for axes that are not independent, and for axes that
    are not at right angles (sheared, as with a tilted gantry) within MAX_COSINE.

    >>> spacing_from_affine(np.diag([800, 1000, 2500, 1]), unit="um")
    (0.8, 1.0, 2.5)
    """
    matrix = np.asarray(affine, dtype=np.float64)
    axes = len(matrix) - 1
    columns = matrix[:axes, :axes] * mm_per_unit(unit)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(columns, axis=0)
        directions = columns / lengths
        volume = abs(np.linalg.det(directions))
    if not (np.isfinite(matrix).all() and _are_possible(lengths) and volume > _FLAT):
        raise RWLossError(
            f"expected an affine of finite numbers and {axes} independent axes, got "
            f"{matrix[:-1].tolist()}: correct its sform or qform (in MHA and NRRD, its directions)"
        )
    count = axes if shape is None else min(len(shape), axes)
    longer = [axis for axis in range(count) if shape is None or shape[axis] > 1]
    for one, other in combinations(longer, 2):
        cosine = float(directions[:, one] @ directions[:, other])
        if abs(cosine) > MAX_COSINE:
            raise RWLossError(
                f"the axes {one} and {other} meet at {math.degrees(math.acos(cosine)):.2f} degrees "
                "in its affine, and a spacing needs right angles: resample first, to a grid "
                "without shear"
            )
    return tuple(lengths[:count].tolist())


def check_affine(
    affine: ArrayLike, spacing_mm: Sequence[float] | None, shape: Sequence[int]
) -> None:
    """Raise RWLossError for an affine without a spacing, or with a spacing that differs from the
    file's."""
    found = spacing_from_affine(affine, shape=shape)
    for axis, (one, other) in enumerate(zip(found, spacing_mm or found, strict=True)):
        if shape[axis] > 1 and not math.isclose(one, other, rel_tol=MAX_COSINE):
            raise RWLossError(
                f"its spacing is {spacing_mm} mm, and that of its affine {found}: correct one of "
                "them (in NIfTI, pixdim or sform)"
            )


def _are_possible(lengths_mm: Iterable[float]) -> bool:
    return all(POSSIBLE_MM[0] <= length <= POSSIBLE_MM[1] for length in lengths_mm)


def agreed_spacing(
    given: Sequence[float] | None, carried: Sequence[float] | None, ndim: int
) -> tuple[float, ...] | None:
    """The spacing in mm that the file (carried) and the caller (given) agree on, checked.

    Raises RWLossError for another number of axes than ndim, impossible lengths, and a difference.
    """
    for spacing, whose in ((carried, "the file's"), (given, "the given")):
        if spacing is None:
            continue
        if len(spacing) != ndim:
            raise RWLossError(
                f"expected {ndim} lengths in {whose} spacing_mm, one per axis, got {len(spacing)}: "
                f"{tuple(spacing)}"
            )
        if not _are_possible(spacing):
            low, high = POSSIBLE_MM
            raise RWLossError(
                f"expected lengths above zero (from {low:g} to {high:g} mm) in {whose} spacing_mm, "
                f"got {tuple(spacing)}"
            )
    if given is None or carried is None:
        known = given if carried is None else carried
        return None if known is None else tuple(map(float, known))
    if not np.allclose(given, carried, rtol=1e-5, atol=0):
        raise RWLossError(
            f"the file carries the spacing {tuple(carried)} mm, and spacing_mm={tuple(given)} was "
            "given: leave spacing_mm out, or correct the file"
        )
    return tuple(map(float, carried))
