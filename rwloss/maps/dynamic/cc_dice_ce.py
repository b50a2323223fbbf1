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
        probs = prediction.probs
        owner, parts, size = _cells(prediction)
        cells = len(owner)

        def sums(values: Tensor) -> Tensor:
            """Over the voxels of each cell outside its component, and inside. (2 cells)."""
            found = values.new_zeros(2 * cells).index_add(0, parts, values.flatten())
            return found.reshape(2, cells)

        is_inside = (parts >= cells).reshape(probs.shape)
        log_right = prediction.log_probs.where(is_inside, prediction.log_rest)
        size = size.to(probs.dtype).reshape(2, cells)
        if not prediction.all_count:
            counted = prediction.counted
            log_right, size = log_right * counted, sums(counted.expand_as(probs))
        predicted, true = sums(probs), size[1]
        overlap = 2 * predicted[1] / (predicted.sum(dim=0) + true).clamp_min(1e-7)
        whole = size.sum(dim=0)
        losses = (1 - overlap) * (true > 0) - sums(log_right).sum(dim=0) / whole.clamp_min(1.0)
        return mean_by_image_and_class(losses, whole, owner, probs)

    def prepare(self, regions: Regions) -> None:
        """Find the components and their cells."""
        _cells_of(regions, 0 if self.include_background else 1)


@eager  # no compiled graph can hold a search for components
def _cells(prediction: Prediction) -> tuple[Tensor, ...]:
    """Owners of the cells, the part of each value, and sizes of the parts in voxels."""
    first = 0 if prediction.has_background else 1
    owner, parts, size = map(prediction.tensor, _cells_of(prediction.regions, first))
    return owner, parts, size


def _cells_of(regions: Regions, first: int) -> tuple[Array, ...]:
    """Flat index (b c) of each of n cells, the part of each flat value (b c *s), and part sizes.

    The cells of the instances come first, then one per image and class, for those without any. The
    part of a voxel is the number of its cell, plus n if it lies in the component of the cell. The
    regions keep them.

    first: the class of channel 0.
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
    owner = np.concatenate([owner, rows.ravel()])
    labels = to_numpy(regions.labels).reshape(images, 1, numbers.shape[2])
    is_inside = labels == first + np.arange(channels)[:, None]
    # 32 bits are read faster, and there are never so many parts.
    parts = (cells + len(owner) * is_inside).ravel().astype(np.int32)
    sizes = np.bincount(parts, minlength=2 * len(owner))
    return tuple(from_numpy(array, regions.labels) for array in (owner, parts, sizes))
