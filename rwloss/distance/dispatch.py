"""Choose the engine, and define distances where there is nothing to measure to.

Labels and masks may be NumPy arrays or torch tensors; results are of the same kind, on the same
device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib import import_module
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np

from rwloss.arrays import Array, from_numpy, is_torch, namespace, on_device, to_numpy
from rwloss.errors import RWLossError

EngineName: TypeAlias = Literal["edt", "scipy", "torch"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
Spacings: TypeAlias = Sequence[tuple[float, ...]]


Distances = TypeVar("Distances", bound=Callable[..., Array])


def _on_numpy(measure: Distances) -> Distances:
    """Compute CPU tensors in NumPy, because torch's calls cost more than the work on small images.

    Only the engine "torch" gets tensors.
    """

    @wraps(measure)
    def measured(array: Array, *given: Any, engine: str | None = None) -> Array:
        if isinstance(array, np.ndarray) or engine_name(engine, array) == "torch":
            return measure(array, *given, engine=engine)
        return from_numpy(measure(to_numpy(array), *given, engine=engine), array)

    return cast("Distances", measured)


@cache
def _edt_installed() -> bool:
    return importlib.util.find_spec("edt") is not None


def engine_name(engine: str | None = None, like: Array | None = None) -> EngineName:
    """The engine that will compute: the given one, else the best for this array.

    "torch" for tensors that are not on the CPU, else "edt" where installed, else "scipy".
    Raises RWLossError for an unknown engine, or one that is not installed.
    """
    if engine is None:
        if is_torch(like) and like.device.type != "cpu":  # type: ignore[union-attr]
            return "torch"
        return "edt" if _edt_installed() else "scipy"
    if engine not in ENGINES:
        raise RWLossError(f"unknown distance engine {engine!r}: expected one of {list(ENGINES)}")
    if engine == "edt" and not _edt_installed():
        raise RWLossError("the distance engine 'edt' is not installed: pip install 'rwloss[fast]'")
    return engine


def squared_to_other_label_mm2(
    labels: Array, spacings_mm: Spacings, *, engine: str | None = None
) -> Array:
    """Squared distance in mm² to the nearest voxel of another label, without edge rules.

    labels (b *s), whole numbers of 0 or more, and one spacing per image -> (b *s) float32.
    Exact where all squared distances fit in float32, as for whole spacings; infinite in an image
    that holds one label only.
    """
    name = engine_name(engine, labels)
    module = import_module(f"rwloss.distance.{name}_engine")
    if name == "torch":
        if is_torch(labels):
            return module.squared_to_other_label_mm2(labels, spacings_mm)
        import torch

        given = torch.from_numpy(np.array(labels, order="C"))  # torch has no negative strides
        return module.squared_to_other_label_mm2(given, spacings_mm).numpy()
    images = to_numpy(labels)
    if not images.size:
        return from_numpy(np.empty(images.shape, dtype=np.float32), labels)
    return from_numpy(module.squared_to_other_label_mm2(images, spacings_mm), labels)


@_on_numpy
def depth_mm(labels: Array, spacings_mm: Spacings, *, engine: str | None = None) -> Array:
    """Distance in mm to the nearest voxel of another label.

    labels (b *s), whole numbers of 0 or more -> (b *s) float32, above 0 and finite everywhere.
    An image that holds one label only: its smallest spacing at every voxel.
    """
    squared = squared_to_other_label_mm2(labels, spacings_mm, engine=engine)
    single = _single_label(squared)
    return _filled(_root(squared), single, [min(spacing_mm) for spacing_mm in spacings_mm])


@_on_numpy
def signed_distance_mm(mask: Array, spacings_mm: Spacings, *, engine: str | None = None) -> Array:
    """Signed distance in mm to the other side: below 0 inside the mask, above 0 outside.

    mask (b *s), boolean -> (b *s) float32. 0 everywhere in an image where the mask is empty or
    full.
    """
    # Both sides in one pass: with the mask as labels, each side's other label is the other side.
    xp = namespace(mask)
    labels = xp.astype(mask, xp.uint8) if is_torch(mask) else mask.view(np.uint8)
    squared = squared_to_other_label_mm2(labels, spacings_mm, engine=engine)
    single = _single_label(squared)
    distance = _root(squared)
    if is_torch(mask):
        distance = xp.where(mask, -distance, distance)
    else:
        np.negative(distance, out=distance, where=mask)
    return _filled(distance, single, [0.0] * len(spacings_mm))


@_on_numpy
def signed_distances_mm(
    labels: Array, num_classes: int, spacings_mm: Spacings, *, engine: str | None = None
) -> Array:
    """`signed_distance_mm` of every class. labels (b *s) -> (b k *s) float32.

    Labels that are no class (ignored ones) are outside every class.
    """
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
    if is_torch(squared) and squared.device.type != "cpu":
        return squared.sqrt_()
    values = to_numpy(squared)  # the same memory; torch's root on the CPU is not correctly rounded
    np.sqrt(values, out=values)
    return squared


def _single_label(squared: Array) -> Array:
    """Which images hold one label only: all their voxels are infinite, so one shows it. (b)."""
    xp = namespace(squared)
    if 0 in squared.shape:
        return xp.zeros(squared.shape[0], dtype=xp.bool, **on_device(squared))
    return xp.isinf(squared[(slice(None), *[0] * (squared.ndim - 1))])


def _filled(distance: Array, single: Array, values: Sequence[float]) -> Array:
    """Distances with one value per image in place of infinity."""
    if not is_torch(distance):
        for image in np.flatnonzero(single):
            distance[image] = values[int(image)]
        return distance
    # Without reading the values, which would make the CPU wait for the GPU.
    xp, shape = namespace(distance), (-1, *[1] * (distance.ndim - 1))
    given = xp.asarray(list(values), dtype=distance.dtype, device=distance.device)
    return xp.where(xp.reshape(single, shape), xp.reshape(given, shape), distance)
