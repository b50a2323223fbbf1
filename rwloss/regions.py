"""Labels with their geometry: everything that a map generator can use of the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
from einops import rearrange, repeat

from rwloss import distance
from rwloss.arrays import (
    Array,
    divide_into,
    fails,
    from_numpy,
    is_torch,
    may_read,
    namespace,
    on_device,
    to_numpy,
)
from rwloss.errors import RWLossError

# Millimeters: one number per axis, or one such row per image; and always one row per image.
SpacingMM: TypeAlias = Sequence[float] | Sequence[Sequence[float]]
SpacingRows: TypeAlias = tuple[tuple[float, ...], ...]
T = TypeVar("T")
POSSIBLE_MM = (1e-9, 1e9)  # a spacing beyond is damage; squares must fit in float32
IGNORED = -1
"""The label of ignored voxels inside `Regions` and `RWMap`: they belong to no class."""


@dataclass(frozen=True, eq=False, repr=False)
class Regions:
    """Labels (b *s) with number of classes and voxel spacing; geometry on demand, computed once.

    labels: integers 0..num_classes-1, NumPy array or torch tensor on any device, *s 2-D or 3-D.
    Every result has the same type and is on the same device.
    spacing_mm: millimeters per axis of *s, in array order, for all images or one row per image; 1
    by default.
    ignore_label: voxels with this label belong to no class. They end a region, have depth 0, and
    every map is 0 there. In `labels` they are -1.
    image: (b c *s), gray values of the same voxels, for maps that use them; float32 or float64.

    Raises RWLossError for labels that are not integers, are negative or too large, for a spacing
    that does not fit, or is not between 1e-9 and 1e9 mm, and for an image of another shape.

    >>> regions = Regions(np.array([[[0, 1, 1], [0, 1, 1]]]), num_classes=2, spacing_mm=(1, 2))
    >>> regions.depth_mm.tolist()
    [[[2.0, 2.0, 4.0], [2.0, 2.0, 4.0]]]
    """

    labels: Array
    num_classes: int
    spacing_mm: SpacingMM | None = None
    ignore_label: int | None = None
    image: Array | None = None

    def __post_init__(self) -> None:
        """Check, and bring to one form: whole labels, ignored ones -1, one spacing per image."""
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
        labels = checked_labels(self.labels, int(k), self.ignore_label)
        rows = spacing_rows(self.spacing_mm, labels.shape)
        image = None if self.image is None else checked_image(self.image, labels)
        self.__dict__.update(labels=labels, num_classes=int(k), spacing_mm=rows, image=image)

    @classmethod
    def of_checked(
        cls,
        labels: Array,
        num_classes: int,
        spacings_mm: SpacingRows,
        ignore_label: int | None = None,
        image: Array | None = None,
    ) -> Regions:
        """Regions of results of `checked_labels`, `spacing_rows` and `checked_image`."""
        regions = object.__new__(cls)
        given = (labels, num_classes, spacings_mm, ignore_label, image)
        regions.__dict__.update(zip(cls.__match_args__, given, strict=True))
        return regions

    @classmethod
    def single(
        cls,
        volume: Array,
        num_classes: int,
        spacing_mm: Sequence[float] | None = None,
        ignore_label: int | None = None,
        image: Array | None = None,
    ) -> Regions:
        """One case without the batch axis. volume (*s), image (c *s) -> labels (1 *s)."""
        namespace(volume)  # refuses lists and the like, which have no axes to count
        if volume.ndim not in {2, 3}:
            raise RWLossError(
                f"expected one image of 2 or 3 axes, got shape {tuple(volume.shape)}: "
                "for a batch use Regions"
            )
        image = None if image is None else image[None]
        return cls(volume[None], num_classes, spacing_mm, ignore_label, image)

    @classmethod
    def from_masks(
        cls, masks: Array, spacing_mm: SpacingMM | None = None, image: Array | None = None
    ) -> Regions:
        """Overlapping masks, each as its own two-class problem. masks (b k *s) of 0 and 1.

        Returns regions of labels (b·k *s): 1 inside a mask, 0 outside; the masks of an image are
        adjacent.
        image: (b c *s).
        `RegionWiseLoss(activation="sigmoid")` takes maps of such regions.

        >>> masks = np.zeros((2, 3, 4, 4), dtype=bool)
        >>> Regions.from_masks(masks).labels.shape
        (6, 4, 4)
        """
        namespace(masks)  # refuses lists and the like, which have no axes to count
        if masks.ndim not in {4, 5}:
            raise RWLossError(
                f"expected masks (b k *s) with *s 2-D or 3-D, got shape {tuple(masks.shape)}"
            )
        batch, k, *size = masks.shape
        rows = [row for row in spacing_rows(spacing_mm, (batch, *size)) for _ in range(k)]
        each = None if image is None else repeat(image, "b ... -> (b k) ...", k=k)
        return cls(rearrange(masks, "b k ... -> (b k) ..."), 2, rows, image=each)

    def __repr__(self) -> str:
        """One line: shape, classes and spacing."""
        spacing = f", spacing {spacing_text(self.spacings_mm)}" if self.spacings_mm else ""
        return f"Regions(labels {tuple(self.labels.shape)}, {self.num_classes} classes{spacing})"

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: everything but modules."""
        modules = {"xp", "kernels"}
        return {name: value for name, value in vars(self).items() if name not in modules}

    @cached_property
    def xp(self) -> Any:
        """Array API namespace of the labels."""
        return namespace(self.labels)

    @cached_property
    def kernels(self) -> Any:
        """Triton's kernels for labels on a GPU where it is installed, else None."""
        return None if isinstance(self.labels, np.ndarray) else kernels_for(self.labels)

    @property
    def spacings_mm(self) -> SpacingRows:
        """Millimeters per axis, one row per image of the batch."""
        return self.spacing_mm  # type: ignore[return-value]  # __post_init__ brought it to rows

    @cached_property
    def smallest_spacing_mm(self) -> Array:
        """Smallest spacing of each image in mm, to broadcast with (b *s). (b 1 ...), float32.

        An axis of length 1 does not count: no distance runs along it.
        """
        return distance.smallest_of_each_mm(self.labels, self.spacings_mm)

    @cached_property
    def ignored(self) -> Array | None:
        """Where voxels belong to no class (b *s), or None if no label is ignored."""
        return None if self.ignore_label is None else self.labels == IGNORED

    def mask(self, k: int) -> Array:
        """Where the labels are class k. (b *s), boolean."""
        if not 0 <= k < self.num_classes:
            raise RWLossError(f"expected a class of 0..{self.num_classes - 1}, got {k}")
        return self.labels == k

    @cached_property
    def counts(self) -> Array:
        """Voxels of each class in each image. (b k), int64."""
        return class_counts(self.labels, self.num_classes)

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
        return class_maxima(self.depth_mm, self.labels, self.num_classes)

    @cached_property
    def components(self) -> Array:
        """Number of the connected component of each voxel in its image. (b *s), int32.

        Components are of one class, connected through faces, edges and corners; numbered from 1
        by class; 0 where ignored.
        """
        from scipy.ndimage import label

        numbers = np.zeros(self.labels.shape, dtype=np.int32)
        touching = np.ones((3,) * (numbers.ndim - 1))
        for labels, out in zip(to_numpy(self.labels), numbers, strict=True):
            count = 0
            for k in np.unique(labels[labels != IGNORED]):
                found, more = label(labels == k, touching)
                np.add(found, count, out=out, where=found > 0, casting="same_kind")
                count += more
        return from_numpy(numbers, self.labels)

    def nearest_component(self, k: int) -> Array:
        """Number of the component of class k nearest to each voxel, in mm. (b *s), int32.

        The Voronoi cells of the components, exact between voxel centers; if several are equally
        near, always the same one. 0 in an image without class k, and where ignored.
        """
        self.mask(k)  # refuses other classes
        return self.kept(f"nearest_component {k}", lambda: self._nearest_component(k))

    def _nearest_component(self, k: int) -> Array:
        from scipy.ndimage import distance_transform_edt

        labels, components = to_numpy(self.labels), to_numpy(self.components)
        found = np.zeros_like(components)
        images = zip(labels, components, self.spacings_mm, found, strict=True)
        for image, component, spacing_mm, out in images:
            if (image == k).any():
                places = distance_transform_edt(
                    image != k, sampling=spacing_mm, return_distances=False, return_indices=True
                )
                out[...] = component[tuple(places)]
                out[image == IGNORED] = 0
        return from_numpy(found, self.labels)

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """The result of `make`, computed once and cached with the labels under this name.

        name: the cache key. make: called once, without arguments.
        """
        found = self.__dict__.setdefault("_kept", {})
        if name not in found:
            found[name] = make()
        made: T = found[name]
        return made

    def per_voxel(self, values: Array) -> Array:
        """Each voxel gets the value of its class. values (b k) -> (b *s); 0 where ignored."""
        return look_up(values, self.labels)

    def divided_by_class(self, values: Array, divisors: Array, *, negative: bool = False) -> Array:
        """Values (b *s) by the number of their class (b k). (b *s), new; 0 where ignored.

        negative: times -1.
        """
        if kernels := self.kernels:
            return kernels.divided(values, divisors, self.labels, negative)
        divisor = self.per_voxel(-divisors if negative else divisors)
        if self.ignored is not None:
            divisor = self.xp.where(self.ignored, self.full(1.0), divisor)  # not 0 / 0
        return divide_into(values, divisor)

    def full(self, value: float) -> Array:
        """One value for every voxel: read-only, takes no memory. (b *s), float32.

        value: a number.
        """
        xp, size = self.xp, self.labels.shape
        one = xp.full((), value, dtype=xp.float32, **on_device(self.labels))
        return xp.broadcast_to(one, size) if xp is np else one.expand(size)

    def distance_to_mm(self, k: int) -> Array:
        """Distance in mm from each voxel to the nearest voxel of class k. (b *s), float32.

        0 on the class, and everywhere in an image where the class is absent.
        """
        return distance.distance_to_mm(self.mask(k), self.spacings_mm)

    def signed_distance_mm(self, k: int) -> Array:
        """Distance in mm to the other side of class k's boundary. (b *s), float32.

        Below 0 inside, above 0 outside, measured between voxel centers; 0 everywhere in an image
        where the class is absent or fills the image.
        """
        return distance.signed_distance_mm(self.mask(k), self.spacings_mm)

    def signed_distances_mm(self, *, less_inside: bool = False) -> Array:
        """`signed_distance_mm` of every class, in new memory. (b k *s), float32.

        less_inside: nearer to 0 by the smallest spacing inside, so that voxels at that distance
        from the other side have 0.
        """
        return distance.signed_distances_mm(
            self.labels, self.num_classes, self.spacings_mm, less_inside
        )


