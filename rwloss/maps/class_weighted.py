"""Class-weighted map: the true class is worth its weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rwloss.arrays import from_numpy, to_numpy
from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class ClassWeighted(MapGenerator):
    """-w_t at the true class t, 0 at every other: the voxel weighs as much as its true class.

    weights: a number above 0 for each class, used as given; or a rule on the voxel counts n_k of
    the image, then scaled so that the mean weight over its voxels is 1 (absent classes weigh 0):
    "inverse" w_k ~ 1 / n_k, "inverse_square" w_k ~ 1 / n_k² (generalised Dice's, eq. 1 of
    Kervadec), "effective_number" w_k ~ (1 - beta) / (1 - beta^n_k) (Cui 2019, eq. 2).
    beta: for "effective_number", 0 <= beta < 1; nearer to 1 is nearer to "inverse".

    Unitless; compact; stable at every voxel.
    """

    weights: Literal["inverse", "inverse_square", "effective_number"] | tuple[float, ...] = (
        "inverse"
    )
    beta: float = 0.9999

    name: ClassVar[str] = "class_weighted"
    tags: ClassVar[MapTags] = MapTags(
        stable=True, signed=True, commutes_with=frozenset({"flip", "rot90"})
    )
    citation: ClassVar[str] = (
        "Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405 (class-weighted map); "
        "effective number: Cui et al., Class-Balanced Loss, CVPR 2019, arXiv 1901.05555"
    )

    def __post_init__(self) -> None:
        """Check what types cannot say: weights and beta in their range."""
        super().__post_init__()
        if not isinstance(self.weights, str) and not all(
            np.isfinite(w) and w > 0 for w in self.weights
        ):
            raise RWLossError(f"class_weighted: expected weights above 0, got {self.weights}")
        if not 0 <= self.beta < 1:
            raise RWLossError(f"class_weighted: expected 0 <= beta < 1, got {self.beta}")

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        weights = from_numpy(self._weights(regions).astype(np.float32), regions.labels)
        return RWMap.compact(
            regions.labels,
            regions.num_classes,
            true=-regions.per_voxel(weights),
            other=regions.full(0.0),
        )

    def _weights(self, regions: Regions) -> NDArray[np.float64]:
        """Weight of each class in each image. (b k)."""
        counts = to_numpy(regions.counts).astype(np.float64)
        if not isinstance(self.weights, str):
            if len(self.weights) != regions.num_classes:
                raise RWLossError(
                    f"class_weighted: {len(self.weights)} weights given for "
                    f"{regions.num_classes} classes: give one for each"
                )
            return np.broadcast_to(np.array(self.weights), counts.shape)
        n = np.maximum(counts, 1.0)
        match self.weights:
            case "inverse":
                raw = 1.0 / n
            case "inverse_square":
                raw = 1.0 / n**2
            case "effective_number":
                # expm1 and log1p keep 1 - beta^n exact for beta near 1 and small n.
                log_beta = np.log(self.beta) if self.beta > 0 else -np.inf
                raw = (1.0 - self.beta) / -np.expm1(n * log_beta)
        raw = np.where(counts > 0, raw, 0.0)
        total = np.sum(raw * counts, axis=1, keepdims=True)
        voxels = np.sum(counts, axis=1, keepdims=True)
        scale: NDArray[np.float64] = np.divide(
            voxels, total, out=np.zeros_like(total), where=total > 0
        )
        return raw * scale
