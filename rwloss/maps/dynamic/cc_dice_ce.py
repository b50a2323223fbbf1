"""CC-DiceCE: Dice and cross-entropy of each connected component in its own Voronoi cell."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rwloss.arrays import Array, eager, from_numpy, to_numpy
from rwloss.maps.dynamic.blob import Instances, mean_by_image_and_class
from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.regions import Regions

if TYPE_CHECKING:
    from torch import Tensor


class CCDiceCE(LossTerm):
    """1 - 2 Σ p y / (Σ p + Σ y) + mean (-y log p - (1 - y) log (1 - p)) of each Voronoi cell.

    The cell of a connected component is the set of voxels that are nearer to it, in mm, than to any
    other component of the class; y is the class there, which is that component. So a false positive
    counts for the component beside it. The mean over cells, then over images and classes, each
    class against the rest. In an image without the class, all voxels are one cell without a Dice.
    Components touch through faces, edges or corners.

    All cells together take one pass over the voxels. Add it to a loss of whole images: the paper's
    sum is dice + cross_entropy + cc_dice_ce.

    include_background: whether class 0 counts as well.
    """

    include_background: bool = field(default=False, kw_only=True)

    name = "cc_dice_ce"
    tags = MapTags(unit="unitless")  # of voxels between two cells either is right: no exact flips
    citation = (
        "Bouteille et al., Learning to Look Closer, ISBI 2026, arXiv 2511.17146; more classes as "
        "in Kundu et al., arXiv 2604.24276"
    )
    needs_geometry: ClassVar[bool] = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Dice loss plus cross-entropy of the cells, their mean. (b c)."""
        probs, truth, log_probs = prediction.probs, prediction.one_hot, prediction.log_probs
        cells, owner = _cells(prediction)
        log_rest = (-log_probs.expm1()).clamp_min(1e-30).log()  # log (1 - p), exact for p near 1
        costs = -log_probs.where(truth > 0, log_rest) * prediction.counted

        def sums(values: Tensor) -> Tensor:
            return values.new_zeros(owner.shape).scatter_add(0, cells, values.flatten())

        true, size = sums(truth), sums(prediction.counted.expand_as(truth))
        overlap = 2 * sums(probs * truth) / (sums(probs) + true).clamp_min(1e-7)
        losses = (1 - overlap) * (true > 0) + sums(costs) / size.clamp_min(1.0)
        return mean_by_image_and_class(losses, size, owner, probs)

    def prepare(self, regions: Regions) -> None:
        """Find the components and their cells."""
        _cells_of(regions, 0 if self.include_background else 1)


@eager  # no compiled graph can hold a search for components
def _cells(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The cell of each of the flat values (b c *s), and the flat index (b c) of each cell."""
    found = _cells_of(prediction.regions, 0 if prediction.has_background else 1)
    cells, owner = map(prediction.tensor, found)
    return cells, owner


def _cells_of(regions: Regions, first: int) -> tuple[Array, Array]:
    """Cells of classes `first` and up, one more per image and class for those without a component.

    int64 (b·c·voxels), (n + b·c); the regions keep them.
    """
    return regions.kept(f"cells {first}", lambda: _made(regions, first))


def _made(regions: Regions, first: int) -> tuple[Array, Array]:
    instances = Instances.of(regions, first)
    table, owner = to_numpy(instances.table), to_numpy(instances.owner)
    images, channels = len(table), regions.num_classes - first
    rows = np.arange(images * channels).reshape(images, channels)
    nearest = [to_numpy(regions.nearest_component(first + c)) for c in range(channels)]
    numbers = np.stack(nearest, axis=1).reshape(images, channels, math.prod(nearest[0].shape[1:]))
    cells = table[np.arange(images)[:, None, None], numbers]
    cells = np.where(numbers > 0, cells, len(owner) + rows[..., None])
    return tuple(
        from_numpy(array, regions.labels)
        for array in (cells.ravel(), np.concatenate([owner, rows.ravel()]))
    )
