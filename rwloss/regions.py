"""Labels with their geometry: what a map generator may ask of the ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np

from rwloss import distance, per_class
from rwloss.arrays import Array, from_numpy, is_torch, namespace, on_device, to_numpy
from rwloss.errors import RWLossError

# One number for each axis, or such a row for each image of the batch.
SpacingMM: TypeAlias = Sequence[float] | Sequence[Sequence[float]]

IGNORED = -1
"""The label of ignored voxels inside `Regions` and `RWMap`: they belong to no class."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Labels (b *s) with number of classes and voxel spacing; geometry on demand, computed once.

    labels: whole numbers 0..num_classes-1, NumPy array or torch tensor on any device, *s 2-D or
    3-D. Every result is of the same kind and on the same device.
    spacing_mm: millimetres for each axis of *s, in array order, for all images or a row for each;
    1 by default.
    ignore_label: voxels with this label belong to no class. They end a region, have depth 0, and
    every map is 0 there. In `labels` they stand as -1.

    Raises RWLossError for labels that are not whole, are negative or too large, and for a spacing
    that does not fit.

    >>> regions = Regions(np.array([[[0, 1, 1], [0, 1, 1]]]), num_classes=2, spacing_mm=(1, 2))
    >>> regions.depth_mm.tolist()
    [[[2.0, 2.0, 4.0], [2.0, 2.0, 4.0]]]
    """

    labels: Array
    num_classes: int
    spacing_mm: SpacingMM | None = None
    ignore_label: int | None = None

    def __post_init__(self) -> None:
        """Check, and bring to one form: whole labels, ignored ones -1, a spacing an image."""
        namespace(self.labels)  # refuses lists and the like, which have no axes to count
        if self.labels.ndim not in {3, 4}:
            raise RWLossError(
                f"expected labels (b *s) with *s 2-D or 3-D, got shape {tuple(self.labels.shape)}: "
                "for one image without the batch axis use Regions.single"
            )
        k = self.num_classes
        if isinstance(k, bool) or not isinstance(k, (int, float, np.number)) or k != int(k):
            raise RWLossError(f"expected a whole num_classes, got {k!r}")
        if k < 2:
            raise RWLossError(
                f"expected num_classes of 2 or more, got {k}: the background is a class too"
            )
        labels = checked_labels(self.labels, int(self.num_classes), self.ignore_label)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "num_classes", int(self.num_classes))
        object.__setattr__(self, "spacing_mm", spacing_rows(self.spacing_mm, labels.shape))

    @classmethod
    def single(
        cls,
        volume: Array,
        num_classes: int,
        spacing_mm: Sequence[float] | None = None,
        ignore_label: int | None = None,
    ) -> Regions:
        """One case without the batch axis. volume (*s) -> Regions with labels (1 *s)."""
        namespace(volume)  # refuses lists and the like, which have no axes to count
        if volume.ndim not in {2, 3}:
            raise RWLossError(
                f"expected one image of 2 or 3 axes, got shape {tuple(volume.shape)}: "
                "for a batch use Regions"
            )
        return cls(volume[None], num_classes, spacing_mm, ignore_label)

    @classmethod
    def from_masks(cls, masks: Array, spacing_mm: SpacingMM | None = None) -> Regions:
        """Overlapping masks, each a two-class problem of its own. masks (b k *s) of 0 and 1.

        Gives labels (b·k *s): 1 inside a mask, 0 outside; the masks of an image follow each other.
        `RegionWiseLoss(activation="sigmoid")` takes maps of such regions.

        >>> masks = np.zeros((2, 3, 4, 4), dtype=bool)
        >>> Regions.from_masks(masks).labels.shape
        (6, 4, 4)
        """
        xp = namespace(masks)
        if masks.ndim not in {4, 5}:
            raise RWLossError(
                f"expected masks (b k *s) with *s 2-D or 3-D, got shape {tuple(masks.shape)}"
            )
        batch, k, *size = masks.shape
        rows = spacing_rows(spacing_mm, (batch, *size))
        return cls(
            xp.reshape(masks, (batch * k, *size)), 2, [row for row in rows for _ in range(k)]
        )

    @property
    def xp(self) -> Any:
        """Array API namespace of the labels."""
        return namespace(self.labels)

    @property
    def spacings_mm(self) -> tuple[tuple[float, ...], ...]:
        """Millimetres for each axis, a row for each image of the batch."""
        return self.spacing_mm  # type: ignore[return-value]  # __post_init__ brought it to rows

    @cached_property
    def smallest_spacing_mm(self) -> Array:
        """Smallest spacing of each image in mm, shaped (b 1 ...) to meet (b *s). float32."""
        values = np.array([min(row) for row in self.spacings_mm], dtype=np.float32)
        return from_numpy(values.reshape(-1, *[1] * (self.labels.ndim - 1)), self.labels)

    @cached_property
    def ignored(self) -> Array | None:
        """Where voxels belong to no class (b *s), or None where no label is ignored."""
        return None if self.ignore_label is None else self.labels == IGNORED

    def mask(self, k: int) -> Array:
        """Where the labels are class k. (b *s), boolean."""
        if not 0 <= k < self.num_classes:
            raise RWLossError(f"expected a class of 0..{self.num_classes - 1}, got {k}")
        return self.labels == k

    @cached_property
    def counts(self) -> Array:
        """Voxels of each class in each image. (b k), int64."""
        return per_class.counts(self.labels, self.num_classes)

    @cached_property
    def depth_mm(self) -> Array:
        """Distance in mm from each voxel to the nearest voxel outside its class. (b *s), float32.

        At least the smallest spacing; exactly that where a class fills the image; 0 where ignored.
        """
        if self.ignored is None:
            return distance.depth_mm(self.labels, self.spacings_mm)
        # Ignored voxels end a region: to a distance engine they are one more label. In a wide
        # type: 127 + 1 would wrap around in int8.
        xp = self.xp
        depth = distance.depth_mm(xp.astype(self.labels, xp.int32) + 1, self.spacings_mm)
        return xp.where(self.ignored, xp.zeros_like(depth), depth)

    @cached_property
    def peak_depth_mm(self) -> Array:
        """Largest depth in mm of each class in each image; 0 where absent. (b k), float32."""
        return per_class.maxima(self.depth_mm, self.labels, self.num_classes)

    @cached_property
    def components(self) -> Array:
        """Number of the connected component of each voxel in its image. (b *s), int32.

        Components are of one class, connected through faces, edges and corners; numbered from 1
        by class; 0 where ignored.
        """
        from scipy.ndimage import generate_binary_structure, label

        numbers = np.zeros(self.labels.shape, dtype=np.int32)
        touching = generate_binary_structure(numbers.ndim - 1, numbers.ndim - 1)
        for labels, out in zip(to_numpy(self.labels), numbers, strict=True):
            count = 0
            for k in np.unique(labels[labels != IGNORED]):
                found, more = label(labels == k, touching)
                np.add(found, count, out=out, where=found > 0, casting="same_kind")
                count += more
        return from_numpy(numbers, self.labels)

    def per_voxel(self, values: Array) -> Array:
        """Each voxel gets the value of its class. values (b k) -> (b *s); 0 where ignored."""
        return per_class.look_up(values, self.labels)

    def full(self, value: float) -> Array:
        """The same value at every voxel, read-only and without memory. (b *s), float32."""
        xp = self.xp
        scalar = xp.asarray(value, dtype=xp.float32, **on_device(self.labels))
        return xp.broadcast_to(scalar, self.labels.shape)

    def distance_to_mm(self, k: int) -> Array:
        """Distance in mm from each voxel to the nearest voxel of class k. (b *s), float32.

        0 on the class, and everywhere in an image where the class is absent.
        """
        return distance.distance_to_mm(self.mask(k), self.spacings_mm)

    def signed_distance_mm(self, k: int) -> Array:
        """Distance in mm to the other side of class k's boundary. (b *s), float32.

        Below 0 inside, above 0 outside, measured between voxel centres; 0 everywhere in an image
        where the class is absent or fills the image.
        """
        return distance.signed_distance_mm(self.mask(k), self.spacings_mm)

    def signed_distances_mm(self) -> Array:
        """`signed_distance_mm` of every class, in new memory. (b k *s), float32."""
        return distance.signed_distances_mm(self.labels, self.num_classes, self.spacings_mm)


def checked_labels(labels: Array, num_classes: int, ignore_label: int | None = None) -> Array:
    """Whole labels in one form: 0..num_classes-1, and -1 where ignored. (b *s).

    Raises RWLossError that names the offending value.
    """
    xp = namespace(labels)
    labels = _whole(xp, labels)
    if ignore_label is not None:
        labels = _without_ignored(xp, labels, int(ignore_label))
    _check_range(xp, labels, num_classes, ignoring=ignore_label is not None)
    return labels


def spacing_rows(spacing_mm: Any, shape: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """A spacing for each image of labels of this shape (b *s), checked.

    spacing_mm: a number for each axis, such a row an image, or None for 1.
    """
    batch, axes = shape[0], len(shape) - 1
    if spacing_mm is None:
        return ((1.0,) * axes,) * batch
    if _is_plain(spacing_mm):  # checked once: a training gives the same at every step
        return _checked_rows(spacing_mm, batch, axes)
    return _checked_rows.__wrapped__(spacing_mm, batch, axes)


def _is_plain(spacing_mm: Any) -> bool:
    """Whether it is a tuple of numbers, or of such tuples, all the way down: it can't change."""
    return type(spacing_mm) is tuple and all(
        type(each) in {int, float} or _is_plain(each) for each in spacing_mm
    )


