"""Weights of classes: given as numbers, or a rule on how many voxels each has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from rwloss.arrays import Array, from_numpy, to_numpy
from rwloss.errors import RWLossError
from rwloss.regions import Regions

if TYPE_CHECKING:
    from rwloss.maps.expression import Expression

WeightRule: TypeAlias = Literal[
    "inverse",
    "inverse_square",
    "effective_number",
    "dataset_inverse",
    "dataset_inverse_square",
    "dataset_effective_number",
]
# A number above 0 for each class, used as given; or a rule on the voxel counts n_k of the image,
# scaled so that the mean weight over its voxels is 1 (absent classes weigh 0). With "dataset_"
# before it the counts are those of all cases: `rwloss precompute` puts numbers in its place.
ClassWeights: TypeAlias = WeightRule | tuple[PositiveFloat, ...]

Beta: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""Of "effective_number"."""

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
        if not self.needs_class_counts:
            return this  # type: ignore[no-any-return]
        rule: Any = str(self.weights).removeprefix(_OF_DATASET)
        counts = np.asarray(class_counts, dtype=np.float64)
        [weights] = _by_rule(rule, self.beta, counts[None])
        # An absent class has no voxel to weigh, but a weight must be above 0. Six digits are
        # enough.
        rounded = tuple(
            float(f"{w:.6g}") if n > 0 else 1.0 for w, n in zip(weights, counts, strict=True)
        )
        return replace(this, weights=rounded)  # type: ignore[no-any-return]

    def voxel_weights(self, regions: Regions) -> Array:
        """Weight of the true class of each voxel; 1 without weights. (b *s), float32.

        "inverse": w_k ~ 1 / n_k; "inverse_square": w_k ~ 1 / n_k² (generalised Dice's, Kervadec's
        eq. 1); "effective_number": w_k ~ (1 - beta) / (1 - beta^n_k) (Cui et al. 2019, eq. 2).

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
        counts = to_numpy(regions.counts).astype(np.float64)
        if isinstance(self.weights, str):
            table = _by_rule(self.weights, self.beta, counts)
        elif len(self.weights) == regions.num_classes:
            table = np.broadcast_to(np.array(self.weights), counts.shape)
        else:
            raise RWLossError(
                f"{self.name}: {len(self.weights)} weights given for {regions.num_classes} "
                "classes: give one for each"
            )
        return regions.per_voxel(from_numpy(table.astype(np.float32), regions.labels))


def _by_rule(rule: WeightRule, beta: float, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of each class in each image. counts (b k) -> (b k)."""
    n = np.maximum(counts, 1.0)
    match rule:
        case "inverse":
            raw = 1.0 / n
        case "inverse_square":
            raw = 1.0 / n**2
        case "effective_number":
            # expm1 keeps 1 - beta^n exact for beta near 1 and small n.
            log_beta = np.log(beta) if beta > 0 else -np.inf
            raw = (1.0 - beta) / -np.expm1(n * log_beta)
        case _:
            raise AssertionError(rule)
    raw = np.where(counts > 0, raw, 0.0)
    total = np.sum(raw * counts, axis=1, keepdims=True)
    voxels = np.sum(counts, axis=1, keepdims=True)
    scale: NDArray[np.float64] = np.divide(voxels, total, out=np.zeros_like(total), where=total > 0)
    return raw * scale
