"""Region-wise maps: what it costs to put probability on a class at a voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rwloss.arrays import Array, as_tensor, is_torch, namespace, on_device
from rwloss.errors import RWLossError


@dataclass(frozen=True, eq=False)
class RWMap:
    """Map values for each voxel and class, compact or dense.

    *Compact*: `true` (value at the true class) and `other` (value at every other class), (b *s)
    each. *Dense*: `values` (b k *s). Labels (b *s) go with both; -1 marks ignored voxels, where
    every value is 0. Values are float32 or float64, unitless or as the generator says.

    >>> import numpy as np
    >>> labels = np.array([[[0, 1], [1, 1]]])
    >>> m = RWMap.compact(labels, num_classes=2, true=np.zeros((1, 2, 2)), other=np.ones((1, 2, 2)))
    >>> m.dense()[0, 1].tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """

    labels: Array
    num_classes: int
    true: Array | None = None
    other: Array | None = None
    values: Array | None = None

    def __post_init__(self) -> None:
        """Check that the map has one form, and that its shapes fit its labels."""
        shape, k = tuple(self.labels.shape), self.num_classes
        if (self.true is None) != (self.other is None) or (self.true is None) == (
            self.values is None
        ):
            raise RWLossError("expected either `true` and `other`, or `values`: a map has one form")
        expected = {"true": shape, "other": shape, "values": (shape[0], k, *shape[1:])}
        for name, want in expected.items():
            part = getattr(self, name)
            if part is None:
                continue
            if tuple(part.shape) != want:
                raise RWLossError(
                    f"map `{name}` has shape {tuple(part.shape)}, labels {shape} with {k} classes "
                    f"want {want}"
                )
            if is_torch(part) != is_torch(self.labels):
                raise RWLossError(f"map `{name}` and its labels are of different array kinds")
            if not namespace(part).isdtype(part.dtype, "real floating"):
                raise RWLossError(f"expected a floating `{name}`, got dtype {part.dtype}")

    @classmethod
    def compact(cls, labels: Array, num_classes: int, true: Array, other: Array) -> RWMap:
        """A map with one value at the true class and one at every other. All (b *s)."""
        return cls(labels, num_classes, true=true, other=other)

    @classmethod
    def from_dense(cls, labels: Array, values: Array) -> RWMap:
        """A map with a value for every class. labels (b *s), values (b k *s)."""
        return cls(labels, int(values.shape[1]), values=values)

    @property
    def is_compact(self) -> bool:
        """Whether all wrong classes of a voxel share one value by construction."""
        return self.values is None

    def dense(self) -> Array:
        """Values for every class. (b k *s); a dense map's own values, not a copy."""
        if self.values is not None:
            return self.values
        assert self.true is not None
        assert self.other is not None
        xp = namespace(self.labels)
        shape = (self.labels.shape[0], self.num_classes, *self.labels.shape[1:])
        dtype = xp.result_type(self.true.dtype, self.other.dtype)
        values = xp.empty(shape, dtype=dtype, **on_device(self.labels))
        for k in range(self.num_classes):
            here = self.labels == k
            if is_torch(values):
                values[:, k] = xp.where(here, self.true, self.other)
            else:  # without an array in between
                values[:, k] = self.other
                np.copyto(values[:, k], self.true, where=here)
        return values

    def to(self, device: Any, *, non_blocking: bool = False) -> RWMap:
        """The same map as tensors on a device: its own if they are there already. (b *s).

        NumPy arrays become tensors. device: as for `torch.Tensor.to`. That a map has this method
        is how Lightning and Fabric know that it is to be moved with the batch.

        >>> labels = np.array([[[0, 1]]])
        >>> m = RWMap.compact(labels, 2, true=np.zeros((1, 1, 2)), other=np.ones((1, 1, 2)))
        >>> m.to("cpu").true.device.type
        'cpu'
        """
        parts = {
            name: as_tensor(part).to(device, non_blocking=non_blocking)
            for name in ("labels", "true", "other", "values")
            if (part := getattr(self, name)) is not None
        }
        return replace(self, **parts)

    def weight(self) -> Array:
        """Value at the other classes less that at the true class, of a compact map. (b *s).

        Raises RWLossError for a dense map: its other classes may have different values.
        """
        if self.true is None or self.other is None:
            raise RWLossError("a dense map has no single weight for a voxel: use .stabilized()")
        return self.other - self.true

    def stabilized(self) -> RWMap:
        """The nearest map (Euclidean, voxel by voxel) that obeys the stability principle; compact.

        With m the mean of the wrong classes: wrong <- m where true <= m, else all <- the mean of
        all K. A map without violating voxels comes back with the same values.
        """
        xp, k = namespace(self.labels), self.num_classes
        true, wrong = (
            (self.true, self.other) if self.values is None else self._true_and_mean_wrong()
        )
        assert true is not None
        assert wrong is not None
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
        if self.is_compact and other.is_compact:
            sums = {name: getattr(self, name) + getattr(other, name) for name in ("true", "other")}
            return RWMap(self.labels, self.num_classes, **sums)
        if self.values is not None and other.values is not None:
            return RWMap.from_dense(self.labels, self.values + other.values)
        dense, compact = (self, other) if other.values is None else (other, self)
        return RWMap.from_dense(self.labels, dense._with_compact_added(compact))

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
        parts = {
            name: part * float(factor)
            for name in ("true", "other", "values")
            if (part := getattr(self, name)) is not None
        }
        return RWMap(self.labels, self.num_classes, **parts)

    __rmul__ = __mul__

    def _true_and_mean_wrong(self) -> tuple[Array, Array]:
        """Value at the true class and mean of the others, of a dense map. (b *s) each."""
        xp, labels, values = namespace(self.labels), self.labels, self.values
        assert values is not None
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

    def _with_compact_added(self, compact: RWMap) -> Array:
        """Dense values plus a compact map's. (b k *s)."""
        xp = namespace(self.labels)
        assert self.values is not None
        assert compact.true is not None
        assert compact.other is not None
        dtypes = (part.dtype for part in (self.values, compact.true, compact.other))
        sums = xp.empty(self.values.shape, dtype=xp.result_type(*dtypes), **on_device(self.labels))
        for k in range(self.num_classes):
            more = xp.where(self.labels == k, compact.true, compact.other)
            sums[:, k] = self.values[:, k] + more
        return sums

    def _check_same_labels(self, other: RWMap) -> None:
        if self.num_classes != other.num_classes:
            raise RWLossError(
                f"maps of {self.num_classes} and of {other.num_classes} classes can't be added"
            )
        if self.labels is other.labels:
            return
        if is_torch(self.labels) != is_torch(other.labels):
            raise RWLossError("a NumPy map and a torch map can't be added: make both of one kind")
        if tuple(self.labels.shape) != tuple(other.labels.shape):
            raise RWLossError(
                f"maps of labels {tuple(self.labels.shape)} and {tuple(other.labels.shape)} "
                "can't be added: they are of different images"
            )
        if not namespace(self.labels).all(self.labels == other.labels):
            raise RWLossError("maps of different labels can't be added: make both from the same")