def checked_labels(
    labels: Array, num_classes: int, ignore_label: int | None = None, *, in_range: bool = True
) -> Array:
    """Whole labels (b *s), 0..num_classes-1 or -1; raises RWLossError that names a wrong value.

    in_range: False leaves `check_range` to the caller.
    """
    xp = namespace(labels)
    labels = _whole(xp, labels, _kind(labels))
    if ignore_label is not None:
        labels = _without_ignored(xp, labels, int(ignore_label))
    if in_range:
        check_range(labels, num_classes, ignoring=ignore_label is not None)
    return labels


def checked_image(image: Array, labels: Array) -> Array:
    """The image (b c *s) of labels (b *s), in float32 at least; raises RWLossError otherwise."""
    xp = namespace(image)
    if xp is not namespace(labels):
        raise RWLossError(
            f"the image is a {type(image).__name__}, its labels are a {type(labels).__name__}: "
            "give both as NumPy arrays, or both as torch tensors"
        )
    if image.ndim != labels.ndim + 1 or (image.shape[0], *image.shape[2:]) != tuple(labels.shape):
        raise RWLossError(
            f"image {tuple(image.shape)} does not fit labels {tuple(labels.shape)}: expected "
            "(b c *s), the channels of the same voxels"
        )
    if is_torch(image) and image.device != labels.device:
        raise RWLossError(
            f"the image is on {image.device}, its labels on {labels.device}: move it with "
            "image.to(labels.device)"
        )
    return image if image.dtype in (xp.float32, xp.float64) else xp.astype(image, xp.float32)


