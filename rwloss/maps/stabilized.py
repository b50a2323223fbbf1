"""Stabilized maps: the Euclidean projection on maps that obey the stability principle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rwloss.arrays import Array
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, in_brackets
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class Stabilized(Expression):
    """The nearest map in which wrong classes are equal and the true class is no higher.

    Voxel by voxel, with m the mean of the wrong classes: wrong <- m where true <= m, else all
    <- the mean of all K (a flat voxel: no gradient). A stable map comes back unchanged.
    """

    inner: Expression

    def __post_init__(self) -> None:
        """A projection is not linear, so weights can't change inside it."""
        if any(leaf.schedule or leaf.link is not None for leaf in self.inner.leaves()):
            raise RWLossError(
                f"{self.inner} has a schedule or a link inside .stabilized(): "
                "stabilize its terms one by one"
            )

    @property
    def is_static(self) -> bool:
        """Whether the map inside is."""
        return self.inner.is_static

    @property
    def unit(self) -> str:
        """That of the map inside."""
        return self.inner.unit

    @property
    def needs_class_counts(self) -> bool:
        """Whether the map inside does."""
        return self.inner.needs_class_counts

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The same around the resolved map."""
        return replace(self, inner=self.inner.resolved(class_counts))

    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """The projected map, compact. labels (b *s)."""
        return self._named(self.inner(regions, probs).stabilized(), regions)

    def __str__(self) -> str:
        """Canonical text, such as "boundary.stabilized()"."""
        return f"{in_brackets(self.inner)}.stabilized()"
