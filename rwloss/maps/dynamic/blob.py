"""Blob loss: the Dice of each connected component, so that small ones count as much as large."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rwloss.arrays import Array, eager, from_numpy, to_numpy
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import PositiveFloat
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.regions import Regions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Instances:
    """The connected components of classes `first` and up, numbered from 0 over the whole batch.

    place (m): of each of their m voxels, its index in flat values (b c *s), at its own class.
    number (m): its instance. owner (n): of each instance, its index in flat values (b c). table
    (b, 1 + most): the instance of a number of `Regions.components`; n where that is none.
    int64, of the kind and on the device of the labels.
    """

    place: Array
    number: Array
    owner: Array
    table: Array

    @classmethod
    def of(cls, regions: Regions, first: int) -> Instances:
        """Those of a batch, which keeps them. No loop over instances: O(voxels)."""
        return regions.kept(f"instances {first}", lambda: cls._made(regions, first))

    @classmethod
    def _made(cls, regions: Regions, first: int) -> Instances:
        shape = len(regions.labels), math.prod(regions.labels.shape[1:])
        labels = to_numpy(regions.labels).reshape(shape).astype(np.int64)
        components = to_numpy(regions.components).reshape(shape)
        image, voxel = np.nonzero(labels >= first)
        component, channel = components[image, voxel], labels[image, voxel] - first
        used = np.zeros((len(labels), 1 + components.max(initial=0)), dtype=bool)
        used[image, component] = True
        table = np.where(used, used.cumsum().reshape(used.shape) - 1, used.sum())
        number, row = table[image, component], image * (regions.num_classes - first) + channel
        owner = np.zeros(used.sum(), dtype=np.int64)
        owner[number] = row
        arrays = row * labels.shape[1] + voxel, number, owner, table
        return cls(*(from_numpy(array, regions.labels) for array in arrays))


def mean_by_image_and_class(values: Tensor, sizes: Tensor, owner: Tensor, like: Tensor) -> Tensor:
    """The mean of instances that have a size, 0 where there is none. (n) each -> (b c).

    like: (b c ...).
    """
    counts = (sizes > 0).to(values.dtype)
    empty = values.new_zeros(like.shape[:2]).flatten()
    total, count = (empty.index_add(0, owner, each) for each in (values * counts, counts))
    return (total / count.clamp_min(1.0)).reshape(like.shape[:2])


class Blob(LossTerm):
    """1 - (2 Σ p y + s) / (Σ p + Σ y + s) of each connected component, the mean over components.

    y is one component of the class; the sums run over all voxels but those of the other components
    of the class. Then the mean over images and classes; an image without the class has 0. (The
    published code leaves such images out of the mean, and takes one class; here each class is taken
    against the rest.) Components touch through faces, edges or corners.

    All components together take one pass over the voxels. Add it to a loss of whole images: the
    paper's sum is 2 * dice + blob.

    smooth: s, which keeps the quotient finite. include_background: whether components of class 0
    count as well.
    """

    smooth: PositiveFloat = 1e-5
    include_background: bool = field(default=False, kw_only=True)

    name = "blob"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
        uses_components=True,
        ingredient="components",
    )
    citation = (
        "Kofler et al., blob loss, IPMI 2023, arXiv 2205.08209; more classes as in Kundu et al., "
        "arXiv 2604.24276"
    )
    official_code = "https://github.com/neuronflow/blob_loss"
    used_by = ("BiCC-Loss VectorizedBlobLoss",)
    needs_geometry: ClassVar[bool] = True

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the soft Dice of the components, their mean. (b c)."""
        probs, truth = prediction.probs, prediction.one_hot
        place, number, owner = _instances(prediction)
        both = _sum_by_instance(probs, place, number, owner)
        true = _sum_by_instance(truth, place, number, owner)
        beside = prediction.sum_space(probs) - prediction.sum_space(probs * truth)
        predicted = beside.flatten()[owner] + both
        losses = 1 - (2 * both + self.smooth) / (predicted + true + self.smooth)
        return mean_by_image_and_class(losses, true, owner, probs)

    def prepare(self, regions: Regions) -> None:
        """Find the components."""
        Instances.of(regions, 0 if self.include_background else 1)


@eager  # no compiled graph can hold a search for components
def _instances(prediction: Prediction) -> tuple[Tensor, Tensor, Tensor]:
    """place, number and owner of the instances of the classes that are looked at."""
    found = Instances.of(prediction.regions, 0 if prediction.has_background else 1)
    place, number, owner = map(prediction.tensor, (found.place, found.number, found.owner))
    return place, number, owner


def _sum_by_instance(values: Tensor, place: Tensor, number: Tensor, owner: Tensor) -> Tensor:
    """Sum over the voxels of each instance, at its class. (b c *s) -> (n)."""
    there = values.flatten().index_select(0, place)
    return values.new_zeros(owner.shape).index_add(0, number, there)
