"""Checks that move, renumber or scale the input: the map has to follow."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from itertools import combinations, permutations
from typing import Any, TypeAlias

import numpy as np

from rwloss import moves
from rwloss.maps.generator import MapGenerator
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.testing.trial import IGNORE_LABEL, Trial, ordinary
from rwloss.testing.verdict import assert_same, dense, made, map_of

_Move: TypeAlias = Callable[[Any], Any]


def check_flips(generator: MapGenerator, num_classes: int = 4) -> None:
    """Mirrored labels give the mirrored map, along each axis."""
    for of in ordinary(num_classes):
        for axis in range(of.labels.ndim - 1):
            _assert_follows(generator, of, partial(moves.flip, axes=axis), "flip", f"axis {axis}")


def check_quarter_turns(generator: MapGenerator, num_classes: int = 4) -> None:
    """Labels turned by 90°, their spacing along with them, give the turned map."""
    for of in ordinary(num_classes):
        for pair in combinations(range(of.labels.ndim - 1), 2):
            turn = partial(moves.rot90, axes=pair)
            _assert_follows(
                generator, of, turn, "rot90", f"a turn from axis {pair[0]} to {pair[1]}"
            )


def check_axis_order(generator: MapGenerator, num_classes: int = 4) -> None:
    """Labels with their axes in another order, and the spacing in that order, give that map."""
    for of in ordinary(num_classes):
        count = of.labels.ndim - 1
        values = dense(made(generator, of))
        for order in list(permutations(range(count)))[1:]:
            swapped = dataclasses.replace(
                of,
                what=f"{of.what}, axes {order}",
                labels=of.labels.transpose(0, *(axis + 1 for axis in order)),
                spacing_mm=tuple(tuple(row[axis] for axis in order) for row in of.spacing_mm),
                probs=of.probs.transpose(0, 1, *(axis + 2 for axis in order)),
            )
            assert_same(
                dense(made(generator, swapped)),
                values.transpose(0, 1, *(axis + 2 for axis in order)),
                f"{generator} promises 'flip' and 'rot90', so axes in the order {order} with their "
                "spacing must give the map in that order",
                of,
            )


def check_crops(generator: MapGenerator, num_classes: int = 4) -> None:
    """The map of a crop is the crop of the whole map."""
    for of in ordinary(num_classes):
        sides = of.labels.shape[1:]
        for box in ([slice(1, None)] * len(sides), [slice(0, side - 1) for side in sides]):
            _assert_follows(generator, of, partial(moves.crop, region=box), "crop", str(box))


def check_relabelling(generator: MapGenerator, num_classes: int = 4) -> None:
    """Foreground classes with other numbers give the same map at those numbers.

    The background keeps its number: some maps treat it apart.
    """
    number = np.arange(IGNORE_LABEL + 1)
    number[1:num_classes] = np.roll(number[1:num_classes], 1)
    new = number[:num_classes]
    for of in ordinary(num_classes):
        probs, wanted = np.empty_like(of.probs), dense(made(generator, of))
        probs[:, new] = of.probs
        renumbered = dataclasses.replace(of, labels=number[of.labels], probs=probs)
        assert_same(
            dense(made(generator, renumbered))[:, new],
            wanted,
            f"{generator}: classes 1 to {num_classes - 1} with the numbers {new[1:].tolist()} must "
            "give the same map at those numbers",
            of,
        )


def check_spacing_scale(generator: MapGenerator, num_classes: int = 4) -> None:
    """Twice the spacing: twice the map in mm, four times that in mm^2, the same without unit.

    Parameters in mm, whose names end in _mm, are doubled too.
    """
    power = power_of_mm(generator.unit)
    assert power is not None, f"{generator}: its unit {generator.unit!r} is no power of mm"
    lengths = {
        field.name: _doubled(getattr(generator, field.name))
        for field in dataclasses.fields(generator)
        if field.name.endswith("_mm") and getattr(generator, field.name) is not None
    }
    doubled: MapGenerator = dataclasses.replace(generator, **lengths)
    for of in ordinary(num_classes):
        larger = dataclasses.replace(of, spacing_mm=tuple(map(_doubled, of.spacing_mm)))
        assert_same(
            dense(made(doubled, larger)),
            dense(made(generator, of)) * 2.0**power,
            f"{generator} is in {generator.unit or 'mm^0'}: twice the spacing (and every "
            f"parameter in mm) must give {2.0**power:g} times the map",
            of,
            tolerance=1e-4,  # a loss may hold a small constant against divisions by 0
        )


def power_of_mm(unit: str) -> float | None:
    """The power of mm that a unit is: 1 for mm, 0 for unitless; None for anything else.

    >>> power_of_mm("mm^2"), power_of_mm("1/mm"), power_of_mm("unitless"), power_of_mm("HU")
    (2.0, -1.0, 0.0, None)
    """
    if unit == "unitless":
        return 0.0
    found = re.fullmatch(r"(1/)?mm(?:\^([\d.]+))?", unit)
    return None if found is None else float(found[2] or 1.0) * (-1.0 if found[1] else 1.0)


def _doubled(value: Any) -> Any:
    return tuple(map(_doubled, value)) if isinstance(value, tuple) else 2 * value


def _assert_follows(
    generator: MapGenerator, of: Trial, move: _Move, promise: str, how: str
) -> None:
    regions: Regions = of.regions()
    probs = RWMap.from_dense(regions.labels, of.probs.copy())
    wanted = move(made(generator, of))
    found = map_of(generator, move(regions), move(probs).values, of)
    assert_same(
        dense(found),
        dense(wanted),
        f"{generator} promises '{promise}', but the map of moved labels is not the moved map "
        f"({how})",
        of,
    )
