"""Which engine computes, and what a distance means where there is nothing to measure to."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError

EngineName: TypeAlias = Literal["edt", "scipy"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
Spacings: TypeAlias = Sequence[tuple[float, ...]]

_Engine: TypeAlias = Callable[[NDArray[Any], tuple[float, ...]], NDArray[np.float32]]


@cache
def _edt_installed() -> bool:
    return importlib.util.find_spec("edt") is not None


def engine_name(engine: str | None = None) -> EngineName:
    """The engine that will compute: the one asked for, else `edt` where installed, else SciPy.

    Raises RWLossError for an unknown engine, or one that is not installed.
    """
    if engine is None:
        return "edt" if _edt_installed() else "scipy"
    if engine not in ENGINES:
        raise RWLossError(f"unknown distance engine {engine!r}: expected one of {list(ENGINES)}")
    if engine == "edt" and not _edt_installed():
        raise RWLossError("the distance engine 'edt' is not installed: pip install 'rwloss[fast]'")
    return engine


def squared_to_other_label_mm2(
    labels: NDArray[Any], spacings_mm: Spacings, *, engine: str | None = None
) -> NDArray[np.float32]:
    """Squared distance in mm² to the nearest voxel of another label, without edge rules.

    labels (b *s), whole numbers of 0 or more, and a spacing for each image -> (b *s) float32.
    Exact where all squared distances fit in float32, as for whole spacings; infinite in an image
    that holds one label only.
    """
    module = import_module(f"rwloss.distance.{engine_name(engine)}_engine")
    compute = cast(_Engine, module.squared_to_other_label_mm2)
    squared = np.empty(labels.shape, dtype=np.float32)
    for image, spacing_mm, out in zip(labels, spacings_mm, squared, strict=True):
        if image.size:
            out[...] = compute(image, spacing_mm)
    return squared


def depth_squared_mm2(
    labels: NDArray[Any], spacings_mm: Spacings, *, engine: str | None = None
) -> NDArray[np.float32]:
    """Squared depth in mm²: squared distance to the nearest voxel of another label.

    labels (b *s), whole numbers of 0 or more -> (b *s) float32, above 0 and finite everywhere.
    An image that holds one label only: the square of its smallest spacing at every voxel.
    """
    squared = squared_to_other_label_mm2(labels, spacings_mm, engine=engine)
    for spacing_mm, out in zip(spacings_mm, squared, strict=True):
        if out.size and np.isinf(out.flat[0]):  # one infinite voxel means all are
            out[...] = np.float32(min(spacing_mm)) ** 2  # in float32, so that its root is exact
    return squared


def signed_distance_mm(
    mask: NDArray[np.bool_], spacings_mm: Spacings, *, engine: str | None = None
) -> NDArray[np.float32]:
    """Signed distance in mm to the other side: below 0 inside the mask, above 0 outside.

    mask (b *s) -> (b *s) float32. 0 everywhere in an image where the mask is empty or full.
    """
    # Both sides in one pass: with the mask as labels, each side's other label is the other side.
    distance = squared_to_other_label_mm2(mask.view(np.uint8), spacings_mm, engine=engine)
    np.sqrt(distance, out=distance)
    np.negative(distance, out=distance, where=mask)
    for out in distance:
        if out.size and np.isinf(out.flat[0]):
            out[...] = 0.0
    return distance


def distance_to_mm(
    mask: NDArray[np.bool_], spacings_mm: Spacings, *, engine: str | None = None
) -> NDArray[np.float32]:
    """Distance in mm to the nearest voxel of the mask. mask (b *s) -> (b *s) float32.

    0 on the mask, and everywhere in an image where the mask is empty.
    """
    distance = signed_distance_mm(mask, spacings_mm, engine=engine)
    return np.maximum(distance, 0.0, out=distance)
