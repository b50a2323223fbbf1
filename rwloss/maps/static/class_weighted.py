"""Class-weighted map: each voxel has the weight of its true class; and what weights may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np

from rwloss.arrays import Array, from_numpy, may_read, namespace, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.limits import Limit, PositiveFloat
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

WeightRule: TypeAlias = Literal[
    "inverse",
    "inverse_square",
    "effective_number",
    "dataset_inverse",
    "dataset_inverse_square",
    "dataset_effective_number",
]
# With "dataset_" the counts are those of all cases: `rwloss precompute` puts numbers in its place.
ClassWeights: TypeAlias = WeightRule | tuple[PositiveFloat, ...]
Beta: TypeAlias = Annotated[float, Limit(ge=0, lt=1)]

_OF_DATASET = "dataset_"


class Weighted:
    """For generators with the parameters `weights` and `beta`: what the weights are."""

    name: ClassVar[str]
    weights: ClassWeights | None
    beta: float

    @property
    def needs_class_counts(self) -> bool:
        """Whether the weights depend on all cases of a dataset."""
        return isinstance(self.weights, str) and self.weights.startswith(_OF_DATASET)

    def resolved(self, class_counts: Sequence[int]) -> Expression:
        """The generator with numbers for its weights. class_counts: voxels of each class."""
        this: Any = self
        if self.needs_class_counts:
            rule = str(self.weights).removeprefix(_OF_DATASET)
            counts = np.asarray(class_counts, dtype=np.float64)
            [weights] = _by_rule(rule, self.beta, counts[None])
            # An absent class has no voxel to weigh, but a weight must be above 0. Six digits are
            # enough.
            pairs = zip(weights, counts, strict=True)
            this = replace(this, weights=tuple(float(f"{w:.6g}") if n else 1.0 for w, n in pairs))
        return this  # type: ignore[no-any-return]

    def voxel_weights(self, regions: Regions) -> Array:
        """Weight of the true class of each voxel; 1 without weights. (b *s), float32.

        Raises RWLossError for a rule on a dataset, and for another number of weights than classes.
        """
        if self.weights is None:
            return regions.full(1.0)
        if self.needs_class_counts:
            raise RWLossError(
                f"{self.name}(weights={self.weights!r}) needs all cases of a dataset: precompute "
                f"the map, or give one number per class ({self.name}.resolved(class_counts) "
                "computes them)"
            )
        if isinstance(self.weights, str):
            counts = regions.counts  # on a GPU they stay there: NumPy would wait for them
            counts = to_numpy(counts) if may_read(counts) else counts
            xp = namespace(counts)
            table = _by_rule(self.weights, self.beta, xp.astype(counts, xp.float64))
            table = xp.astype(table, xp.float32)
        elif len(self.weights) == regions.num_classes:
            shape = len(regions.labels), regions.num_classes
            table = np.full(shape, self.weights, dtype=np.float32)
        else:
            raise RWLossError(
                f"{self.name}: {len(self.weights)} weights given for {regions.num_classes} "
                "classes: give one for each"
            )
        if isinstance(table, np.ndarray):
            table = from_numpy(table, regions.labels)
        return regions.per_voxel(table)


def _by_rule(rule: str, beta: float, counts: Array) -> Array:
    """Weight of each class in each image. counts (b k), float64 -> (b k)."""
    xp = namespace(counts)
    n = xp.clip(counts, 1.0, None)
    if rule == "effective_number":
        # expm1 keeps 1 - beta^n exact for beta near 1 and small n.
        log_beta = float(np.log(beta)) if beta > 0 else -math.inf
        raw = (1.0 - beta) / -xp.expm1(n * log_beta)
    else:
        raw = 1.0 / n ** {"inverse": 1, "inverse_square": 2}[rule]
    raw = xp.where(counts > 0, raw, xp.zeros_like(raw))
    total = xp.sum(raw * counts, axis=1, keepdims=True)
    voxels = xp.sum(counts, axis=1, keepdims=True)
    # An image without a voxel that counts has a total of 0, and weights of 0 whatever the scale.
    return raw * (voxels / xp.where(total > 0, total, xp.ones_like(total)))


class ClassWeighted(Weighted, MapGenerator):
    """-w_t at the true class t, 0 at every other: the voxel weighs as much as its true class.

    weights: a number above 0 for each class, used as given; or a rule on the voxel counts n_k of
    the image, then scaled so that the mean weight over its voxels is 1 (absent classes weigh 0):
    "inverse" w_k ~ 1 / n_k, "inverse_square" w_k ~ 1 / n_k² (generalized Dice's, eq. 1 of
    Kervadec), "effective_number" w_k ~ (1 - beta) / (1 - beta^n_k) (Cui 2019, eq. 2).
    beta: for "effective_number", 0 <= beta < 1; nearer to 1 is nearer to "inverse".

    Unitless; compact; stable at every voxel.
    """

    weights: ClassWeights = "inverse"
    beta: Beta = 0.9999

    name = "class_weighted"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        compact=True,
        limits=(None, 0.0),
    )
    citation = (
        "Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405 (class-weighted map); "
        "effective number: Cui et al., Class-Balanced Loss, CVPR 2019, arXiv 1901.05555"
    )
    official_code = "https://github.com/jmlipman/RegionWiseLoss"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        weight = self.voxel_weights(regions)
        return RWMap.compact(
            regions.labels, regions.num_classes, true=-weight, other=regions.full(0.0)
        )
