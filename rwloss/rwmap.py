"""Region-wise maps: what it costs to put probability on a class at a voxel."""

from __future__ import annotations

from dataclasses import dataclass

from rwloss.arrays import Array, is_torch, namespace, on_device
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
        values = xp.empty(shape, dtype=self.true.dtype, **on_device(self.labels))
        for k in range(self.num_classes):
            values[:, k] = xp.where(self.labels == k, self.true, self.other)
        return values
