"""Checks on a half-space, a slab, a ball and a single voxel: a map has their symmetry."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from rwloss.maps.generator import MapGenerator
from rwloss.testing.closed_forms import ClosedForm, Shape, closed_forms
from rwloss.testing.verdict import assert_same, dense, made


def check_half_space(generator: MapGenerator, num_classes: int = 4) -> None:
    """Class 1 beyond a plane: nothing changes along the plane, so the map doesn't either."""
    _assert_layered(generator, "half-space", num_classes)


def check_slab(generator: MapGenerator, num_classes: int = 4) -> None:
    """Class 1 between two planes: nothing changes along them, so the map doesn't either."""
    _assert_layered(generator, "slab", num_classes)


def check_ball(generator: MapGenerator, num_classes: int = 4) -> None:
    """A ball is its own mirror image and turns into itself; so does a map that promises it."""
    for form in _of_shape("ball", num_classes):
        _assert_mirrored(generator, form)
        if "rot90" in generator.tags.commutes_with:
            values = dense(made(generator, form.trial))
            for pair in combinations(range(2, values.ndim), 2):
                claim = f"{generator} promises 'rot90', but its map of a ball is not round"
                assert_same(values, np.rot90(values, axes=pair), claim, form.trial)


def check_single_voxel(generator: MapGenerator, num_classes: int = 4) -> None:
    """A voxel in the middle is its own mirror image; so is a map that promises it."""
    for form in _of_shape("single voxel", num_classes):
        _assert_mirrored(generator, form)


def _of_shape(shape: Shape, num_classes: int) -> Iterator[ClosedForm]:
    return (form for form in closed_forms(num_classes) if form.shape == shape)


def _assert_layered(generator: MapGenerator, shape: Shape, num_classes: int) -> None:
    for form in _of_shape(shape, num_classes):
        values = dense(made(generator, form.trial))
        for axis in set(range(values.ndim - 2)) - {form.across}:
            first = values.take([0], axis=axis + 2)
            assert_same(
                values,
                np.broadcast_to(first, values.shape),
                f"{generator}: nothing changes along axis {axis} of a {shape}, but the map does",
                form.trial,
            )


def _assert_mirrored(generator: MapGenerator, form: ClosedForm) -> None:
    if "flip" not in generator.tags.commutes_with:
        return
    values = dense(made(generator, form.trial))
    for axis in range(2, values.ndim):
        claim = (
            f"{generator} promises 'flip', but its map of a {form.shape} in the middle is not its "
            f"own mirror image along axis {axis - 2}"
        )
        assert_same(values, np.flip(values, axis), claim, form.trial)