@lru_cache(maxsize=64)
def _checked_rows(spacing_mm: Any, batch: int, axes: int) -> tuple[tuple[float, ...], ...]:
    try:
        values = np.asarray(to_numpy(spacing_mm), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)  # no numbers, or rows of different lengths: no spacing
    if values.shape not in {(axes,), (batch, axes)}:
        raise RWLossError(
            f"expected a spacing for each of {axes} axes (or such a row for each of {batch} "
            f"images), got {spacing_mm!r}"
        )
    if not np.all(np.isfinite(values) & (values > 0)):
        raise RWLossError(f"expected a spacing above 0 mm on every axis, got {spacing_mm!r}")
    rows = np.broadcast_to(values, (batch, axes))
    return tuple(tuple(float(v) for v in row) for row in rows)


def _whole(xp: Any, labels: Array) -> Array:
    """Labels in a signed or small unsigned integer type of native byte order."""
    if xp.isdtype(labels.dtype, "bool"):
        return xp.astype(labels, xp.uint8)
    if xp.isdtype(labels.dtype, "real floating"):
        with np.errstate(invalid="ignore"):  # NaN and infinity come back as something else
            whole = xp.astype(labels, xp.int64)
        wrong = xp.astype(whole, labels.dtype) != labels
        if xp.any(wrong):
            value = float(labels[wrong][0])
            raise RWLossError(
                f"expected whole labels, got {value:g}: labels are classes, not probabilities"
            )
        return whole
    if not xp.isdtype(labels.dtype, "integral"):
        raise RWLossError(f"expected whole labels, got dtype {labels.dtype}")
    if not is_torch(labels) and not labels.dtype.isnative:
        return labels.astype(labels.dtype.newbyteorder("="))
    if is_torch(labels) and str(labels.dtype) in {"torch.uint16", "torch.uint32", "torch.uint64"}:
        return xp.astype(labels, xp.int64)  # torch compares and indexes few unsigned types
    return labels