def spacing_rows(spacing_mm: Any, shape: Sequence[int]) -> SpacingRows:
    """One spacing per image of labels (b *s), checked, from one row, a row per image or None."""
    batch, axes = shape[0], len(shape) - 1
    if spacing_mm is None:
        return ((1.0,) * axes,) * batch
    check = _checked_rows if _is_plain(spacing_mm) else _checked_rows.__wrapped__  # checked once
    return check(spacing_mm, batch, axes)


def spacing_text(rows: Iterable[Iterable[float]]) -> str:
    """Such as "1 x 2.5 mm", each row once; no mm where all are 1, as where none was given."""
    each = sorted({tuple(row) for row in rows})
    unit = "" if {mm for row in each for mm in row} <= {1.0} else " mm"
    return " or ".join(" x ".join(f"{mm:g}" for mm in row) for row in each) + unit


def _is_plain(spacing_mm: Any) -> bool:
    """Whether it is a nested tuple of numbers, which can't change."""
    return type(spacing_mm) is tuple and all(
        type(each) in {int, float} or _is_plain(each) for each in spacing_mm
    )


@lru_cache(maxsize=64)
def _checked_rows(spacing_mm: Any, batch: int, axes: int) -> SpacingRows:
    try:
        values = np.asarray(to_numpy(spacing_mm), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)  # no numbers, or rows of different lengths
    if values.shape not in {(axes,), (batch, axes)}:
        raise RWLossError(
            f"expected a spacing in mm for each of {axes} axes, or one such row for each of "
            f"{batch} images, got {spacing_mm!r}"
        )
    if not np.all((values >= POSSIBLE_MM[0]) & (values <= POSSIBLE_MM[1])):
        raise RWLossError(f"expected a spacing of 1e-9 to 1e9 mm on every axis, got {spacing_mm!r}")
    return tuple(tuple(row) for row in np.broadcast_to(values, (batch, axes)).tolist())


