"""Links: how the loss of a stable voxel depends on the probability of its true class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

from rwloss.arrays import Array, from_numpy, is_torch, namespace, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, Leaf, in_brackets, number_text
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class Linked(Expression):
    """w (1 - p_t^q) / q for each voxel, with w = other - true of a static stable map.

    q = 1 has the gradient of the papers' linear loss; q -> 0 is cross-entropy weighted by w (q = 0
    is that limit, -w log p_t). As a map: -w p_t^(q-1) at the true class, 0 at the others, still
    stable. The loss is the mean over batch, classes and voxels, like every map's.

    The push of any fixed map on a class carries the factor p, so a class whose probability has
    died gets none; with q < 1 the factor is p^q.

    Source: Zhang & Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, arXiv 1805.07836 (eq. 6).
    """

    inner: Expression
    q: float

    def __post_init__(self) -> None:
        """Links are for sums of static stable terms with weights above 0."""
        if isinstance(self.q, bool) or not (isinstance(self.q, Real) and 0 <= self.q <= 1):
            raise RWLossError(f"with_link: expected 0 <= q <= 1, got {self.q!r}")
        object.__setattr__(self, "q", float(self.q))
        for leaf in self.inner.leaves():
            if not leaf.term.is_static or leaf.schedule or leaf.link is not None:
                raise RWLossError(
                    f"{leaf.term} is not static (or has a link or schedule already): "
                    "with_link is for maps made from the labels alone"
                )
            if leaf.weight < 0 or not is_stable(leaf.term):
                raise RWLossError(
                    f"{leaf.term} is not always stable, so w = other - true may not exist or be "
                    "below 0: write .stabilized() before .with_link"
                )

    @property
    def is_static(self) -> bool:
        """False: as a map it depends on the probabilities. Its inner map can be stored."""
        return False

    def leaves(self, epoch: int = 0, total: int | None = None) -> tuple[Leaf, ...]:
        """The inner leaves, which are static, marked with the link."""
        return tuple(replace(leaf, link=self.q) for leaf in self.inner.leaves(epoch, total))

    @property
    def needs_class_counts(self) -> bool:
        """Whether the map inside does."""
        return self.inner.needs_class_counts

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The same around the resolved map."""
        return replace(self, inner=self.inner.resolved(class_counts))

    def __call__(self, regions: Regions, probs: Array | None = None) -> RWMap:
        """-w p_t^(q-1) at the true class, 0 at the others. labels (b *s), probs (b k *s)."""
        if probs is None:
            raise RWLossError(f"{self} depends on the prediction: call it with probs (b k *s)")
        rwmap = self.inner(regions)
        true_prob = self._at_true(rwmap, probs)
        xp = namespace(rwmap.labels)
        dtype = xp.result_type(true_prob.dtype, rwmap.weight().dtype)
        true, other = (xp.astype(part, dtype) for part in (rwmap.true, rwmap.other))
        # A probability of 0 would make an infinite map; 1e-30 is finite in float32 for q = 0 too.
        true = (true - other) * xp.clip(true_prob, 1e-30, None) ** (self.q - 1.0)
        linked = RWMap.compact(
            rwmap.labels, rwmap.num_classes, true=true, other=xp.zeros_like(true)
        )
        return self._named(linked, regions)

    def _at_true(self, rwmap: RWMap, probs: Array) -> Array:
        """Probability of the true class, as a constant in float32 at least. (b *s)."""
        labels = rwmap.labels
        expected = (labels.shape[0], rwmap.num_classes, *labels.shape[1:])
        if tuple(probs.shape) != tuple(expected):
            raise RWLossError(f"{self}: probs {tuple(probs.shape)}, expected {tuple(expected)}")
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
        return f"{in_brackets(self.inner)}.with_link({number_text(self.q)})"


def is_stable(term: Expression) -> bool:
    """Whether a term's map is stable at every voxel, whatever the labels."""
    from rwloss.maps.generator import MapGenerator
    from rwloss.maps.stabilized import Stabilized

    return isinstance(term, Stabilized) or (isinstance(term, MapGenerator) and term.tags.stable)
