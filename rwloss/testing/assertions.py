"""Making maps in a check, and the messages of a check that fails."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rwloss.arrays import Array, to_numpy
from rwloss.maps.expression import Expression
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.testing.inputs import CheckInput

# Differences below this share of the map's largest value are rounding: sums in another order.
TOLERANCE = 1e-5


def made(generator: Expression, case: CheckInput) -> RWMap:
    """The map of an input. An exception in the generator is a failure that names the input."""
    return map_of(generator, case.regions(), case.probs.copy(), case)


def map_of(generator: Expression, regions: Regions, probs: Array, case: CheckInput) -> RWMap:
    """The map of these regions, which come from an input."""
    try:
        return generator(regions, probs)
    except Exception as error:
        raise AssertionError(
            f"{generator} raised {type(error).__name__}: {error}\n  input: {case}"
        ) from error


def dense(rwmap: RWMap) -> NDArray[np.float64]:
    """Values of a map for every class. (b k *s), float64."""
    return np.asarray(to_numpy(rwmap.dense()), dtype=np.float64)


def expect(condition: object, claim: str, case: CheckInput) -> None:
    """Fail with the claim and the input unless the condition holds."""
    if not condition:
        raise AssertionError(f"{claim}\n  input: {case}")


def assert_same(
    found: NDArray[Any],
    wanted: NDArray[Any],
    claim: str,
    case: CheckInput,
    tolerance: float = TOLERANCE,
) -> None:
    """Fail with the claim, the largest difference, its place and the input. (b k *s) both."""
    shapes = f"expected shape {wanted.shape}, got {found.shape}"
    expect(found.shape == wanted.shape, f"{claim}\n  {shapes}", case)
    if not found.size:
        return
    difference = np.abs(found.astype(np.float64) - wanted)
    allowed = tolerance * float(np.abs(wanted).max())
    if (difference <= allowed).all():
        return
    place = np.unravel_index(int(np.nan_to_num(difference, nan=np.inf).argmax()), found.shape)
    fail(claim, place, wanted[place], found[place], int((difference > allowed).sum()), case)


def fail(
    claim: str, place: Any, wanted: object, found: object, count: int, case: CheckInput
) -> NoReturn:
    """Raise AssertionError for a claim that is wrong at a place (image, class, voxel)."""
    image, k, *voxel = (int(part) for part in place)
    raise AssertionError(
        f"{claim}\n"
        f"  expected {_shown(wanted)}, got {_shown(found)} at image {image}, class {k}, voxel "
        f"{tuple(voxel)}; {count} values differ\n"
        f"  input: {case}"
    )


def _shown(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float | np.floating) else str(value)