def _whole(xp: Any, labels: Array, kind: str) -> Array:
    """Labels in a signed or small unsigned integer type of native byte order."""
    if kind == "b":
        return xp.astype(labels, xp.uint8)
    if kind == "f":
        with np.errstate(invalid="ignore"):  # NaN and infinity change, and are found below
            whole = xp.astype(labels, xp.int64)
        wrong = xp.astype(whole, labels.dtype) != labels
        if fails(~wrong, "a label is not a whole number"):
            raise RWLossError(
                f"expected whole labels, got {float(labels[wrong][0]):g}: labels are classes, not "
                "probabilities; resample them by nearest neighbor, mode='nearest'"
            )
        return whole
    if kind not in {"i", "u"}:
        raise RWLossError(f"expected whole labels, got dtype {labels.dtype}")
    if isinstance(labels, np.ndarray):
        return labels.astype(labels.dtype.newbyteorder("="), copy=False)
    # torch compares and indexes only a few unsigned types.
    return labels if kind == "i" or labels.dtype == xp.uint8 else xp.astype(labels, xp.int64)


def _kind(labels: Array) -> str:
    """NumPy's letter for the kind of dtype: b, i, u, f, or another."""
    if isinstance(labels, np.ndarray):
        return str(labels.dtype.kind)
    name = str(labels.dtype)[len("torch.") :]
    return {"b": "f" if name == "bfloat16" else "b"}.get(name[0], name[0])


def _without_ignored(xp: Any, labels: Array, ignore_label: int) -> Array:
    """Labels in a signed type, -1 where ignored. Raises for a -1 that is not the ignored label."""
    signed = labels if _kind(labels) == "i" else xp.astype(labels, xp.int64)
    if ignore_label == IGNORED:
        return signed
    # In int64: torch would wrap an ignore label that a narrow type can't hold (300 becomes 44).
    ignored = xp.astype(signed, xp.int64, copy=False) == ignore_label
    if fails(signed != IGNORED, "a label is -1, which is not the ignored label"):
        raise RWLossError("label -1 found: labels are 0 or more; pass ignore_label=-1 to ignore it")
    return xp.where(ignored, xp.full((), IGNORED, dtype=signed.dtype, **on_device(signed)), signed)


def not_in_range(num_classes: int) -> str:
    """What is wrong, in a few words, where `check_range` fails."""
    return f"a label is not one of 0..{num_classes - 1}"


def check_range(labels: Array, num_classes: int, *, ignoring: bool) -> None:
    """Raise RWLossError that names a whole label which is no class, or -1 if `ignoring`."""
    if 0 in labels.shape:
        return
    if isinstance(labels, np.ndarray):
        low, high = int(labels.min()), int(labels.max())
    elif may_read(labels):
        ends = labels.aminmax()
        # Wait for a GPU only once.
        low, high = map(int, ends) if labels.is_cpu else namespace(labels).stack(ends).tolist()
    else:
        least = IGNORED if ignoring else 0
        if kernels := kernels_for(labels):
            holds = kernels.in_range(labels, least, num_classes)
        else:
            ends = labels.aminmax()
            holds = (ends.min >= least) & (ends.max < num_classes)
        fails(holds, not_in_range(num_classes))
        return
    wrong = low if low < (IGNORED if ignoring else 0) else high if high >= num_classes else None
    if wrong is None:
        return
    xp = namespace(labels)
    more = f"num_classes={wrong + 1} or " if wrong > 0 else ""
    fix = f"pass {more}ignore_label={wrong} (ignore_index={wrong} for a loss), or fix the labels"
    looks_like_mask = wrong > 0 and low == 0 and not xp.any((labels > 0) & (labels != high))
    if looks_like_mask and num_classes > 2:
        fix = f"if {wrong} is the foreground of a mask, store it as 1; else {fix}"
    elif looks_like_mask:
        fix = (
            f"if {wrong} is the foreground of a mask, store it as 1 (to ignore it would leave "
            "no foreground)"
        )
    elif wrong > 0 and (found := np.unique(to_numpy(labels[labels >= num_classes]))).size > 1:
        fix = (
            f"it is one of {found.size} that are too large; if they are classes, pass "
            f"num_classes={wrong + 1}; if they are gray values (of an anti-aliased mask, say) or "
            f"object numbers, store the class of each voxel"
        )
    elif wrong == num_classes and not xp.any(labels == wrong - 1):
        fix += f" (if their numbers have a gap, number {wrong} as {wrong - 1})"
    raise RWLossError(
        f"label {wrong} found, but num_classes={num_classes} allows 0..{num_classes - 1}: {fix}"
    )


