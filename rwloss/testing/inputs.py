"""Inputs of the checks, small enough to print, their maps, and failure messages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from rwloss.arrays import from_numpy, to_numpy
from rwloss.maps.expression import Expression
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

IGNORE_LABEL = 255
# Differences below this share of the map's largest value are rounding: sums in another order.
TOLERANCE = 1e-5
_READABLE = 64  # voxels that a message may spell out
_SPACING_MM = {2: (0.8, 2.5), 3: (0.8, 1.1, 2.5)}
Shape: TypeAlias = Literal["half-space", "slab", "ball", "single voxel"]


@dataclass(frozen=True, eq=False)
class CheckInput:
    """One batch with a prediction. labels (b *s), int64; probs (b k *s), float64.

    grey (b 2 *s), float32: the image, for maps that use it. what: the input in words. spacing_mm:
    one row per image. Labels of 255 are ignored.
    """

    what: str
    labels: NDArray[np.int64]
    num_classes: int
    spacing_mm: tuple[tuple[float, ...], ...]
    probs: NDArray[np.float64] = field(repr=False)
    grey: NDArray[np.float32] = field(repr=False)

    @property
    def ignore_label(self) -> int | None:
        """255 if some voxel has it, else None."""
        return IGNORE_LABEL if (self.labels == IGNORE_LABEL).any() else None

    def regions(self, generator: Expression | None = None, labels: Any = None) -> Regions:
        """New regions, which share no memory with earlier ones.

        generator: without an image where its tags say that it uses none. labels: in place of its
        own, NumPy or torch.
        """
        labels = self.labels.copy() if labels is None else labels
        has_image = getattr(getattr(generator, "tags", None), "uses_image", True)
        grey = from_numpy(self.grey.copy(), labels) if has_image else None
        return Regions(labels, self.num_classes, self.spacing_mm, self.ignore_label, grey)

    def image(self, number: int) -> CheckInput:
        """One image of the batch, as a batch of one."""
        one = slice(number, number + 1)
        return replace(
            self,
            what=f"image {number} of {self.what}",
            labels=self.labels[one],
            spacing_mm=self.spacing_mm[one],
            probs=self.probs[one],
            grey=self.grey[one],
        )

    def map_of(
        self, generator: Expression, regions: Regions | None = None, probs: Any = None
    ) -> RWMap:
        """The map of this input, or of regions that come from it.

        An exception in the generator is a failure that names the input.
        """
        regions = self.regions(generator) if regions is None else regions
        try:
            return generator(regions, self.probs.copy() if probs is None else probs)
        except Exception as error:
            raise AssertionError(
                f"{generator} raised {type(error).__name__}: {error}\n  input: {self}"
            ) from error

    def dense(self, generator: Expression, regions: Regions | None = None) -> NDArray[np.float64]:
        """Values of that map for every class. (b k *s), float64."""
        return dense(self.map_of(generator, regions))

    def expect(self, condition: object, claim: str) -> None:
        """Fail with the claim and the input unless the condition holds."""
        if not condition:
            raise AssertionError(f"{claim}\n  input: {self}")

    def expect_same(
        self, found: NDArray[Any], wanted: NDArray[Any], claim: str, tolerance: float = TOLERANCE
    ) -> None:
        """Fail with the claim, the largest difference, its place and the input. (b k *s) both."""
        shapes = f"expected shape {wanted.shape}, got {found.shape}"
        self.expect(found.shape == wanted.shape, f"{claim}\n  {shapes}")
        difference = np.abs(found.astype(np.float64) - wanted)
        wrong = ~(difference <= tolerance * float(np.abs(wanted).max(initial=0)))
        if wrong.any():
            worst = int(np.nan_to_num(difference, nan=np.inf).argmax())
            place = np.unravel_index(worst, found.shape)
            self.fail(claim, place, f"{wanted[place]:.9g}", f"{found[place]:.9g}", wrong.sum())

    def fail(self, claim: str, place: Any, wanted: str, found: str, count: int) -> NoReturn:
        """Raise AssertionError for a claim that is wrong at a place (image, class, voxel)."""
        image, k, *voxel = (int(part) for part in place)
        raise AssertionError(
            f"{claim}\n"
            f"  expected {wanted}, got {found} at image {image}, class {k}, voxel {tuple(voxel)}; "
            f"{count} values differ\n"
            f"  input: {self}"
        )

    def __str__(self) -> str:
        """The input as Python code if it is small, else in words."""
        spacing = self.spacing_mm[0] if len(set(self.spacing_mm)) == 1 else self.spacing_mm
        ignoring = f", ignore_label={self.ignore_label}" if self.ignore_label is not None else ""
        rest = f"num_classes={self.num_classes}, spacing_mm={spacing}{ignoring}"
        if self.labels.size > _READABLE:
            return f"{self.what}, labels {self.labels.shape}, {rest}"
        return f"{self.what}, Regions(np.array({self.labels.tolist()}), {rest})"


def dense(rwmap: RWMap) -> NDArray[np.float64]:
    """Values of a map for every class. (b k *s), float64."""
    return np.asarray(to_numpy(rwmap.dense()), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class ClosedForm:
    """One image of classes 0 and 1 with its depth by formula. labels (1 *s), depth_mm (1 *s).

    depth_mm: distance in mm from each voxel to the nearest voxel of the other class, float64.
    within_mm: largest difference from the depth on the grid; 0 where the formula is exact. across:
    the axis along which a half-space or a slab ends; nothing changes along the others. shape: such
    as half-space or ball. input: the image as the checks take it.
    """

    shape: Shape
    input: CheckInput
    depth_mm: NDArray[np.float64]
    within_mm: float = 0.0
    across: int | None = None

    @property
    def regions(self) -> Regions:
        """Labels, number of classes and spacing."""
        return self.input.regions()

    def __str__(self) -> str:
        """Shape and size, such as "half-space 6x7 across axis 0"."""
        return self.input.what


def check_input(
    what: str,
    labels: NDArray[np.int64],
    num_classes: int,
    spacing_mm: Sequence[Sequence[float]] | Sequence[float] | None = None,
    probs: NDArray[np.float64] | None = None,
    image: NDArray[np.float64] | None = None,
) -> CheckInput:
    """An input with defaults: a spacing that differs per axis, any prediction and noisy image."""
    rows = np.asarray(spacing_mm or _SPACING_MM[labels.ndim - 1], dtype=np.float64)
    rows = np.broadcast_to(rows, (len(labels), labels.ndim - 1))
    if probs is None:
        probs = any_prediction(labels.shape, num_classes)
    if image is None:
        noise = np.random.default_rng(5).normal(size=(len(labels), 2, *labels.shape[1:]))
        image = noise + image_by_class(labels)
    each = tuple(map(tuple, rows.tolist()))
    return CheckInput(what, labels, num_classes, each, probs, image.astype(np.float32))


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


def image_by_class(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Two channels of gray values that depend on the label of the voxel alone. (b 2 *s)."""
    return np.stack([3.0 * labels % 5, labels % 2], axis=1)


