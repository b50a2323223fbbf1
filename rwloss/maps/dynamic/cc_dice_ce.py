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
    # Of voxels between two cells either is right: no exact flips.
    tags = MapTags(
        unit="unitless",
        stable_with_two=True,
        pull_exponent=0.0,
        limits=(0.0, None),
        uses_components=True,
        ingredient="components",
    )
    citation = (
        "Bouteille et al., Learning to Look Closer, ISBI 2026, arXiv 2511.17146; more classes as "
        "in Kundu et al., arXiv 2604.24276"
    )
    used_by = ("BiCC-Loss VectorizedCCLoss",)
    needs_geometry: ClassVar[bool] = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Dice loss plus cross-entropy of the cells, their mean. (b c)."""
        probs, log_probs, log_rest = prediction.probs, prediction.log_probs, prediction.log_rest
        place, number, owner, cells, size = _cells(prediction)

        def of_cells(values: Tensor) -> Tensor:
            return values.new_zeros(owner.shape).index_add(0, cells, values.flatten())

        def of_components(values: Tensor) -> Tensor:
            there = values.flatten().index_select(0, place)
            return values.new_zeros(owner.shape).index_add(0, number, there)

        size = size.to(probs.dtype)
        if not prediction.all_count:
            counted = prediction.counted
            log_probs, log_rest = log_probs * counted, log_rest * counted
            size = of_cells(counted.expand_as(probs))
        true = of_components(prediction.one_hot)
        overlap = 2 * of_components(probs) / (of_cells(probs) + true).clamp_min(1e-7)
        # As if no voxel were of the class; then the difference where one is.
        costs = of_cells(log_rest) - of_components(log_rest) + of_components(log_probs)
        losses = (1 - overlap) * (true > 0) - costs / size.clamp_min(1.0)
        return mean_by_image_and_class(losses, size, owner, probs)

    def prepare(self, regions: Regions) -> None:
        """Find the components and their cells."""
        _cells_of(regions, 0 if self.include_background else 1)


@eager  # no compiled graph can hold a search for components
def _cells(prediction: Prediction) -> tuple[Tensor, ...]:
    """Place and number of the instances; owners of the cells, the cell of each value, and sizes."""
    first = 0 if prediction.has_background else 1
    instances = Instances.of(prediction.regions, first)
    found = instances.place, instances.number, *_cells_of(prediction.regions, first)
    return tuple(map(prediction.tensor, found))


def _cells_of(regions: Regions, first: int) -> tuple[Array, ...]:
    """Flat index (b c) of each cell, the cell of each flat value (b c *s), and sizes in voxels.

    The cells of the instances come first, then one per image and class, for those without any. The
    regions keep them.
    """
    return regions.kept(f"cells {first}", lambda: _made(regions, first))


def _made(regions: Regions, first: int) -> tuple[Array, ...]:
    instances = Instances.of(regions, first)
    table, owner = to_numpy(instances.table), to_numpy(instances.owner)
    images, channels = len(table), regions.num_classes - first
    rows = np.arange(images * channels).reshape(images, channels)
    nearest = [to_numpy(regions.nearest_component(first + c)) for c in range(channels)]
    numbers = np.stack(nearest, axis=1).reshape(images, channels, math.prod(nearest[0].shape[1:]))
    cells = table[np.arange(images)[:, None, None], numbers]
    cells = np.where(numbers > 0, cells, len(owner) + rows[..., None])
    # 32 bits are read faster, and there are never so many cells.
    owner, cells = np.concatenate([owner, rows.ravel()]), cells.ravel().astype(np.int32)
    sizes = np.bincount(cells, minlength=len(owner))
    return tuple(from_numpy(array, regions.labels) for array in (owner, cells, sizes))
