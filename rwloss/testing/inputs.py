"""Inputs of the checks: labels, spacings and a prediction, small enough for a message."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from rwloss.regions import Regions

IGNORE_LABEL = 255
_READABLE = 64  # voxels that a message may spell out


@dataclass(frozen=True, eq=False)
class CheckInput:
    """One batch with a prediction. labels (b *s), int64; probs (b k *s), float64.

    what: the input in words. spacing_mm: one row per image. Labels of 255 are ignored.
    """

    what: str
    labels: NDArray[np.int64]
    num_classes: int
    spacing_mm: tuple[tuple[float, ...], ...]
    probs: NDArray[np.float64] = field(repr=False)

    @property
    def ignore_label(self) -> int | None:
        """255 if some voxel has it, else None."""
        return IGNORE_LABEL if (self.labels == IGNORE_LABEL).any() else None

    def regions(self) -> Regions:
        """New regions, which share no memory with earlier ones."""
        return Regions(self.labels.copy(), self.num_classes, self.spacing_mm, self.ignore_label)

    def image(self, number: int) -> CheckInput:
        """One image of the batch, as a batch of one."""
        one = slice(number, number + 1)
        return replace(
            self,
            what=f"image {number} of {self.what}",
            labels=self.labels[one],
            spacing_mm=self.spacing_mm[one],
            probs=self.probs[one],
        )

    def __str__(self) -> str:
        """The input as Python code if it is small, else in words."""
        spacing = self.spacing_mm[0] if len(set(self.spacing_mm)) == 1 else self.spacing_mm
        ignoring = f", ignore_label={self.ignore_label}" if self.ignore_label is not None else ""
        rest = f"num_classes={self.num_classes}, spacing_mm={spacing}{ignoring}"
        if self.labels.size > _READABLE:
            return f"{self.what}, labels {self.labels.shape}, {rest}"
        return f"{self.what}, Regions(np.array({self.labels.tolist()}), {rest})"


def check_input(
    what: str,
    labels: NDArray[np.int64],
    num_classes: int,
    spacing_mm: Sequence[Sequence[float]] | Sequence[float] | None = None,
    probs: NDArray[np.float64] | None = None,
) -> CheckInput:
    """An input with defaults: a spacing that differs per axis, and any prediction."""
    rows = np.asarray(spacing_mm or _SPACING_MM[labels.ndim - 1], dtype=np.float64)
    rows = np.broadcast_to(rows, (len(labels), labels.ndim - 1))
    if probs is None:
        probs = any_prediction(labels.shape, num_classes)
    return CheckInput(what, labels, num_classes, tuple(map(tuple, rows.tolist())), probs)


def any_prediction(shape: tuple[int, ...], num_classes: int) -> NDArray[np.float64]:
    """Random probabilities, none near 0 and no two nearly equal. (b k *s)."""
    parts = max(16, 4 * num_classes)
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(parts - num_classes, rng.dirichlet(np.ones(num_classes), shape))
    return np.ascontiguousarray(rearrange((1 + drawn) / parts, "b ... k -> b k ..."))


def prediction_by_class(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Probabilities that depend on the label of the voxel alone. (b k *s)."""
    rows = np.random.default_rng(2).dirichlet(np.ones(num_classes), num_classes)
    return np.ascontiguousarray(rearrange(rows[labels], "b ... k -> b k ..."))


def ordinary(num_classes: int) -> Iterator[CheckInput]:
    """Batches in which every class has voxels and none fills an image, from small to larger.

    The small ones come first, because messages show the first that fails.
    """
    side = max(4, math.isqrt(2 * num_classes) + 1)
    yield check_input("few voxels", _scattered((1, side, side + 1), num_classes), num_classes)
    yield check_input(
        "few voxels in 3-D", _scattered((1, 2, side, side + 1), num_classes), num_classes
    )
    flat = _blobs((3, 2 * side + 1, 3 * side), num_classes)
    yield check_input("blobs", flat, num_classes, [(0.8, 2.5), (1.0, 1.0), (2.0, 0.3)])
    partly = flat[:1].copy()
    partly[:, 2:5, 1:6] = IGNORE_LABEL
    yield check_input("blobs, some of them ignored", partly, num_classes)
    solid = _blobs((2, side, 2 * side - 1, 2 * side), num_classes)
    yield check_input("blobs in 3-D", solid, num_classes, [(0.8, 1.0, 2.5), (3.0, 0.5, 1.2)])


def edge_cases(num_classes: int) -> Iterator[CheckInput]:
    """Inputs that implementations often get wrong, one image each."""
    for k in sorted({0, 1, num_classes - 1}):
        yield check_input(f"class {k} fills the image", _full((1, 4, 5), k), num_classes)
    yield check_input("class 1 fills the image in 3-D", _full((1, 2, 3, 4), 1), num_classes)
    lone = _full((1, 4, 5), 0)
    lone[0, 2, 3] = 1
    yield check_input("a class of one voxel", lone, num_classes)
    corner = _full((1, 4, 5), 0)
    corner[0, 0, 0] = num_classes - 1
    yield check_input("a class of one voxel, in the corner", corner, num_classes)
    yield check_input("an image of one voxel", _full((1, 1, 1), 1), num_classes)
    yield check_input("an image of one voxel in 3-D", _full((1, 1, 1, 1), 0), num_classes)
    for shape in ((1, 1, 7), (1, 7, 1), (1, 1, 1, 7), (1, 3, 1, 4)):
        yield check_input(
            "a thin image",
            np.arange(7)[: max(shape)].repeat(math.prod(shape) // max(shape)).reshape(shape) % 2,
            num_classes,
        )
    checkers = np.indices((4, 5)).sum(axis=0)[None] % 2
    yield check_input("a chequerboard", checkers, num_classes)
    ignored = _scattered((1, 5, 6), min(num_classes, 4))
    ignored[0, :, 3:] = IGNORE_LABEL
    yield check_input("half of the voxels ignored", ignored, num_classes)
    yield check_input("all voxels ignored", _full((1, 3, 4), IGNORE_LABEL), num_classes)
    between = _full((1, 3, 5), 1)
    between[0, :, 2] = IGNORE_LABEL
    yield check_input("a class that fills all but the ignored voxels", between, num_classes)


def _full(shape: tuple[int, ...], label: int) -> NDArray[np.int64]:
    return np.full(shape, label, dtype=np.int64)


def _scattered(shape: tuple[int, ...], num_classes: int) -> NDArray[np.int64]:
    """Random voxels, each class at least twice. (b *s)."""
    rng = np.random.default_rng(3)
    voxels = math.prod(shape)
    each = np.concatenate([np.arange(num_classes)] * 2)[:voxels]
    rest = rng.integers(0, num_classes, voxels - len(each))
    return rng.permutation(np.concatenate([each, rest])).reshape(shape)


def _blobs(shape: tuple[int, ...], num_classes: int) -> NDArray[np.int64]:
    """Ellipsoids over each other, and a stray voxel of each class. (b *s)."""
    rng = np.random.default_rng(4)
    size = np.array(shape[1:])
    where = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    labels = np.zeros(shape, dtype=np.int64)
    for image in labels:
        for k in range(1, num_classes):
            centre, radius = rng.uniform(0, size), rng.uniform(0.12, 0.4, len(size)) * size
            image[(((where - centre) / radius) ** 2).sum(axis=-1) <= 1] = k
        strays = rng.choice(image.size, num_classes, replace=False)
        image.flat[strays] = np.arange(num_classes)
    return labels


_SPACING_MM = {2: (0.8, 2.5), 3: (0.8, 1.1, 2.5)}
