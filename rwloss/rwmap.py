"""Region-wise maps: the cost of putting probability on a class at a voxel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rwloss.arrays import Array, as_tensor, fails, is_torch, namespace, on_device
from rwloss.errors import RWLossError
from rwloss.regions import SpacingRows, spacing_text


@dataclass(frozen=True, eq=False, repr=False)
class RWMap:
    """A region-wise map: values for each voxel and class, compact or dense.

    *Compact*: `true` (value at the true class) and `other` (value at every other class), (b *s)
    each. *Dense*: `values` (b k *s). Labels (b *s) go with both; -1 marks ignored voxels, where
    every value is 0. Values are float32 or float64, in the unit of the generator. `parts` holds
    `true` and `other`, or only `values`.

    expression, spacing_mm: the expression of the map as canonical text, and one row of mm per
    image; None for a map made by hand. Generators, expressions and stores set both. parts: arrays,
    as above.

    >>> import numpy as np
    >>> labels = np.array([[[0, 1], [1, 1]]])
    >>> m = RWMap.compact(labels, num_classes=2, true=np.zeros((1, 2, 2)), other=np.ones((1, 2, 2)))
    >>> m.dense()[0, 1].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    labels: Array
    num_classes: int
    parts: tuple[Array, ...]
    expression: str | None = None
    spacing_mm: SpacingRows | None = None

    def __post_init__(self) -> None:
        """Check that the map has one form, and that its shapes fit its labels."""
        shape, k = tuple(self.labels.shape), self.num_classes
        if len(self.parts) not in {1, 2}:
            raise RWLossError("expected `true` and `other`, or only `values`: a map has one form")
        wanted = shape if self.is_compact else (shape[0], k, *shape[1:])
        for name, part in zip(self.part_names, self.parts, strict=True):
            if tuple(part.shape) != wanted:
                raise RWLossError(
                    f"map `{name}` has shape {tuple(part.shape)}, but labels {shape} with {k} "
                    f"classes need {wanted}"
                )
            if isinstance(part, np.ndarray) != isinstance(self.labels, np.ndarray):
                raise RWLossError(f"map `{name}` and its labels have different array types")
            if not _is_floating(part):
                raise RWLossError(f"expected a floating `{name}`, got dtype {part.dtype}")

    @classmethod
    def compact(
        cls,
        labels: Array,
        num_classes: int,
        true: Array,
        other: Array,
        *,
        expression: str | None = None,
        spacing_mm: SpacingRows | None = None,
    ) -> RWMap:
        """Make a map with one value at the true class and one at every other. All (b *s).

        true: values at the true class. other: values at every other class.
        """
        return cls(labels, num_classes, (true, other), expression, spacing_mm)

    @classmethod
    def from_dense(
        cls,
        labels: Array,
        values: Array,
        *,
        expression: str | None = None,
        spacing_mm: SpacingRows | None = None,
    ) -> RWMap:
        """Make a map with one value per class. labels (b *s), values (b k *s)."""
        return cls(labels, int(values.shape[1]), (values,), expression, spacing_mm)

    @property
    def is_compact(self) -> bool:
        """Whether all wrong classes of a voxel share one value by construction."""
        return len(self.parts) == 2

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of `parts`, in order."""
        return ("true", "other") if self.is_compact else ("values",)

    @property
    def true(self) -> Array:
        """Value at the true class, of a compact map. (b *s)."""
        self._expect_compact("true")
        return self.parts[0]

    @property
    def other(self) -> Array:
        """Value at every other class, of a compact map. (b *s)."""
        self._expect_compact("other")
        return self.parts[1]

    @property
    def values(self) -> Array:
        """Value for every class, of a dense map. (b k *s)."""
        if self.is_compact:
            raise RWLossError("a compact map has no `values`: use .dense()")
        return self.parts[0]

    def _expect_compact(self, name: str) -> None:
        if not self.is_compact:
            raise RWLossError(
                f"a dense map has no `{name}`, because its other classes may have different "
                "values: use .dense() or .stabilized()"
            )

    def dense(self) -> Array:
        """Values for every class. (b k *s); a dense map's own values, not a copy."""
        if not self.is_compact:
            return self.values
        true, other = self.parts
        xp = namespace(self.labels)
        shape = (self.labels.shape[0], self.num_classes, *self.labels.shape[1:])
        dtype = xp.result_type(true.dtype, other.dtype)
        values = xp.empty(shape, dtype=dtype, **on_device(self.labels))
        for k in range(self.num_classes):
            here = self.labels == k
            if is_torch(values):
                values[:, k] = xp.where(here, true, other)
            else:  # without an array in between
                values[:, k] = other
                np.copyto(values[:, k], true, where=here)
        return values

    def with_arrays(self, change: Callable[[Array], Array]) -> RWMap:
        """The same map with `change` applied to its labels and to each of its parts.

        change: a function of one array.
        """
        parts = tuple(change(part) for part in self.parts)
        return replace(self, labels=change(self.labels), parts=parts)

    def to(self, device: Any, *, non_blocking: bool = False) -> RWMap:
        """The same map as tensors on a device; shares those that are already there. (b *s).

        NumPy arrays become tensors. device: as for `torch.Tensor.to`. This method is how Lightning
        and Fabric know to move the map with its batch.

        non_blocking: as for `torch.Tensor.to`.

        >>> labels = np.array([[[0, 1]]])
        >>> m = RWMap.compact(labels, 2, true=np.zeros((1, 1, 2)), other=np.ones((1, 1, 2)))
        >>> m.to("cpu").true.device.type
        'cpu'
        """
        return self.with_arrays(
            lambda array: as_tensor(array).to(device, non_blocking=non_blocking)
        )

    def check_spacing(self, spacing_mm: SpacingRows | None) -> None:
        """Raise RWLossError if the map is known to have another spacing.

        spacing_mm: one row per image, equal within 0.1 %; axes of one voxel do not count. None here
        or in the map is not compared.
        """
        sizes = self.labels.shape[1:]
        for given, wanted in zip(self.spacing_mm or (), spacing_mm or (), strict=False):
            for mm, needed, size in zip(given, wanted, sizes, strict=True):
                if size > 1 and abs(mm - needed) > 1e-3 * needed:
                    raise RWLossError(
                        f"the map was made at a spacing of {spacing_text([given])}, but the "
                        f"image has {spacing_text([wanted])}: make the map again at that "
                        "spacing, or correct the spacing that is given"
                    )

    def __repr__(self) -> str:
        """One line: its expression, form, shape, classes and spacing."""
        facts = [
            self.expression or "",
            "compact" if self.is_compact else "dense",
            f"labels {tuple(self.labels.shape)}",
            f"{self.num_classes} classes",
            f"spacing {spacing_text(self.spacing_mm)}" if self.spacing_mm else "",
        ]
        return f"RWMap({', '.join(filter(None, facts))})"

    def weight(self) -> Array:
        """Value at the other classes minus that at the true class, of a compact map. (b *s).

        Raises RWLossError for a dense map: its other classes may have different values.
        """
        return self.other - self.true

    def stabilized(self) -> RWMap:
        """The nearest map (Euclidean, voxel by voxel) that obeys the stability principle, in
        compact form.

        With m the mean of the wrong classes: wrong <- m where true <= m, else all <- the mean of
        all K. A map without violating voxels comes back with the same values.
        """
        xp, k = namespace(self.labels), self.num_classes
        true, wrong = self.parts if self.is_compact else self._true_and_mean_wrong()
        stable = true <= wrong
        mean = (true + (k - 1) * wrong) / k
        return RWMap.compact(
            self.labels, k, true=xp.where(stable, true, mean), other=xp.where(stable, wrong, mean)
        )

    def __add__(self, other: object) -> RWMap:
        """Sum of two maps of the same labels: compact if both are, else dense."""
        if not isinstance(other, RWMap):
            return NotImplemented
        self._check_same_labels(other)
        if self.is_compact == other.is_compact:
            sums = tuple(one + two for one, two in zip(self.parts, other.parts, strict=True))
            return RWMap(self.labels, self.num_classes, sums)
        return RWMap.from_dense(self.labels, self.dense() + other.dense())

    def __sub__(self, other: object) -> RWMap:
        """Difference of two maps of the same labels."""
        return self + -1.0 * other if isinstance(other, RWMap) else NotImplemented

    def __neg__(self) -> RWMap:
        """The map times -1."""
        return self * -1.0

    def __mul__(self, factor: object) -> RWMap:
        """The map times a number."""
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            return NotImplemented
        parts = tuple(part * float(factor) for part in self.parts)
        return RWMap(self.labels, self.num_classes, parts)

    __rmul__ = __mul__

    def _true_and_mean_wrong(self) -> tuple[Array, Array]:
        """Value at the true class and mean of the others, of a dense map. (b *s) each."""
        xp, labels, values = namespace(self.labels), self.labels, self.values
        zero = xp.zeros_like(values[:, 0])
        true = zero
        # Means as one wrong class plus mean differences from it: exact where all are equal.
        base = xp.where(labels == 0, values[:, 1], values[:, 0])
        rest = zero
        for k in range(self.num_classes):
            here = labels == k
            true = xp.where(here, values[:, k], true)
            rest = rest + xp.where(here, zero, values[:, k] - base)
        return true, base + rest / (self.num_classes - 1)

    def _check_same_labels(self, other: RWMap) -> None:
        if self.num_classes != other.num_classes:
            raise RWLossError(
                f"maps of {self.num_classes} and of {other.num_classes} classes can't be added"
            )
        if self.labels is other.labels:
            return
        if is_torch(self.labels) != is_torch(other.labels):
            raise RWLossError("a NumPy map and a torch map can't be added: convert one of them")
        if tuple(self.labels.shape) != tuple(other.labels.shape):
            raise RWLossError(
                f"maps of labels {tuple(self.labels.shape)} and {tuple(other.labels.shape)} "
                "can't be added: they are of different images"
            )
        if fails(self.labels == other.labels, "maps of different labels are added"):
            raise RWLossError("maps of different labels can't be added: make both from the same")


def _is_floating(values: Array) -> bool:
    dtype = values.dtype
    return bool(dtype.kind == "f" if isinstance(values, np.ndarray) else dtype.is_floating_point)
