"""Class-cost map: what it costs to take one class for another."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from rwloss.arrays import from_numpy
from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.words import listed

Costs: TypeAlias = Literal["ordinal"] | tuple[tuple[NonNegativeFloat, ...], ...]


class ClassCost(MapGenerator):
    """z_k = M[t, k] with t the true class: the loss is the Wasserstein distance to the truth.

    costs: M, one row per true class with one number per class; 0 at the true class. "ordinal" is |t
    - k| / (K - 1), for classes with an order, such as grades.

    The paper's Dice is made of this distance; here it stands alone. Dense; violates the stability
    principle where the wrong classes of a row differ.
    """

    costs: Costs = "ordinal"

    name = "class_cost"
    tags = MapTags(
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
        stable_with_two=True,
        compact=False,
        limits=(0.0, 1.0),
    )
    citation = "Fidon et al., Generalised Wasserstein Dice Score, 2017, arXiv 1707.00478 (eq. 6)"
    official_code = "https://github.com/LucasFidon/GeneralizedWassersteinDiceLoss"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> dense map (b k *s), unitless."""
        k, labels = regions.num_classes, regions.labels
        values = [
            regions.per_voxel(from_numpy(np.full((len(labels), k), column, np.float32), labels))
            for column in zip(*cost_table(self.name, self.costs, k), strict=True)
        ]
        return RWMap.from_dense(labels, regions.xp.stack(values, axis=1))


def cost_table(name: str, costs: Costs, num_classes: int) -> tuple[tuple[float, ...], ...]:
    """One row per true class, one number per class; in plain Python, which a graph can hold.

    Raises RWLossError unless the costs have this form, with 0 for the class itself.
    """
    if costs == "ordinal":
        classes = range(num_classes)
        return tuple(tuple(abs(t - k) / (num_classes - 1) for k in classes) for t in classes)
    sizes = [len(row) for row in costs]
    if sizes != [num_classes] * num_classes:
        raise RWLossError(
            f"{name}: costs has rows of {listed([str(size) for size in sizes])} numbers, expected "
            f"{num_classes} rows of {num_classes}: one row per true class, one number per class"
        )
    if any(row[t] for t, row in enumerate(costs)):
        raise RWLossError(f"{name}: each class must cost 0 at itself, got {costs}")
    return costs
