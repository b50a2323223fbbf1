"""The report on a map: sums over cases, and numbers computed from them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.words import class_names as names_for

FloatArray: TypeAlias = NDArray[np.float64]

DISTANCES = ("edge", "to 2", "to 5", "deeper")
"""Bins of the distance to the edge: depth up to 1, 2 and 5 times the smallest voxel spacing of the
image, and beyond. With cubic voxels the first bin holds the voxels that share a face with another
class. An image of one class has no edge, and counts as deeper."""

DEAD = (1e-6, 1e-7)
"""The probabilities of a dead class between which its pull exponent is taken."""


@dataclass(frozen=True)
class StabilityShares:
    """Shares for some voxels: all, those of one true class, or those at one distance to the edge.

    voxels: how many count. stable, flat, violating: fractions of them. pushed_up: fraction of the
    pairs (such a voxel, wrong class) whose logit is pushed up. pushed_down: fraction of the voxels
    whose true class is pushed down. wrong_way_mass: Σ|g| over these two kinds of pushes, divided
    by Σ|g| over all pushes. push: the share of these voxels in Σ|g| of the whole map.
    All fractions are 0 if there is nothing to count.
    """

    voxels: int
    stable: float
    flat: float
    violating: float
    pushed_up: float
    pushed_down: float
    wrong_way_mass: float
    push: float


@dataclass(frozen=True, eq=False, repr=False)
class StabilityReport:
    """Diagnostics of a map at given probabilities. `a + b` is the report of the images of both.

    The fields are sums over images; the derived numbers are properties. With t the true class of a
    voxel i, p the probabilities and z the map, the gradient is g_k = p_k (z_k - Σ_j p_j z_j).

    voxels, stable_voxels, flat_voxels (k d): voxels that count, by true class and distance to the
    edge (d is 1 without regions). raised_pairs (k d): pairs of a voxel and a wrong class that is
    pushed up. lowered_voxels (k d): voxels whose true class is pushed down. push, wrong_push (k d):
    Σ|g| over all pushes, and over these two kinds. lowest, highest (k): least and largest value of
    each class's channel, over all voxels. positive, negative (k): Σ max(0, z_k) and Σ max(0, -z_k),
    over all voxels. pull_up, pull_down (k): numerator and denominator of the pull ratio; see
    `pull`. least_pull (k): smallest pull ratio of a single image in which the class is present.
    images_with (k): images in which the class is present. squares (n): mean of g² over the voxels
    and classes of each image. not_finite: voxels with a value that is NaN or infinite. dead_pulls
    (2 k): Σ -g of each class over its own voxels, once it has died, at the probabilities DEAD; NaN
    if only a map is known; see `pull_exponent`. terms: for a sum, the mean of g² of each term at
    uniform probabilities, summed over images, by its text.
    """

    voxels: FloatArray
    stable_voxels: FloatArray
    flat_voxels: FloatArray
    raised_pairs: FloatArray
    lowered_voxels: FloatArray
    push: FloatArray
    wrong_push: FloatArray
    lowest: FloatArray
    highest: FloatArray
    positive: FloatArray
    negative: FloatArray
    pull_up: FloatArray
    pull_down: FloatArray
    least_pull: FloatArray
    images_with: FloatArray
    squares: FloatArray
    dead_pulls: FloatArray
    not_finite: int = 0
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.voxels)

    @property
    def num_images(self) -> int:
        """Number of images in the report."""
        return len(self.squares)

    @property
    def total(self) -> StabilityShares:
        """All voxels together."""
        return self._part(slice(None), slice(None))

    @property
    def by_class(self) -> tuple[StabilityShares, ...]:
        """The voxels of each true class; 0 voxels if the class is absent."""
        return tuple(self._part(k, slice(None)) for k in range(self.num_classes))

    @property
    def by_distance(self) -> dict[str, StabilityShares]:
        """The voxels of each distance to the edge, as in DISTANCES; empty without regions."""
        if self.voxels.shape[1] != len(DISTANCES):
            return {}
        return {name: self._part(slice(None), d) for d, name in enumerate(DISTANCES)}

    @property
    def stable(self) -> float:
        """Fraction of voxels whose wrong classes share one value, and whose true class has a lower
        one."""
        return self.total.stable

    @property
    def flat(self) -> float:
        """Fraction of voxels whose K values are all equal: they have no gradient."""
        return self.total.flat

    @property
    def violating(self) -> float:
        """Fraction of all other voxels: some prediction is pushed the wrong way, or a value is not
        finite."""
        return self.total.violating

    @property
    def pushed_up(self) -> float:
        """Fraction of the (voxel, wrong class) pairs whose logit is pushed up: g_k < 0, k ≠ t."""
        return self.total.pushed_up

    @property
    def pushed_down(self) -> float:
        """Fraction of the voxels whose true class is pushed down: g_t > 0."""
        return self.total.pushed_down

    @property
    def wrong_way_mass(self) -> float:
        """The share of Σ|g| that raises a wrong class or lowers the true one."""
        return self.total.wrong_way_mass

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and largest value of the map; NaN if no voxel counts."""
        low, high = float(self.lowest.min()), float(self.highest.max())
        return (low, high) if low <= high else (math.nan, math.nan)

    @property
    def positive_to_negative(self) -> FloatArray:
        """Σ_i max(0, z_k) / Σ_i max(0, -z_k) over all voxels, per channel. (k).

        Infinite if no value is below 0, NaN if all are 0. A constant added to a voxel changes this
        ratio but no gradient, so compare it only between maps of the same kind.
        """
        return ratio(self.positive, self.negative)

    @property
    def pull(self) -> FloatArray:
        """Pull ratio Q of each class: whether it can recover once it has collapsed. (k).

        Q_c = Σ_{i in c} (z_bg - z_c) / Σ_{i not in c} max(0, z_c - z_t). Suppose that class c has
        the same small probability p at every voxel, that its own voxels are predicted as
        background, and that all others are right. Then descent pushes its logit up by p times the
        numerator, and down by p times the denominator. At first a network raises and lowers such a
        class as a whole, so Q far below 1 means that it stays down. For a map that depends on the
        prediction p is the class's share of the image: Q of cross-entropy is then 1.

        NaN for the background, against which the others are measured, and for a class that is in
        no image. Infinite if nothing pushes the class down. Below 0 if it is pushed down at its
        own voxels.
        """
        pull = ratio(self.pull_up, self.pull_down)
        pull[0] = math.nan
        pull[self.images_with == 0] = math.nan
        return pull

    @property
    def pull_exponent(self) -> FloatArray:
        """Slope of log pull over log p, as the probability p of a class goes to 0. (k).

        The pull is Σ -g over the class's own voxels, while the background wins everywhere. 0: a
        dead class is pulled back as strongly as before; 1: the pull fades with p, so the class
        stays dead. Fixed maps and Dice have 1, cross-entropy 0, a link its q.

        NaN for the background, for a class that is in no image or not pulled up, and for a report
        of a map whose expression is not known.
        """
        slope = np.full(self.num_classes, math.nan)
        known = np.all(self.dead_pulls > 0, axis=0) & (np.arange(self.num_classes) > 0)
        slope[known] = np.log10(self.dead_pulls[0, known] / self.dead_pulls[1, known])
        return slope / math.log10(DEAD[0] / DEAD[1])

    @property
    def effective_weights(self) -> dict[str, float]:
        """Each term's share of the gradient norm at uniform probabilities, by its text; sums to 1.

        The norm of a term divided by the sum of all norms; empty if there is only one term, or no
        gradient.
        """
        return shares_of_norm(self.terms)

    @property
    def gradient_norms(self) -> FloatArray:
        """Root mean square of g over the voxels and classes of each image. (n)."""
        return np.asarray(np.sqrt(self.squares))

    @property
    def gradient_spread(self) -> float:
        """Standard deviation of the gradient norms over images, divided by their mean; NaN if that
        is 0.

        Near 0, all cases move the network equally. It is 0 for one image.
        """
        norms = self.gradient_norms
        mean = float(norms.mean()) if len(norms) else 0.0
        return float(norms.std()) / mean if mean > 0 else math.nan

    @property
    def absent(self) -> tuple[int, ...]:
        """Classes that are in no image."""
        return tuple(int(k) for k in np.flatnonzero(self.images_with == 0))

    def figures(self, class_names: Sequence[str] = ()) -> dict[str, Any]:
        """All numbers in types that JSON supports: None for NaN, "inf" and "-inf" as text.

        class_names: of classes 0, 1, ...; a class without one is called "class k".
        """
        names, norms = names_for(self.num_classes, class_names), self.gradient_norms
        by_class = {
            name: {
                **asdict(part),
                "value_range": [number(self.lowest[k]), number(self.highest[k])],
                "positive_to_negative": number(self.positive_to_negative[k]),
                "pull": number(self.pull[k]),
                "least_pull": number(self.least_pull[k]),
                "pull_exponent": number(self.pull_exponent[k]),
                "absent_images": self.num_images - int(self.images_with[k]),
            }
            for k, (name, part) in enumerate(zip(names, self.by_class, strict=True))
        }
        return {
            "images": self.num_images,
            **asdict(self.total),
            "not_finite": self.not_finite,
            "value_range": [number(value) for value in self.value_range],
            "gradient_norm": {
                "mean": number(norms.mean() if len(norms) else math.nan),
                "least": number(norms.min(initial=math.inf)),
                "largest": number(norms.max(initial=-math.inf)),
                "spread": number(self.gradient_spread),
            },
            "effective_weights": self.effective_weights,
            "absent_classes": [names[k] for k in self.absent],
            "by_class": by_class,
            "by_distance": {name: asdict(part) for name, part in self.by_distance.items()},
        }

    def __add__(self, other: object) -> StabilityReport:
        """The report of the images of both.

        Raises RWLossError for different numbers of classes, or if only one has distances.
        """
        if not isinstance(other, StabilityReport):
            return NotImplemented
        if self.voxels.shape != other.voxels.shape:
            raise RWLossError(
                f"reports of {self.num_classes} and {other.num_classes} classes, "
                f"{len(self.by_distance)} and {len(other.by_distance)} distances can't be added: "
                "make both with the same num_classes, and both with regions or both without"
            )
        both = {name: (sums, vars(other)[name]) for name, sums in vars(self).items()}
        return StabilityReport(
            **{name: _MERGED.get(name, np.add)(*pair) for name, pair in both.items()}
        )

    def __repr__(self) -> str:
        """The most important numbers."""
        names = ("stable", "flat", "violating", "pushed_up", "wrong_way_mass")
        shares = ", ".join(f"{name}={getattr(self.total, name):.4g}" for name in names)
        pull = ", ".join(f"{value:.4g}" for value in self.pull)
        return f"StabilityReport({shares}, pull=[{pull}])"

    def _part(self, k: Any, d: Any) -> StabilityShares:
        def total(sums: FloatArray) -> float:
            return float(sums[k, d].sum())

        def share(some: float, of_all: float) -> float:
            return some / of_all if of_all else 0.0

        voxels, push = total(self.voxels), total(self.push)
        stable, flat = total(self.stable_voxels), total(self.flat_voxels)
        return StabilityShares(
            voxels=int(voxels),
            stable=share(stable, voxels),
            flat=share(flat, voxels),
            violating=share(voxels - stable - flat, voxels),
            pushed_up=share(total(self.raised_pairs), voxels * (self.num_classes - 1)),
            pushed_down=share(total(self.lowered_voxels), voxels),
            wrong_way_mass=share(total(self.wrong_push), push),
            push=share(push, float(self.push.sum())),
        )


_MERGED: dict[str, Any] = {
    "lowest": np.minimum,
    "highest": np.maximum,
    "least_pull": np.fmin,  # NaN where a class is absent
    "not_finite": operator.add,
    "squares": lambda one, other: np.concatenate([one, other]),
    "terms": lambda one, other: {
        text: one.get(text, 0.0) + other.get(text, 0.0) for text in {**one, **other}
    },
}


def shares_of_norm(squares: Mapping[str, float]) -> dict[str, float]:
    """Each root's share of the sum of all roots; empty if that is 0."""
    norms = {text: math.sqrt(value) for text, value in squares.items()}
    total = sum(norms.values())
    return {text: norm / total for text, norm in norms.items()} if total else {}


def number(value: float) -> float | str | None:
    """A number in a type that JSON supports: None for NaN, text for infinity, which float() reads
    back."""
    value = float(value)
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Quotients; infinite for a nonzero number by 0, NaN for 0 by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)