def _without_ignored(xp: Any, labels: Array, ignore_label: int) -> Array:
    """Labels in a signed type with ignored ones -1; a label -1 that is not ignored stays wrong."""
    signed = labels if xp.isdtype(labels.dtype, "signed integer") else xp.astype(labels, xp.int64)
    if ignore_label == IGNORED:
        return signed
    # Compared wide: torch would wrap an ignore label that a narrow type can't hold (300 is 44).
    ignored = xp.astype(signed, xp.int64, copy=False) == ignore_label
    if xp.any(signed == IGNORED):
        raise RWLossError("label -1 found: labels are 0 or more; pass ignore_label=-1 to ignore it")
    return xp.where(ignored, xp.asarray(IGNORED, dtype=signed.dtype, **on_device(signed)), signed)


def _check_range(xp: Any, labels: Array, num_classes: int, *, ignoring: bool) -> None:
    if math.prod(labels.shape) == 0:
        return
    if is_torch(labels):
        low, high = xp.stack(labels.aminmax()).tolist()  # one pass, and one wait for a GPU
    else:
        low, high = int(xp.min(labels)), int(xp.max(labels))
    wrong = low if low < (IGNORED if ignoring else 0) else high if high >= num_classes else None
    if wrong is not None:
        more = f"num_classes={wrong + 1} or " if wrong > 0 else ""
        raise RWLossError(
            f"label {wrong} found, but num_classes={num_classes} allows 0..{num_classes - 1}: "
            f"pass {more}ignore_label={wrong} (ignore_index={wrong} for a loss), or mend the labels"
        )
