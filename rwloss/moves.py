"""Exact moves of maps for augmentation: flips, rotations by 90° and crops."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from rwloss.arrays import Array, is_torch, namespace, to_numpy
from rwloss.errors import RWLossError
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap

Moved = TypeVar("Moved", RWMap, Regions)
_FINGERPRINTS = 1 << 14


def flip(x: Moved, axes: int | Iterable[int]) -> Moved:
    """Mirror along spatial axes. labels (b *s) -> labels (b *s), bit for bit.

    axes: axes of *s, counted from 0. Negative ones count from the end, so they also fit an image
    (b c *s). With no axes, (), the result is `x` itself.

    Raises RWLossError for an axis that does not exist or is repeated.

    >>> labels, true = np.array([[[0, 1]]]), np.array([[[3.0, 4.0]]])
    >>> m = RWMap.compact(labels, 2, true=true, other=np.ones((1, 1, 2)))
    >>> flip(m, axes=-1).true.tolist()
    [[[4.0, 3.0]]]
    """
    mirrored = _from_the_end(x, axes)
    return _moved(x, lambda array: _mirrored(array, mirrored)) if mirrored else x


def rot90(x: Moved, times: int = 1, axes: Sequence[int] = (0, 1)) -> Moved:
    """Rotate by 90° `times` times, from the first of two spatial axes towards the second.

    labels (b *s) -> labels (b *s), bit for bit. For odd `times` the two axes swap their lengths,
    and the spacing (mm) of each image is swapped with them. The direction is that of
    `numpy.rot90` and `torch.rot90`.

    Raises RWLossError unless `axes` are two different axes of *s.

    times: quarter turns. axes: two axes of *s.

    >>> regions = Regions(np.array([[[0, 1, 1]]]), num_classes=2, spacing_mm=(1.0, 2.5))
    >>> turned = rot90(regions)
    >>> turned.labels.tolist(), turned.spacings_mm
    ([[[1], [1], [0]]], ((2.5, 1.0),))
    """
    quarters, turned = _whole(times, "number of 90° rotations") % 4, _from_the_end(x, axes)
    if len(turned) != 2:
        raise RWLossError(f"expected two axes to rotate, got axes={axes!r}")
    if quarters == 0:
        return x
    first, second = turned
    if quarters == 2:
        return flip(x, turned)
    mirrored = (second,) if quarters == 1 else (first,)
    order = list(range(-(x.labels.ndim - 1), 0))
    order[first], order[second] = second, first
    return _moved(x, lambda array: _mirrored(array, mirrored).swapaxes(first, second), order)


def crop(x: Moved, region: Sequence[slice]) -> Moved:
    """Crop a box of voxels, as a view. labels (b *s) -> labels (b *t), bit for bit.

    region: one slice of step 1 per axis of *s. As in NumPy, parts outside the image are dropped.
    Crop the map of the whole image: the map of cropped regions differs for every generator
    without "crop" in its tags.

    Raises RWLossError for a wrong number of slices, a step other than 1, and an empty box.

    >>> labels, true = np.array([[[0, 1]]]), np.array([[[3.0, 4.0]]])
    >>> m = RWMap.compact(labels, 2, true=true, other=np.ones((1, 1, 2)))
    >>> crop(m, np.s_[:, 1:]).true.tolist()
    [[[4.0]]]
    """
    lengths = _labels(x).shape[1:]
    sides = list(region) if isinstance(region, Sequence) else []
    if len(sides) != len(lengths) or not all(isinstance(side, slice) for side in sides):
        raise RWLossError(
            f"expected a slice for each of {len(lengths)} spatial axes, got {region!r}: leave out "
            "batch and classes"
        )
    box: list[slice] = [_side(side, length) for side, length in zip(sides, lengths, strict=True)]
    return _moved(x, lambda array: array[(..., *box)])


def pad(x: RWMap | Regions, *args: object, **settings: object) -> NoReturn:
    """Always raises RWLossError: pad image and labels, and compute the map on the fly."""
    _refuse("pad", "it has no values for the added voxels")


def zoom(x: RWMap | Regions, *args: object, **settings: object) -> NoReturn:
    """Always raises RWLossError: zoom image and labels, and compute the map on the fly."""
    _refuse("zoom", "distances change, and it has no values between voxels")


def warp(x: RWMap | Regions, *args: object, **settings: object) -> NoReturn:
    """Always raises RWLossError: warp (elastic, affine, ...) image and labels likewise."""
    _refuse("warp", "distances change by different factors")


def fingerprints(values: Array) -> bytes:
    """Fingerprints that every flip, 90° rotation and crop of an array keeps, for `is_moved`. values
    (c *s).

    Hashes of each three consecutive voxels, along every axis and the same in both directions; the
    lowest 16,384 of them. Moves by whole voxels create no new triples. Interpolation, deformation,
    padding and changes of values do.
    """
    known = np.empty(0, dtype=np.int32)
    for rows in _rows_of_three(values, step=1):
        both = np.sort(np.concatenate([known, rows.ravel()]))  # np.unique takes 50 times as long
        known = both[np.diff(both, append=both[-1:] - 1) != 0][:_FINGERPRINTS]
    return known.tobytes()


def is_moved(values: Array, known: bytes) -> bool:
    """Whether values (c *s) may be a flip, rotation or crop of those with these `fingerprints`.

    Large arrays are checked only along every second line of voxels, or fewer.

    known: what `fingerprints` gave.

    >>> whole = np.arange(144.0).reshape(1, 12, 12) ** 2
    >>> is_moved(whole[:, 3:9].swapaxes(1, 2), fingerprints(whole))
    True
    >>> is_moved(whole[:, ::2], fingerprints(whole))
    False
    """
    hashes = np.frombuffer(known, np.int32)
    step = math.ceil((math.prod(values.shape[1:]) / _FINGERPRINTS) ** (1 / (values.ndim - 2)))
    return not len(hashes) or all(
        bool(np.isin(rows[rows <= hashes[-1]], hashes).all())
        for rows in _rows_of_three(values, step)
    )


def _rows_of_three(values: Array, step: int) -> Iterator[NDArray[np.int32]]:
    """A hash of each three consecutive voxels, axis by axis, along every step-th line. (c *s)."""
    odd = 0x2545F4914F6CDD1D
    for axis in range(1, values.ndim):
        thin = [slice(None, None, step)] * values.ndim
        thin[0] = thin[axis] = slice(None)
        lines = np.moveaxis(to_numpy(values[tuple(thin)]), axis, 1)
        bits = np.ascontiguousarray(lines, dtype=np.float32).view(np.int32)
        voxels = np.zeros(bits.shape[1:], dtype=np.int64)
        for channel in bits:
            voxels = voxels * odd + channel
        ends = (voxels[:-2] | 1) * (voxels[2:] | 1)
        yield ((ends + voxels[1:-1]) * odd >> 32).astype(np.int32)


def _refuse(move: str, reason: str) -> NoReturn:
    raise RWLossError(
        f"a map can't follow a {move}: {reason}. Apply the {move} to image and labels, and "
        "compute the map on the fly: RegionWiseLoss(expression)(logits, target)"
    )


def _labels(x: RWMap | Regions) -> Array:
    """Labels (b *s) of a map or regions; RWLossError for anything else."""
    if not isinstance(x, RWMap | Regions):
        raise RWLossError(
            f"expected an RWMap or Regions, got {type(x).__name__}: move arrays with the functions "
            "of NumPy or torch"
        )
    return x.labels


def _moved(x: Moved, move: Callable[[Array], Array], order: Sequence[int] | None = None) -> Moved:
    """The map or regions with every array moved. order: of the axes, for the spacing."""
    rows = x.spacing_mm if isinstance(x, RWMap) else x.spacings_mm
    if order is not None and rows is not None:
        rows = tuple(tuple(row[axis] for axis in order) for row in rows)
    if isinstance(x, RWMap):
        parts = tuple(map(move, x.parts))
        return dataclasses.replace(x, labels=move(x.labels), parts=parts, spacing_mm=rows)
    return dataclasses.replace(
        x,
        labels=move(x.labels),
        image=None if x.image is None else move(x.image),
        spacing_mm=rows or None,  # None for an empty batch
        ignore_label=None if x.ignore_label is None else IGNORED,  # as in `labels`
    )


def _mirrored(array: Array, axes: tuple[int, ...]) -> Array:
    """A mirrored copy. A value that is broadcast along all the axes needs no extra memory."""
    strides = array.stride() if is_torch(array) else array.strides
    varying = tuple(axis for axis in axes if strides[axis] != 0)
    if not varying:
        return array
    flipped = namespace(array).flip(array, axis=varying)
    # NumPy returns a view with negative strides, which torch.from_numpy refuses.
    return flipped if is_torch(flipped) else flipped.copy()


def _from_the_end(x: RWMap | Regions, axes: object) -> tuple[int, ...]:
    """Axes of *s as negative numbers, which fit arrays (b *s) and (b k *s) alike."""
    count = _labels(x).ndim - 1
    # An array without axes has an iterable type, but cannot be iterated.
    alone = not isinstance(axes, Iterable) or getattr(axes, "ndim", 1) == 0
    given: Any = (axes,) if alone else axes
    numbers = [_whole(axis, "axis") for axis in given]
    for number in numbers:
        if not -count <= number < count:
            raise RWLossError(
                f"expected spatial axes of 0..{count - 1}, or -{count}..-1 from the end, got "
                f"{number}: leave out batch and classes"
            )
    found = tuple(number % count - count for number in numbers)
    if len(set(found)) < len(found):
        raise RWLossError(f"expected each axis once, got axes={axes!r}")
    return found


def _whole(number: object, role: str) -> int:
    if not isinstance(number, bool | np.bool_):
        with suppress(TypeError):
            return operator.index(number)  # type: ignore[arg-type]
    raise RWLossError(f"expected an integer {role}, got {number!r}")


def _side(side: slice, length: int) -> slice:
    """The slice of an axis with start and stop as numbers within its length."""
    try:
        start, stop, step = side.indices(length)
    except (TypeError, ValueError) as error:  # no whole numbers; a step of 0
        raise RWLossError(f"expected whole numbers in a slice of step 1, got {side}") from error
    if step != 1:
        raise RWLossError(
            f"expected slices of step 1, got {side}: a crop skips no voxels; to mirror, use flip"
        )
    if stop <= start:
        raise RWLossError(f"{side} of an axis of {length} voxels is empty: a crop needs voxels")
    return slice(start, stop)
