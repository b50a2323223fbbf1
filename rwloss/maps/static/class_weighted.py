"""Class-weighted map: each voxel has the weight of its true class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.static.class_weights import Beta, ClassWeights, Weighted
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


@dataclass(frozen=True)
class ClassWeighted(Weighted, MapGenerator):
    """-w_t at the true class t, 0 at every other: the voxel weighs as much as its true class.

    weights: a number above 0 for each class, used as given; or a rule on the voxel counts n_k of
    the image, then scaled so that the mean weight over its voxels is 1 (absent classes weigh 0):
    "inverse" w_k ~ 1 / n_k, "inverse_square" w_k ~ 1 / n_k² (generalised Dice's, eq. 1 of
    Kervadec), "effective_number" w_k ~ (1 - beta) / (1 - beta^n_k) (Cui 2019, eq. 2).
    beta: for "effective_number", 0 <= beta < 1; nearer to 1 is nearer to "inverse".

    Unitless; compact; stable at every voxel.
    """

    weights: ClassWeights = "inverse"
    beta: Beta = 0.9999

    name: ClassVar[str] = "class_weighted"
    tags: ClassVar[MapTags] = MapTags(
        stable=True, unit="unitless", commutes_with=frozenset({"flip", "rot90"})
    )
    citation: ClassVar[str] = (
        "Valverde & Tohka, Pattern Recognition 2023, arXiv 2108.01405 (class-weighted map); "
        "effective number: Cui et al., Class-Balanced Loss, CVPR 2019, arXiv 1901.05555"
    )

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> compact map (b *s), unitless."""
        weight = self.voxel_weights(regions)
        return RWMap.compact(
            regions.labels, regions.num_classes, true=-weight, other=regions.full(0.0)
        )
