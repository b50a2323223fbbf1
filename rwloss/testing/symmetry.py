"""Checks that maps follow an input that is moved, renumbered, scaled or symmetric."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, permutations
from typing import Any, TypeAlias

import numpy as np

from rwloss import moves
from rwloss.maps.generator import MapGenerator
from rwloss.rwmap import RWMap
from rwloss.testing.inputs import (
    IGNORE_LABEL,
    CheckInput,
    ClosedForm,
    Shape,
    closed_forms,
    dense,
    ordinary,
)

_Move: TypeAlias = Callable[[Any], Any]


def check_half_space(generator: MapGenerator, num_classes: int = 4) -> None:
    """Class 1 beyond a plane: the map must not change along the plane."""
    _assert_layered(generator, "half-space", num_classes)


def check_slab(generator: MapGenerator, num_classes: int = 4) -> None:
    """Class 1 between two planes: the map must not change along the planes."""
    _assert_layered(generator, "slab", num_classes)


def check_ball(generator: MapGenerator, num_classes: int = 4) -> None:
    """A ball is symmetric under flips and turns; so is the map, if it promises that."""
    for form in _of_shape("ball", num_classes):
        _assert_mirrored(generator, form)
        if "rot90" in generator.tags.commutes_with:
            values = form.input.dense(generator)
            for pair in combinations(range(2, values.ndim), 2):
                claim = f"{generator} promises 'rot90', but its map of a ball is not round"
                form.input.expect_same(values, np.rot90(values, axes=pair), claim)


def check_single_voxel(generator: MapGenerator, num_classes: int = 4) -> None:
    """A voxel in the middle is its own mirror image; so is the map, if it promises that."""
    for form in _of_shape("single voxel", num_classes):
        _assert_mirrored(generator, form)


def check_flips(generator: MapGenerator, num_classes: int = 4) -> None:
    """Mirrored labels give the mirrored map, along each axis."""
    for case in ordinary(num_classes):
        for axis in range(case.labels.ndim - 1):
            _assert_follows(generator, case, partial(moves.flip, axes=axis), "flip", f"axis {axis}")


def check_quarter_turns(generator: MapGenerator, num_classes: int = 4) -> None:
    """Labels turned by 90° together with their spacing give the turned map."""
    for case in ordinary(num_classes):
        for pair in combinations(range(case.labels.ndim - 1), 2):
            turn, how = partial(moves.rot90, axes=pair), "a turn from axis {} to {}".format(*pair)
            _assert_follows(generator, case, turn, "rot90", how)


def check_axis_order(generator: MapGenerator, num_classes: int = 4) -> None:
    """Labels and spacing with their axes in another order give the map in that order."""
    for case in ordinary(num_classes):
        count = case.labels.ndim - 1
        values = case.dense(generator)
        for order in list(permutations(range(count)))[1:]:
            of_dense = (0, 1, *(axis + 2 for axis in order))
            swapped = dataclasses.replace(
                case,
                what=f"{case.what}, axes {order}",
                labels=case.labels.transpose(0, *(axis + 1 for axis in order)),
                spacing_mm=tuple(tuple(row[axis] for axis in order) for row in case.spacing_mm),
                probs=case.probs.transpose(of_dense),
                grey=case.grey.transpose(of_dense),
            )
            claim = (
                f"{generator} promises 'flip' and 'rot90', so axes in the order {order} with their "
                "spacing must give the map in that order"
            )
            case.expect_same(swapped.dense(generator), values.transpose(of_dense), claim)


def check_crops(generator: MapGenerator, num_classes: int = 4) -> None:
    """The map of a crop is the crop of the whole map."""
    for case in ordinary(num_classes):
        sides = case.labels.shape[1:]
        for box in ([slice(1, None)] * len(sides), [slice(0, side - 1) for side in sides]):
            _assert_follows(generator, case, partial(moves.crop, region=box), "crop", str(box))


def check_relabelling(generator: MapGenerator, num_classes: int = 4) -> None:
    """Foreground classes with other numbers give the same map at those numbers.

    The background keeps its number, because some maps treat it differently.
    """
    number = np.arange(IGNORE_LABEL + 1)
    number[1:num_classes] = np.roll(number[1:num_classes], 1)
    new = number[:num_classes]
    for case in ordinary(num_classes):
        probs, wanted = np.empty_like(case.probs), case.dense(generator)
        probs[:, new] = case.probs
        renumbered = dataclasses.replace(case, labels=number[case.labels], probs=probs)
        claim = (
            f"{generator}: classes 1 to {num_classes - 1} with the numbers {new[1:].tolist()} must "
            "give the same map at those numbers"
        )
        case.expect_same(renumbered.dense(generator)[:, new], wanted, claim)


def check_spacing_scale(generator: MapGenerator, num_classes: int = 4) -> None:
    """Twice the spacing gives twice a map in mm, four times one in mm^2, the same one unitless.

    Parameters in mm (their names end in _mm) are doubled too.
    """
    power = power_of_mm(generator.unit)
    assert power is not None, f"{generator}: its unit {generator.unit!r} is not a power of mm"
    lengths = {
        field.name: _doubled(getattr(generator, field.name))
        for field in dataclasses.fields(generator)
        if field.name.endswith("_mm") and getattr(generator, field.name) is not None
    }
    doubled: MapGenerator = dataclasses.replace(generator, **lengths)
    for case in ordinary(num_classes):
        larger = dataclasses.replace(case, spacing_mm=_doubled(case.spacing_mm))
        claim = (
            f"{generator} is in {generator.unit or 'mm^0'}: twice the spacing (and every "
            f"parameter in mm) must give {2.0**power:g} times the map"
        )
        wanted = case.dense(generator) * 2.0**power
        # A loss may add a small constant against division by 0.
        case.expect_same(larger.dense(doubled), wanted, claim, tolerance=1e-4)


def check_spacing_unused(generator: MapGenerator, num_classes: int = 4) -> None:
    """Another spacing gives the same map."""
    for case in ordinary(num_classes):
        rows = tuple((*row[:-1], 3.0 * row[-1]) for row in case.spacing_mm)
        other = dataclasses.replace(case, spacing_mm=rows)
        claim = f"{generator} says uses_spacing=False: another spacing must give the same map"
        case.expect_same(other.dense(generator), case.dense(generator), claim)


def power_of_mm(unit: str) -> float | None:
    """The exponent of mm in a unit: 1 for mm, 0 for unitless; None for other units.

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
    generator: MapGenerator, case: CheckInput, move: _Move, promise: str, how: str
) -> None:
    regions = case.regions(generator)
    probs = RWMap.from_dense(regions.labels, case.probs.copy())
    found = case.map_of(generator, move(regions), move(probs).values)
    case.expect_same(
        dense(found),
        dense(move(case.map_of(generator))),
        f"{generator} promises '{promise}', but the map of moved labels is not the moved map "
        f"({how})",
    )


def _of_shape(shape: Shape, num_classes: int) -> Iterator[ClosedForm]:
    return (form for form in closed_forms(num_classes) if form.shape == shape)


def _assert_layered(generator: MapGenerator, shape: Shape, num_classes: int) -> None:
    for form in _of_shape(shape, num_classes):
        values = form.input.dense(generator)
        for axis in set(range(values.ndim - 2)) - {form.across}:
            first = np.broadcast_to(values.take([0], axis=axis + 2), values.shape)
            claim = f"{generator}: nothing changes along axis {axis} of a {shape}, but the map does"
            form.input.expect_same(values, first, claim)


def _assert_mirrored(generator: MapGenerator, form: ClosedForm) -> None:
    if "flip" not in generator.tags.commutes_with:
        return
    values = form.input.dense(generator)
    for axis in range(2, values.ndim):
        claim = (
            f"{generator} promises 'flip', but its map of a {form.shape} in the middle is not its "
            f"own mirror image along axis {axis - 2}"
        )
        form.input.expect_same(values, np.flip(values, axis), claim)
