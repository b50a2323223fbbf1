"""The terms of an expression, and its pull on a class that is dying or has died."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from rwloss.arrays import Array, namespace, on_device, to_numpy
from rwloss.maps.expression import Expression, Leaf, Linked, weighted_sum
from rwloss.maps.schedule import Blend
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap
from rwloss.stability.pushes import channel, full_probabilities, pushes, voxels
from rwloss.stability.report import DEAD, FloatArray, shares_of_norm

_ELSEWHERE = 1e-6  # probability of classes that neither are right nor looked at


@dataclass(eq=False)
class Terms:
    """The weighted terms of an expression on given labels; static maps are made once.

    A sum of one term is that term. Schedules are at their first epoch. The boundary side of
    "gradient_share" is also multiplied by the weight that a loss would measure at uniform
    probabilities: `multiplied`, which is 1 for all others, so that terms have the same names in all
    cases.
    """

    expression: Expression
    regions: Regions
    weights: Mapping[Expression, float] = field(init=False)
    multiplied: Mapping[Expression, float] = field(init=False)
    _fixed: dict[Expression, RWMap] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Split the expression; equal terms become one."""
        self.weights = {}
        measured: dict[Expression, float] = {}
        for leaf in self.expression.leaves(0, 2):
            term = leaf.term if leaf.link is None else Linked(leaf.term, leaf.link)
            self.weights[term] = self.weights.get(term, 0.0) + leaf.scale
            measured[term] = measured.get(term, 0.0) + leaf.scale * self._measured(leaf)
        self.multiplied = {
            term: measured[term] / weight if weight else 1.0
            for term, weight in self.weights.items()
        }

    def maps(self, probs: Array | None) -> dict[str, RWMap]:
        """The map of each weighted term, by its text. probs (b k *s) if one is dynamic."""
        active = {term: weight for term, weight in self.weights.items() if weight}
        return {
            str(weighted_sum([(weight, term)])): rwmap if factor == 1.0 else rwmap * factor
            for term, weight in (active or self.weights).items()
            for rwmap, factor in [(self._made(term, probs), weight * self.multiplied[term])]
        }

    def __call__(self, probs: Array | None) -> RWMap:
        """The map of the expression."""
        return reduce(add, self.maps(probs).values())

    def _measured(self, leaf: Leaf) -> float:
        """The factor of "gradient_share" for a leaf; 1 for all others, and without a gradient."""
        for blend, side in leaf.schedule:
            if isinstance(blend, Blend) and blend.schedule == "gradient_share":
                if side != "boundary":
                    continue
                region, boundary = map(self._norm, (blend.region, blend.boundary))
                if region and boundary:
                    return blend.share / (1 - blend.share) * region / boundary
        return 1.0

    def _norm(self, side: Expression) -> float:
        """L2 norm of the gradient with respect to the logits, at uniform probabilities."""
        labels, num_classes = self.regions.labels, self.regions.num_classes
        probs = None if side.is_static else full_probabilities(None, labels, num_classes)
        return math.sqrt(sum(_squares(side.make(self.regions, probs))))

    def _made(self, term: Expression, probs: Array | None) -> RWMap:
        if not term.is_static:
            return term.make(self.regions, probs)
        if term not in self._fixed:
            self._fixed[term] = term.make(self.regions, None)
        return self._fixed[term]


def effective_weights(expression: Expression, regions: Regions) -> dict[str, float]:
    """Each term's share of the gradient norm at uniform probabilities, by its text. labels (b *s).

    See `rwloss.stability.StabilityReport.effective_weights`. Empty if there is only one term.

    >>> regions = Regions(np.array([[[0, 0, 0, 1, 1, 2]]]), num_classes=3)
    >>> from rwloss import maps
    >>> weights = effective_weights(maps.parse("rectified + dice"), regions)
    >>> {text: round(share, 2) for text, share in weights.items()}
    {'rectified': 0.39, 'dice': 0.61}
    """
    return shares_of_norm(term_squares(Terms(expression, regions)))