# --- Tables of classes. On a GPU with Triton each is one kernel: a torch scatter would need indices
# of eight bytes per voxel, and send every voxel to a few addresses that wait for each other.


def class_counts(labels: Array, num_classes: int) -> Array:
    """Voxels of each class in each image. (b *s) -> (b k), int64."""
    shape = len(labels), num_classes + 1
    if not isinstance(labels, np.ndarray):
        if kernels := kernels_for(labels):
            return kernels.counts(labels, num_classes)
        index = _index(labels)
        one = index.new_ones((1, 1)).expand_as(index)
        return index.new_zeros(shape).scatter_add_(1, index, one)[:, 1:]
    found = np.zeros(shape, dtype=np.int64)
    for image, row in zip(labels, found, strict=True):
        index = np.add(image, 1, dtype=np.intp).ravel(order="K")
        row[:] = np.bincount(index, minlength=shape[1])
    return found[:, 1:]  # what is ignored comes first


def class_maxima(values: Array, labels: Array, num_classes: int) -> Array:
    """Largest value of each class in each image, of values of 0 or more; 0 where absent. (b k)."""
    shape = len(labels), num_classes + 1
    if not isinstance(values, np.ndarray):
        if kernels := kernels_for(labels):
            return kernels.maxima(values, labels, num_classes)
        found = values.new_zeros(shape)
        return found.scatter_reduce_(1, _index(labels), values.flatten(1), "amax")[:, 1:]
    peaks = np.zeros(shape, dtype=values.dtype)
    for image, there, row in zip(values, labels, peaks, strict=True):
        order: Any = "F" if there.flags.f_contiguous else "C"  # without a copy
        np.maximum.at(row, there.reshape(-1, order=order), image.reshape(-1, order=order))
    return peaks[:, :-1]  # -1 is the last


def look_up(table: Array, labels: Array) -> Array:
    """Each voxel gets the value of its class, 0 below class 0. (b k), (b *s) -> (b *s)."""
    if not isinstance(table, np.ndarray):
        if kernels := kernels_for(labels):
            return kernels.look_up(table, labels)
        padded = table.new_zeros((len(table), table.shape[1] + 1))
        padded[:, 1:] = table
        return padded.gather(1, _index(labels)).reshape(labels.shape)
    # A 0 at the end, where -1 points.
    padded = np.concatenate([table, np.zeros_like(table[:, :1])], axis=1)
    found = np.empty_like(labels, dtype=table.dtype)
    for row, whole, target in zip(padded, labels, found, strict=True):
        # NIfTI volumes have the first axis fastest: walk them in the order of their memory.
        turned = whole.flags.f_contiguous and target.flags.f_contiguous
        image, out = (whole.T, target.T) if turned else (whole, target)
        # In slabs: `take` makes an index of eight bytes per voxel, and allocating that for a whole
        # volume costs more than the look-up.
        slab = max(1, 2**18 * len(image) // max(image.size, 1))  # voxels
        for first in range(0, len(image), slab):
            np.take(row, image[first : first + slab], out=out[first : first + slab], mode="wrap")
    return found


def kernels_for(labels: Array) -> Any:
    """Triton's kernels for a tensor where distances use Triton too, else None."""
    if labels.device.type == "cpu" or distance.engine_name(like=labels) != "triton":
        return None
    from rwloss.distance import triton_classes

    return triton_classes


def _index(labels: Array) -> Array:
    """Labels of a tensor + 1 as an index, so that ignored voxels are 0. (b *s) -> (b i), int64."""
    return labels.flatten(1).long() + 1
