"""Class-cost map: what it costs to take one class for another."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat

from rwloss.arrays import from_numpy
from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap


class ClassCost(MapGenerator):
    """z_k = M[t, k] with t the true class: the loss is the Wasserstein distance to the truth.

    costs: M, one row per true class with one number per class; 0 at the true class. "ordinal" is
    |t - k| / (K - 1), for classes with an order, such as grades. The paper's Dice is made of this
    distance; here it stands alone. Dense; violates the stability principle where the wrong classes
    of a row differ.
    """

    costs: Literal["ordinal"] | tuple[tuple[NonNegativeFloat, ...], ...] = "ordinal"

    name = "class_cost"
    tags = MapTags(
        signed=False,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90", "crop"}),
        uses_spacing=False,
    )
    citation = "Fidon et al., Generalised Wasserstein Dice Score, 2017, arXiv 1707.00478 (eq. 6)"

    def compute(self, regions: Regions) -> RWMap:
        """Map values for one batch. labels (b *s) -> dense map (b k *s), unitless.

        Raises RWLossError if the costs are not one row of K numbers per class, with 0 for the
        class itself.
        """
        k = regions.num_classes
        if self.costs == "ordinal":
            table = abs(np.subtract.outer(np.arange(k), np.arange(k))) / (k - 1)
        else:
            sizes = [len(row) for row in self.costs]
            if sizes != [k] * k:
                raise RWLossError(
                    f"{self.name}: costs has rows of {sizes} numbers, expected {k} rows of {k}: "
                    "one row per true class, one number per class"
                )
            table = np.array(self.costs)
            if table.diagonal().any():
                raise RWLossError(f"{self.name}: a class must cost 0 at itself, got {self.costs}")
        columns = (
            np.broadcast_to(column, (len(regions.labels), k)).astype(np.float32)
            for column in table.T
        )
        values = [regions.per_voxel(from_numpy(each, regions.labels)) for each in columns]
        return RWMap.from_dense(regions.labels, regions.xp.stack(values, axis=1))
