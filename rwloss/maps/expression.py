"""Expressions: weighted sums of maps, stabilized and linked maps, and their static parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from numbers import Real
from operator import add
from typing import Any

from rwloss.arrays import Array, from_numpy, is_torch, namespace, to_numpy
from rwloss.errors import RWLossError
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class Leaf:
    """A term that is not a sum, with its weights at one epoch; or a group of static terms as one.

    weight: the fixed number in the expression. factor: of the schedules at this epoch.
    schedule: the schedules around it, outermost first. Terms of equal `schedule` and `link` always
    keep their proportions, so their static maps can be added once and stored as one.
    """

    term: Expression
    weight: float = 1.0
    factor: float = 1.0
    schedule: tuple[tuple[Expression, str], ...] = ()
    link: float | None = None
    scale: float = field(init=False, compare=False)
    """What the term is multiplied by: the weight times the factor."""

    def __post_init__(self) -> None:
        """Multiply here: in a compiled graph torch 2.11 would fix the product for each epoch."""
        object.__setattr__(self, "scale", self.weight * self.factor)


class Expression(ABC):
    """A map as a formula: a generator, or a weighted sum of expressions.

    `expression(regions, probs)` is the map. `str(expression)` is its canonical text, which
    `maps.parse` reads back to an equal expression. Values and gradients add.
    """

    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """Compute the map of these regions, which records this expression and the spacing.

        labels (b *s); probs (b k *s) where a term is dynamic. Raises RWLossError that names the
        wrong term.
        """
        rwmap = self.make(regions, probs)
        whole = rwmap.labels, rwmap.num_classes, rwmap.parts
        return RWMap(*whole, str(self), regions.spacings_mm)

    @abstractmethod
    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """The map, without a record of what it is a map of. Arguments as for a call."""

    @property
    def is_static(self) -> bool:
        """Whether the map depends only on the labels, at every epoch."""
        return all(part.is_static for part in self.inside)

    @property
    def is_stable(self) -> bool:
        """Whether this is one term whose map is stable at every voxel, for any labels."""
        return False

    @property
    def inside(self) -> tuple[Expression, ...]:
        """The expressions that this one is made of; none for a generator."""
        return tuple(part for part in vars(self).values() if isinstance(part, Expression))

    @property
    def needs_class_counts(self) -> bool:
        """Whether a parameter depends on the classes of a whole dataset; see `resolved`."""
        return any(part.needs_class_counts for part in self.inside)

    @property
    def uses_spacing(self) -> bool:
        """Whether a value depends on the voxel spacing."""
        return any(part.uses_spacing for part in self.inside)

    @property
    def uses_image(self) -> bool:
        """Whether a value depends on the image, so that its regions need one."""
        return any(part.uses_image for part in self.inside)

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The same expression with numbers instead of rules that depend on the dataset.

        class_counts: voxels of each class in all cases together.
        """
        names = [name for name, part in vars(self).items() if isinstance(part, Expression)]
        parts = {name: getattr(self, name).resolved(class_counts) for name in names}
        return replace(self, **parts) if parts else self  # type: ignore[type-var]

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """Terms that are not sums, with their weights at an epoch."""
        del epoch, total
        return (Leaf(self),)

    @property
    def needs_total(self) -> bool:
        """Whether a schedule inside is spread over the run, so that it needs `total` epochs."""
        return any(part.needs_total for part in self.inside)

    @property
    def unit(self) -> str:
        """Unit of the map's values, for pictures and tables."""
        units = {getattr(leaf.term, "unit", "") for leaf in self.leaves() if leaf.term is not self}
        return units.pop() if len(units) == 1 else ""

    @property
    def has_mm(self) -> bool:
        """Whether a term has values in mm or a power of it; in voxels where no spacing is known."""
        return any("mm" in getattr(leaf.term, "unit", "") for leaf in self.leaves())

    @property
    def static_part(self) -> Expression | None:
        """The static terms without link or schedule, which one stored map can hold; else None.

        Raises RWLossError where static terms have different links or schedules: no single map can
        replace them.
        """
        groups = self.static_groups()
        if len(groups) > 1:
            raise RWLossError(
                f"{self}: its static terms have different links or schedules, so one stored map "
                f"can't replace {' and '.join(str(group.term) for group in groups)}: "
                "precompute one of them alone, or make the maps on the fly"
            )
        return groups[0].term if groups else None

    def static_groups(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """Static terms by link and schedule, each group as one leaf, which one map can replace."""
        groups: dict[Any, list[Leaf]] = {}
        for leaf in self.leaves(epoch, total):
            if leaf.term.is_static:
                groups.setdefault((leaf.schedule, leaf.link), []).append(leaf)
        return tuple(map(_as_one, groups.values()))

    def dynamic_leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """Terms that need probabilities (links aside), with their weights at an epoch."""
        return tuple(leaf for leaf in self.leaves(epoch, total) if not leaf.term.is_static)

    def stabilized(self) -> Stabilized:
        """The nearest map that obeys the stability principle, voxel by voxel."""
        return Stabilized(self)

    def with_link(self, q: float) -> Linked:
        """The loss w (1 - p_t^q) / q with each voxel's weight w = other - true; see `Linked`.

        q: from 0 to 1.
        """
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


@dataclass(frozen=True, eq=False)
class Sum(Expression):
    """A weighted sum. Made by +, - and *, which keep it flat and merge equal terms.

    Sums of the same terms are equal in any order.
    """

    terms: tuple[tuple[float, Expression], ...]

    def __eq__(self, other: object) -> bool:
        """Whether both have the same terms with the same weights."""
        return isinstance(other, Sum) and frozenset(self.terms) == frozenset(other.terms)

    def __hash__(self) -> int:
        """The same in any order."""
        return hash(frozenset(self.terms))

    @property
    def inside(self) -> tuple[Expression, ...]:
        """The terms without their weights."""
        return tuple(term for _, term in self.terms)

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The sum of the resolved terms."""
        return weighted_sum((weight, term.resolved(class_counts)) for weight, term in self.terms)

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """The terms' leaves, weighted."""
        return tuple(
            replace(leaf, weight=weight * leaf.weight)
            for weight, term in self.terms
            for leaf in term.leaves(epoch, total)
        )

    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """The weighted sum of the terms' maps."""
        rwmaps = ((weight, term.make(regions, probs)) for weight, term in self.terms)
        return reduce(add, (m if weight == 1.0 else m * weight for weight, m in rwmaps))

    def __str__(self) -> str:
        """Canonical text, such as "rectified + 0.01 * boundary"."""
        text = ""
        for weight, term in self.terms:
            sign = (" - " if weight < 0 else " + ") if text else ("-" if weight < 0 else "")
            size = "" if abs(weight) == 1 else f"{number_text(abs(weight))} * "
            text += f"{sign}{size}{term}"
        return text


@dataclass(frozen=True)
class Stabilized(Expression):
    """The nearest map in which wrong classes are equal and the true class is no higher.

    Voxel by voxel, with m the mean of the wrong classes: wrong <- m where true <= m, else all
    <- the mean of all K (a flat voxel: no gradient). A stable map comes back unchanged.

    inner: any expression.
    """

    inner: Expression

    def __post_init__(self) -> None:
        """Refuse schedules and links inside: a projection is not linear."""
        if any(leaf.schedule or leaf.link is not None for leaf in self.inner.leaves()):
            raise RWLossError(
                f"{self.inner} has a schedule or a link inside .stabilized(): "
                "stabilize its terms one by one"
            )

    @property
    def is_stable(self) -> bool:
        """True."""
        return True

    @property
    def unit(self) -> str:
        """That of the inner map."""
        return self.inner.unit

    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """The projected map, compact."""
        return self.inner.make(regions, probs).stabilized()

    def __str__(self) -> str:
        """Canonical text, such as "boundary.stabilized()"."""
        return f"{_in_brackets(self.inner)}.stabilized()"


@dataclass(frozen=True)
class Linked(Expression):
    """w (1 - p_t^q) / q for each voxel, with w = other - true of a static stable map.

    q = 1 has the gradient of the papers' linear loss; q -> 0 is cross-entropy weighted by w (q = 0
    is that limit, -w log p_t). As a map: -w p_t^(q-1) at the true class, 0 at the others, still
    stable. The loss is the mean over batch, classes and voxels, like every map's.

    The push of any fixed map on a class has the factor p, so a class whose probability has
    collapsed gets none; with q < 1 the factor is p^q.

    Source: Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, arXiv 1805.07836 (eq. 6).

    inner: a static stable expression. q: from 0 to 1.
    """

    inner: Expression
    q: float

    def __post_init__(self) -> None:
        """Refuse anything but a sum of static stable terms with weights above 0."""
        if isinstance(self.q, bool) or not (isinstance(self.q, Real) and 0 <= self.q <= 1):
            raise RWLossError(f"with_link: expected 0 <= q <= 1, got {self.q!r}")
        object.__setattr__(self, "q", float(self.q))
        for leaf in self.inner.leaves():
            if not leaf.term.is_static or leaf.schedule or leaf.link is not None:
                raise RWLossError(
                    f"{leaf.term} is not static (or already has a link or schedule): "
                    "with_link is for maps made from the labels alone"
                )
            if leaf.weight < 0 or not leaf.term.is_stable:
                raise RWLossError(
                    f"{leaf.term} is not always stable, so w = other - true may not exist or be "
                    "below 0: write .stabilized() before .with_link"
                )

    @property
    def is_static(self) -> bool:
        """False: as a map it depends on the probabilities. Its inner map can be stored."""
        return False

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """The inner leaves, which are static, with this link."""
        return tuple(replace(leaf, link=self.q) for leaf in self.inner.leaves(epoch, total))

    def make(self, regions: Regions, probs: Array | None) -> RWMap:
        """-w p_t^(q-1) at the true class, 0 at the others."""
        if probs is None:
            raise RWLossError(f"{self} depends on the prediction: call it with probs (b k *s)")
        rwmap = self.inner.make(regions, None)
        true_prob = self._at_true(rwmap, probs)
        xp = namespace(rwmap.labels)
        dtype = xp.result_type(true_prob.dtype, rwmap.true.dtype, rwmap.other.dtype)
        true, other = (xp.astype(part, dtype) for part in rwmap.parts)
        # A probability of 0 would make an infinite map; 1e-30 is finite in float32 for q = 0 too.
        true = (true - other) * xp.clip(true_prob, 1e-30, None) ** (self.q - 1.0)
        return RWMap.compact(rwmap.labels, rwmap.num_classes, true=true, other=xp.zeros_like(true))

    def _at_true(self, rwmap: RWMap, probs: Array) -> Array:
        """Probability of the true class, as a constant in float32 at least. (b *s)."""
        labels = rwmap.labels
        expected = (labels.shape[0], rwmap.num_classes, *labels.shape[1:])
        if tuple(probs.shape) != expected:
            raise RWLossError(f"{self}: probs {tuple(probs.shape)}, expected {expected}")
        xp = namespace(probs)
        probs = probs.detach() if is_torch(probs) else probs
        probs = xp.astype(probs, xp.result_type(probs.dtype, xp.float32), copy=False)
        if is_torch(probs) and is_torch(labels):
            probs = probs.to(labels.device)
        else:
            probs = from_numpy(to_numpy(probs), labels)
        xp = namespace(labels)
        found = xp.zeros_like(probs[:, 0])
        for k in range(rwmap.num_classes):
            found = xp.where(labels == k, probs[:, k], found)
        return found

    def __str__(self) -> str:
        """Canonical text, such as "rectified.with_link(0.5)"."""
        return f"{_in_brackets(self.inner)}.with_link({number_text(self.q)})"


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


def _as_one(group: list[Leaf]) -> Leaf:
    total = weighted_sum((leaf.weight, leaf.term) for leaf in group)
    return replace(group[0], term=total, weight=1.0)


def as_float(number: Any) -> float:
    """A number as a float; infinity where it is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def number_text(value: float) -> str:
    """The shortest text of a number that reads back exactly."""
    return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _in_brackets(expression: Expression) -> str:
    """Text of an expression, on which a method can be called."""
    return f"({expression})" if isinstance(expression, Sum) else str(expression)