def ordinary(num_classes: int) -> Iterator[CheckInput]:
    """Batches in which every class has voxels and none fills an image, from small to larger.

    The small ones come first, because messages show the first that fails. Made once; each is a
    copy, so that a generator that changes its input harms no other check.
    """
    for case in _ordinary(num_classes):
        yield replace(case, labels=case.labels.copy(), probs=case.probs.copy())


@lru_cache(maxsize=8)
def _ordinary(num_classes: int) -> tuple[CheckInput, ...]:
    return tuple(_made(num_classes))


def _made(num_classes: int) -> Iterator[CheckInput]:
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


def closed_forms(num_classes: int = 2) -> tuple[ClosedForm, ...]:
    """A half-space and a slab across each axis, a ball and a single voxel; in 2-D and in 3-D.

    num_classes: at least 2; classes above 1 are absent.

    >>> form = closed_forms()[0]
    >>> str(form), form.depth_mm[0, :, 0].round(3).tolist()
    ('half-space 6x7 across axis 0', [2.4, 1.6, 0.8, 0.8, 1.6, 2.4])
    """
    return tuple(_forms(num_classes))


def _forms(num_classes: int) -> Iterator[ClosedForm]:
    spacing_mm: tuple[float, ...]
    for size in ((6, 7), (5, 6, 4)):
        spacing_mm = _SPACING_MM[len(size)]
        for axis in range(len(size)):
            # Class 1 from the middle on, or in two layers there.
            at, middle = np.indices(size)[axis], size[axis] // 2
            beyond, two = at >= middle, (at >= middle - 1) & (at <= middle)
            layers = np.where(beyond, at - middle + 1, middle - at)
            depth_mm = layers * spacing_mm[axis]
            yield _form("half-space", beyond, depth_mm, spacing_mm, num_classes, across=axis)
            layers = np.where(two, 1, np.where(at < middle, middle - 1 - at, at - middle))
            depth_mm = layers * spacing_mm[axis]
            yield _form("slab", two, depth_mm, spacing_mm, num_classes, across=axis)
        # At the middle of an image with odd sides: every flip and turn maps it to itself.
        from_middle = _from_middle(tuple(2 * (side // 2) + 1 for side in size), spacing_mm)
        inside = from_middle == 0
        depth_mm = np.where(inside, min(spacing_mm), from_middle)
        yield _form("single voxel", inside, depth_mm, spacing_mm, num_classes)
    for axes in (2, 3):
        # Class 1 within 3.2 voxels of the middle. The nearest voxel center beyond the surface is at
        # least as far as the surface, and at most one voxel diagonal farther: the formula takes the
        # middle of that range.
        spacing_mm, radius_mm, half = (1.3,) * axes, 3.2 * 1.3, 1.3 * math.sqrt(axes) / 2
        from_middle = _from_middle((9,) * axes, spacing_mm)
        depth_mm, inside = np.abs(radius_mm - from_middle) + half, from_middle <= radius_mm
        yield _form("ball", inside, depth_mm, spacing_mm, num_classes, within_mm=half)


def _from_middle(size: tuple[int, ...], spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    squares = np.zeros(size)
    for at, side, spacing in zip(np.indices(size), size, spacing_mm, strict=True):
        squares += ((at - side // 2) * spacing) ** 2
    return np.sqrt(squares)


def _form(
    shape: Shape,
    inside: NDArray[np.bool_],
    depth_mm: NDArray[np.float64],
    spacing_mm: tuple[float, ...],
    num_classes: int,
    *,
    within_mm: float = 0.0,
    across: int | None = None,
) -> ClosedForm:
    labels = inside[None].astype(np.int64)
    size = "x".join(map(str, inside.shape))
    what = f"{shape} {size}" + ("" if across is None else f" across axis {across}")
    probs = prediction_by_class(labels, num_classes)
    case = check_input(what, labels, num_classes, spacing_mm, probs, image_by_class(labels))
    return ClosedForm(shape, case, depth_mm[None], within_mm, across)