def term_squares(terms: Terms) -> dict[str, float]:
    """Mean of g² over voxels and classes of each term at uniform probabilities, summed over images.

    A term whose weight is 0 at the first epoch has 0. Empty if there is only one term.
    """
    if len(terms.weights) < 2:
        return {}
    labels, num_classes = terms.regions.labels, terms.regions.num_classes
    xp, every = namespace(labels), tuple(range(1, labels.ndim))
    probs = None if terms.expression.is_static else full_probabilities(None, labels, num_classes)
    counted = to_numpy(xp.sum(labels != IGNORED, axis=every))
    found = {str(term): 0.0 for term, weight in terms.weights.items() if not weight}
    for text, rwmap in terms.maps(probs).items():
        found[text] = float(np.sum(_squares(rwmap) / np.maximum(1, counted * num_classes)))
    return found


def _squares(rwmap: RWMap) -> FloatArray:
    """Σ g² of each image at uniform probabilities, over voxels and classes. (n)."""
    xp, every = namespace(rwmap.labels), tuple(range(1, rwmap.labels.ndim))
    squares: Any = sum(
        xp.sum(one.gradient * one.gradient, axis=every, dtype=xp.float64)
        for one in pushes(rwmap, None)
    )
    return to_numpy(squares)


def dead_pulls(terms: Terms) -> FloatArray:
    """How strongly each class is pushed up at its own voxels when all classes have died. (2 k).

    Σ -g_c over the voxels of class c, where class c has the probability DEAD[0], or DEAD[1], at
    every voxel, all other foreground classes have the same, and the background has what remains.
    """
    labels, num_classes = terms.regions.labels, terms.regions.num_classes
    found = np.zeros((len(DEAD), num_classes))
    for row, prob in zip(found, DEAD, strict=True):
        probs = _filled(labels, num_classes, prob)
        probs[:, 0] = 1 - (num_classes - 1) * prob
        for one in pushes(terms(probs), probs):
            xp = namespace(one.gradient)
            own = xp.where(labels == one.k, one.gradient, xp.zeros_like(one.gradient))
            row[one.k] = -float(xp.sum(own, dtype=xp.float64))
    return found


def prior_pulls(
    map_at: Callable[[Array], RWMap], labels: Array, num_classes: int
) -> tuple[FloatArray, FloatArray]:
    """Numerator and denominator of the pull ratio of a map that depends on the prediction. (b k).

    map_at: the map at probabilities (b k *s) in float64. labels (b *s), -1 where ignored. The map
    of class c is for a network that only knows the size of the class: at every voxel, its
    probability is its share of the image (at least that of one voxel); its own voxels are predicted
    as background, all others correctly.
    """
    xp = namespace(labels)
    up, down = np.zeros((2, labels.shape[0], num_classes))
    every = tuple(range(1, labels.ndim))
    counted = xp.sum(labels != IGNORED, axis=every)
    for k in range(1, num_classes):
        own = labels == k
        prior = xp.clip(xp.sum(own, axis=every), 1, None) / xp.clip(counted, 1, None)
        prior = xp.reshape(xp.clip(prior, None, 0.99), (-1, *[1] * len(every)))
        winner = xp.where(own, xp.zeros_like(labels), labels)
        probs = _filled(labels, num_classes, _ELSEWHERE)
        for j in range(num_classes):
            here = 1 - prior - (num_classes - 2) * _ELSEWHERE
            probs[:, j] = prior if j == k else xp.where(winner == j, here, probs[:, j])
        rwmap = map_at(probs)
        found = voxels(rwmap)
        above, zero = channel(rwmap, found.usable, k), xp.zeros_like(found.true)
        pull = xp.where(own, channel(rwmap, found.usable, 0) - above, zero)
        push = xp.where(own, zero, xp.clip(above - found.true, 0.0, None))
        up[:, k] = to_numpy(xp.sum(pull, axis=every, dtype=xp.float64))
        down[:, k] = to_numpy(xp.sum(push, axis=every, dtype=xp.float64))
    return up, down


def _filled(labels: Array, num_classes: int, prob: float) -> Array:
    """One probability everywhere, in float64: differences of 1e-7 count. (b k *s)."""
    xp = namespace(labels)
    shape = (labels.shape[0], num_classes, *labels.shape[1:])
    return xp.full(shape, prob, dtype=xp.float64, **on_device(labels))
