"""Expressions: weighted sums of terms, and what of them can be made from the labels alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from rwloss.arrays import Array
from rwloss.errors import RWLossError
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

if TYPE_CHECKING:
    from rwloss.maps.link import Linked
    from rwloss.maps.stabilized import Stabilized


@dataclass(frozen=True)
class Leaf:
    """A term that is no sum, with all that stands before it at one epoch.

    weight: the fixed number in the expression. factor: what schedules make of it at this epoch.
    schedule: the schedules above it, outermost first; terms of equal `schedule` and `link` always
    keep their proportions, so their static maps can be added once and stored as one.
    """

    term: Expression
    weight: float = 1.0
    factor: float = 1.0
    schedule: tuple[tuple[Expression, str], ...] = ()
    link: float | None = None


@dataclass(frozen=True)
class StaticGroup:
    """Static terms that one stored map can stand for: factor times the loss of `expression`."""

    expression: Expression
    factor: float
    link: float | None


class Expression(ABC):
    """A map as a formula: a generator, or a weighted sum of expressions.

    `expression(regions, probs)` is the map. `str(expression)` is its canonical text, which
    `maps.parse` reads back to an equal expression. Values and gradients add.
    """

    @property
    @abstractmethod
    def is_static(self) -> bool:
        """Whether the map follows from the labels alone, at every epoch."""

    @abstractmethod
    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """The map of these regions. labels (b *s), probs (b k *s) where a term is dynamic."""

    def _named(self, rwmap: RWMap, regions: Regions) -> RWMap:
        """The map, which now knows that it is this expression's, and at which spacing."""
        return replace(rwmap, expression=str(self), spacing_mm=regions.spacings_mm)

    @property
    def needs_class_counts(self) -> bool:
        """Whether a parameter depends on the classes of a whole data set; see `resolved`."""
        return False

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The same with numbers in place of what depends on the data set.

        class_counts: voxels of each class in all cases together.
        """
        del class_counts
        return self

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """Terms that are no sums, with their weights at an epoch."""
        del epoch, total
        return (Leaf(self),)

    @property
    def needs_total(self) -> bool:
        """Whether a schedule inside spreads over the run, so that it needs `total` epochs."""
        return False

    @property
    def unit(self) -> str:
        """Unit of the map's values, for pictures and tables."""
        units = {getattr(leaf.term, "unit", "") for leaf in self.leaves() if leaf.term is not self}
        return units.pop() if len(units) == 1 else ""

    @property
    def static_part(self) -> Expression | None:
        """What one stored map can hold: the static terms, without link or schedule; None if none.

        Raises RWLossError where static terms have different links or schedules: no single map can
        stand for them.
        """
        groups = self.static_groups()
        if len(groups) > 1:
            raise RWLossError(
                f"{self}: its static terms have different links or schedules, so one stored map "
                f"can't stand for {' and '.join(str(group.expression) for group in groups)}: "
                "precompute one of them alone, or make the maps on the fly"
            )
        return groups[0].expression if groups else None

    def static_groups(self, epoch: int = 0, total: int | None = None) -> tuple[StaticGroup, ...]:
        """Static terms by link and schedule, each group with its factor at an epoch."""
        groups: dict[Any, list[Leaf]] = {}
        for leaf in self.leaves(epoch, total):
            if leaf.term.is_static:
                groups.setdefault((leaf.schedule, leaf.link), []).append(leaf)
        return tuple(
            StaticGroup(
                weighted_sum((leaf.weight, leaf.term) for leaf in group), group[0].factor, link
            )
            for (_, link), group in groups.items()
        )

    def dynamic_leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """Terms that need probabilities (links aside), with their weights at an epoch."""
        return tuple(leaf for leaf in self.leaves(epoch, total) if not leaf.term.is_static)

    def stabilized(self) -> Stabilized:
        """The nearest map that obeys the stability principle, voxel by voxel."""
        from rwloss.maps.stabilized import Stabilized

        return Stabilized(self)

    def with_link(self, q: float) -> Linked:
        """The loss w (1 - p_t^q) / q of each voxel's weight w = other - true; see `Linked`."""
        from rwloss.maps.link import Linked

        return Linked(self, q)

    def __add__(self, other: object) -> Expression:
        """Sum of two expressions."""
        if not isinstance(other, Expression):
            return NotImplemented
        return weighted_sum([(1.0, self), (1.0, other)])

    def __sub__(self, other: object) -> Expression:
        """Difference of two expressions."""
        if not isinstance(other, Expression):
            return NotImplemented
        return weighted_sum([(1.0, self), (-1.0, other)])

    def __neg__(self) -> Expression:
        """The expression times -1."""
        return weighted_sum([(-1.0, self)])

    def __mul__(self, factor: object) -> Expression:
        """The expression times a number."""
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return weighted_sum([(as_float(factor), self)])

    __rmul__ = __mul__


@dataclass(frozen=True)
class Sum(Expression):
    """A weighted sum. Made by +, - and *, which keep it flat and equal terms together."""

    terms: tuple[tuple[float, Expression], ...]

    @property
    def is_static(self) -> bool:
        """Whether every term is."""
        return all(term.is_static for _, term in self.terms)

    @property
    def needs_total(self) -> bool:
        """Whether a term does."""
        return any(term.needs_total for _, term in self.terms)

    @property
    def needs_class_counts(self) -> bool:
        """Whether a term does."""
        return any(term.needs_class_counts for _, term in self.terms)

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The sum of the resolved terms."""
        return weighted_sum((weight, term.resolved(class_counts)) for weight, term in self.terms)

    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """The weighted sum of the terms' maps."""
        (weight, term), *more = self.terms
        total = _scaled(term(regions, probs), weight)
        for weight, term in more:
            total = total + _scaled(term(regions, probs), weight)
        return self._named(total, regions)

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """The terms' leaves, weighted."""
        return tuple(
            replace(leaf, weight=weight * leaf.weight)
            for weight, term in self.terms
            for leaf in term.leaves(epoch, total)
        )

    def __str__(self) -> str:
        """Canonical text, such as "rectified + 0.01 * boundary"."""
        text = ""
        for weight, term in self.terms:
            sign = (" - " if weight < 0 else " + ") if text else ("-" if weight < 0 else "")
            size = "" if abs(weight) == 1 else f"{number_text(abs(weight))} * "
            text += f"{sign}{size}{term}"
        return text


def weighted_sum(pairs: Iterable[tuple[float, Expression]]) -> Expression:
    """A flat sum in which equal terms are one; the term itself if that is all there is.

    Terms of weight 0 are left out, unless nothing else is there.
    """
    weights: dict[Expression, float] = {}
    for weight, expression in pairs:
        inner = expression.terms if isinstance(expression, Sum) else ((1.0, expression),)
        for factor, term in inner:
            weights[term] = weights.get(term, 0.0) + weight * factor
    for term, weight in weights.items():
        if not math.isfinite(weight):
            raise RWLossError(f"expected a finite weight for {term}, got {weight}")
    kept = {term: weight for term, weight in weights.items() if weight != 0.0}
    terms = tuple((weight, term) for term, weight in (kept or weights).items())
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    return Sum(terms)


def as_float(number: Any) -> float:
    """A number as a float; infinity where it is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def number_text(value: float) -> str:
    """A number as short as it can be read back exactly."""
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def in_brackets(expression: Expression) -> str:
    """Text of an expression as something that a method can be called on."""
    return f"({expression})" if isinstance(expression, Sum) else str(expression)


def _scaled(rwmap: RWMap, weight: float) -> RWMap:
    return rwmap if weight == 1.0 else rwmap * weight
