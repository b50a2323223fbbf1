"""Exact Euclidean distances in millimeters: one dispatch over engines, one set of edge rules.

Every engine computes one quantity: the squared distance to the nearest voxel of another label. It
gives the depth of a voxel in its class and, with a mask as labels, both sides of a signed distance.
Engines return infinity if an image has only one label; the edge rules below define the result, once
for all engines:

- a class that fills the image has the depth of a class of one voxel, its smallest spacing, at
  every voxel: the least depth that exists, finite, and the same everywhere;
- a class that is absent, or that fills the image, has no boundary: its signed distance is 0, and
  so is the distance to an absent class.

Labels and masks may be NumPy arrays or torch tensors; results have the same type, on the same
device.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib import import_module
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np

from rwloss.arrays import (
    Array,
    add_where,
    constants,
    from_numpy,
    is_torch,
    namespace,
    on_device,
    to_numpy,
    zero_where,
)
from rwloss.distance.edt_engine import num_threads as num_threads
from rwloss.distance.edt_engine import set_num_threads as set_num_threads
from rwloss.errors import RWLossError

EngineName: TypeAlias = Literal["edt", "scipy", "torch", "triton"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
Spacings: TypeAlias = Sequence[tuple[float, ...]]
Measure = TypeVar("Measure", bound=Callable[..., Array])


def engine_name(engine: str | None = None, like: Array | None = None) -> EngineName:
    """The engine that will compute: the given one, else the best for this array.

    For tensors on a CUDA device "triton" where installed; "torch" for all others that are not on
    the CPU; else "edt" where installed, else "scipy". This imports nothing. Raises RWLossError for
    an unknown engine, or one that is not installed.

    like: an array of the kind that will be measured.
    """
    if engine not in {None, *ENGINES}:
        raise RWLossError(f"unknown distance engine {engine!r}: expected one of {list(ENGINES)}")
    if engine is None and is_torch(like) and like.device.type != "cpu":  # type: ignore[union-attr]
        on_cuda = like.device.type == "cuda"  # type: ignore[union-attr]
        return "triton" if on_cuda and _is_installed("triton") else "torch"
    if engine in {"scipy", "torch"}:
        return cast("EngineName", engine)
    name: EngineName = "triton" if engine == "triton" else "edt"
    if _is_installed(name):
        return name
    if engine is not None:
        raise RWLossError(f"the distance engine {engine!r} is not installed: {_FIXES[engine]}")
    return "scipy"


_FIXES = {
    "edt": "pip install 'rwloss[fast]'",
    "triton": "a CUDA build of torch on Linux brings it; engine='torch' needs nothing else",
}


def _is_installed(package: str) -> bool:
    # Most often it is imported already, and nobody has to look for it.
    return sys.modules.get(package) is not None or importlib.util.find_spec(package) is not None


def _as_the_engine_needs(measure: Measure) -> Measure:
    """Compute with tensors for "torch" and "triton", else with NumPy, and return the given kind.

    NumPy for CPU tensors too, because torch's calls cost more than the work on small images.
    """

    @wraps(measure)
    def measured(array: Array, *given: Any, engine: str | None = None) -> Array:
        name = engine_name(engine, array)
        if name not in {"torch", "triton"}:
            return from_numpy(measure(to_numpy(array), *given, engine=name), array)
        if is_torch(array):
            return measure(array, *given, engine=name)
        import torch

        tensor = torch.from_numpy(np.array(array, order="C"))  # torch has no negative strides
        return measure(tensor, *given, engine=name).numpy()

    return cast("Measure", measured)


@_as_the_engine_needs
def squared_to_other_label_mm2(
    labels: Array, spacings_mm: Spacings, *, engine: str | None = None
) -> Array:
    """Squared distance in mm² to the nearest voxel of another label, without edge rules.

    labels (b *s), whole numbers of 0 or more, and one spacing per image -> (b *s) float32.
    Exact where all squared distances fit in float32, as for whole spacings; infinite in an image
    that holds one label only.
    """
    if 0 in labels.shape:
        xp = namespace(labels)
        return xp.empty(labels.shape, dtype=xp.float32, **on_device(labels))
    return _module(engine).squared_to_other_label_mm2(labels, spacings_mm)


@cache
def _module(engine: str | None) -> Any:
    return import_module(f"rwloss.distance.{engine}_engine")


@_as_the_engine_needs
def depth_mm(labels: Array, spacings_mm: Spacings, *, engine: str | None = None) -> Array:
    """Distance in mm to the nearest voxel of another label.

    labels (b *s), whole numbers of 0 or more -> (b *s) float32, above 0 and finite everywhere.
    An image that holds one label only: its smallest spacing at every voxel.
    """
    alone = [smallest_mm(row, labels.shape[1:]) for row in spacings_mm]
    if engine == "triton":
        return _module(engine).distance_mm(labels, spacings_mm, alone)
    squared = squared_to_other_label_mm2(labels, spacings_mm, engine=engine)
    return _finite(_root(squared), alone)


def smallest_mm(spacing_mm: Sequence[float], size: Sequence[int]) -> float:
    """Smallest spacing of an image of this size (*s). An axis of length 1 does not count.

    size: length of each axis, in voxels.
    """
    long = [mm for mm, length in zip(spacing_mm, size, strict=True) if length > 1]
    return min(long or spacing_mm)


def smallest_of_each_mm(labels: Array, spacings_mm: Spacings) -> Array:
    """`smallest_mm` of each image, to broadcast with labels (b *s). (b 1 ...), float32."""
    size = labels.shape[1:]
    values = [smallest_mm(row, size) for row in spacings_mm]
    return from_numpy(np.array(values, np.float32).reshape(-1, *[1] * len(size)), labels)


@_as_the_engine_needs
def signed_distance_mm(mask: Array, spacings_mm: Spacings, *, engine: str | None = None) -> Array:
    """Signed distance in mm to the other side: below 0 inside the mask, above 0 outside.

    mask (b *s), boolean -> (b *s) float32. 0 everywhere in an image where the mask is empty or
    full.
    """
    # Both sides in one pass: with the mask as labels, each side's other label is the other side.
    distance = _root(squared_to_other_label_mm2(mask, spacings_mm, engine=engine))
    if is_torch(mask):
        distance = distance.where(~mask, -distance)
    else:
        np.negative(distance, out=distance, where=mask)
    return _finite(distance, [0.0] * len(spacings_mm))


@_as_the_engine_needs
def signed_distances_mm(
    labels: Array,
    num_classes: int,
    spacings_mm: Spacings,
    less_inside: bool = False,
    *,
    engine: str | None = None,
) -> Array:
    """`signed_distance_mm` of every class. labels (b *s) -> (b k *s) float32.

    Labels that are no class (ignored ones) are outside every class. less_inside: nearer to 0 by the
    smallest spacing of the image inside, so that voxels at that distance have 0.
    """
    if engine == "triton":
        size = labels.shape[1:]
        less = [smallest_mm(row, size) for row in spacings_mm] if less_inside else None
        return _module(engine).signed_distances_mm(labels, num_classes, spacings_mm, less)
    signed = _signed_distances_mm(labels, num_classes, spacings_mm, engine)
    if less_inside:
        number = smallest_of_each_mm(labels, spacings_mm)
        # Class by class NumPy's arrays stay in the cache; a GPU needs fewer, larger operations.
        if is_torch(signed):
            lessen_inside(signed, number[:, None])
        else:
            for part in signed.swapaxes(0, 1):
                lessen_inside(part, number)
    return signed


def lessen_inside(signed: Array, number: Array) -> None:
    """Bring distances below 0 nearer to 0, in place.

    signed: in mm. number: by how much, in mm; its shape may be broadcast.
    """
    inside = signed < 0
    add_where(signed, number, inside)
    # 0 where d is the number, not what rounding left of d - number, which may be above 0.
    zero_where(signed, inside & (signed > -1e-6 * number))


def _signed_distances_mm(
    labels: Array, num_classes: int, spacings_mm: Spacings, engine: str | None
) -> Array:
    xp, (batch, *size) = namespace(labels), labels.shape
    signed = xp.empty((batch, num_classes, *size), dtype=xp.float32, **on_device(labels))
    if is_torch(labels):
        for k in range(num_classes):
            signed[:, k] = signed_distance_mm(labels == k, spacings_mm, engine=engine)
        return signed
    for image, spacing_mm, of_class in zip(labels, spacings_mm, signed, strict=True):
        by_count: dict[int, int] = {}
        for k in range(num_classes):
            mask = image == k
            count = int(np.count_nonzero(mask))
            if (other := by_count.get(image.size - count)) is not None:
                # The two classes fill the image, so they share one edge.
                np.negative(of_class[other], out=of_class[k])
                continue
            of_class[k] = signed_distance_mm(mask[None], [spacing_mm], engine=engine)[0]
            if 0 < count < image.size:
                by_count[count] = k
    return signed


def distance_to_mm(mask: Array, spacings_mm: Spacings, *, engine: str | None = None) -> Array:
    """Distance in mm to the nearest voxel of the mask. mask (b *s) -> (b *s) float32.

    0 on the mask, and everywhere in an image where the mask is empty.
    """
    return namespace(mask).clip(signed_distance_mm(mask, spacings_mm, engine=engine), 0.0, None)


def _root(squared: Array) -> Array:
    """Square root, in place."""
    if isinstance(squared, np.ndarray):
        return np.sqrt(squared, out=squared)
    if squared.device.type != "cpu":
        return squared.sqrt_()
    values = to_numpy(squared)  # the same memory; torch's root on the CPU is not correctly rounded
    np.sqrt(values, out=values)
    return squared


def _finite(distance: Array, values: Sequence[float]) -> Array:
    """Distances with one value per image instead of infinity, which fills an image or none of
    it."""
    xp, axes = namespace(distance), distance.ndim - 1
    single = xp.isinf(distance[(slice(None), *[slice(1)] * axes)])
    if xp is not np:  # without asking, which would make the CPU wait for the GPU
        given = constants(values, distance)
    elif not single.any():
        return distance
    else:
        given = np.array(values, dtype=np.float32)
    return xp.where(single, xp.reshape(given, (-1, *[1] * axes)), distance)
