"""What a training step eats: patches of slices or volumes, cut, moved and augmented on the device.

The batch of a step follows from the seed and the number of the step alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.training.augment import Augmentation, Change, shaded, zoomed
from rwloss.training.randomness import generator


@dataclass(frozen=True, eq=False)
class Item:
    """What patches are cut from: one slice, or one volume.

    image (c *s) float32; labels (*s), -1 where ignored; spacing_mm: one length for each axis.
    map_parts: "true" and "other" (*s), or "values" (k *s), of a stored map of the whole volume;
    empty where maps are made on the fly.
    """

    image: Tensor
    labels: Tensor
    spacing_mm: tuple[float, ...]
    map_parts: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """images (b c *s) float32; labels (b *s) int64, -1 where ignored; spacings_mm: a row an image.

    rwmap: the stored map of these labels; None: the loss makes it on the fly.
    """

    images: Tensor
    labels: Tensor
    spacings_mm: tuple[tuple[float, ...], ...]
    rwmap: RWMap | None = None


class Batches:
    """The batch of each step, for one of several processes.

    Example number n of the training, over all steps and processes, is the same whatever their
    number: two processes with batches of b see together what one sees with batches of 2 b.

    Every item comes once before any comes again. balanced: this holds for every second example;
    the others are a random patch around a random voxel of a class drawn first, all foreground
    classes of the items alike.
    """

    def __init__(
        self,
        items: Sequence[Item],
        num_classes: int,
        patch_size: tuple[int, ...],
        batch_size: int,
        *,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        balanced: bool = False,
        device: torch.device | str = "cpu",
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """process: the number of this process and how many there are."""
        if not items or batch_size < 1:
            raise RWLossError(f"expected items to draw from, got {len(items)} by {batch_size}")
        self.items, self.num_classes = items, num_classes
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.augmentation = augmentation or Augmentation()
        self.device = torch.device(device)
        self.rank, self.processes = process
        self.holders = self._holders() if balanced else {}
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._voxels = lru_cache(maxsize=4096)(self._some_voxels)

    def __call__(self, step: int) -> Batch:
        """The batch of a step, on the device. step: from 1."""
        first = ((step - 1) * self.processes + self.rank) * self.batch_size
        numbers = range(first, first + self.batch_size)
        patches, changes = zip(*map(self._patch, numbers), strict=True)
        images = torch.stack([patch.image for patch in patches]).to(self.device)
        labels = torch.stack([patch.labels for patch in patches]).to(self.device, torch.int64)
        parts = {
            name: torch.stack([patch.map_parts[name] for patch in patches]).to(self.device)
            for name in patches[0].map_parts
        }
        images, labels = zoomed(images, labels, [change.zoom for change in changes])
        noises = [generator(self.seed, "noise", number, self.device) for number in numbers]
        return Batch(
            shaded(images, changes, noises),
            labels,
            tuple(patch.spacing_mm for patch in patches),
            RWMap(labels, self.num_classes, tuple(parts.values())) if parts else None,
        )

    def _patch(self, number: int) -> tuple[Item, Change]:
        """One example, cut, flipped and turned; and what is still to be done to it."""
        random = generator(self.seed, "example", number)
        u = torch.rand(6, generator=random).tolist()
        change = self.augmentation.draw(random)
        index, voxel = self._place(number, u[:3])
        item = self.items[index]
        starts = _starts(item.labels.shape, self.patch_size, voxel, u[3:])

        def moved(values: Tensor, fill: float) -> Tensor:
            return change.moved(_window(values, starts, self.patch_size, fill))

        patch = Item(
            moved(item.image, 0.0),
            moved(item.labels, IGNORED),
            change.spacing(item.spacing_mm),
            {name: moved(part, 0.0) for name, part in item.map_parts.items()},
        )
        return patch, change

    def _place(self, number: int, u: Sequence[float]) -> tuple[int, tuple[int, ...] | None]:
        """Which item, and a voxel that the patch must hold, if any."""
        if self.holders and number % 2:
            classes = sorted(self.holders)
            k = classes[int(u[0] * len(classes))]
            index = self.holders[k][int(u[1] * len(self.holders[k]))]
            voxels = self._voxels(index, k)
            return index, voxels[int(u[2] * len(voxels))]
        drawn = number // 2 if self.holders else number
        turn, place = divmod(drawn, len(self.items))
        return self._order(turn)[place], None

    def _shuffled(self, turn: int) -> list[int]:
        order: list[int] = torch.randperm(
            len(self.items), generator=generator(self.seed, "order", turn)
        ).tolist()
        return order

    def _holders(self) -> dict[int, list[int]]:
        """The items that hold each foreground class."""
        holders: dict[int, list[int]] = {}
        for index, item in enumerate(self.items):
            for k in torch.unique(item.labels).tolist():
                if k > 0:
                    holders.setdefault(k, []).append(index)
        if not holders:
            raise RWLossError("balanced sampling needs a foreground class, and no case has one")
        return holders

    def _some_voxels(self, index: int, k: int) -> list[tuple[int, ...]]:
        """Voxels of a class in an item, up to some thousands, evenly spread."""
        voxels = (self.items[index].labels == k).nonzero()
        return list(map(tuple, voxels[:: max(1, len(voxels) // 4096)].tolist()))


def _starts(
    lengths: Sequence[int],
    size: Sequence[int],
    voxel: Sequence[int] | None,
    u: Sequence[float],
) -> tuple[int, ...]:
    """Where a patch begins on each axis: anywhere inside; below 0 where it is larger, centred."""
    starts = []
    for axis, (length, wanted) in enumerate(zip(lengths, size, strict=True)):
        if length <= wanted:
            starts.append(-((wanted - length) // 2))
            continue
        first, last = 0, length - wanted
        if voxel is not None:
            first, last = max(first, voxel[axis] - wanted + 1), min(last, voxel[axis])
        starts.append(first + int(u[axis] * (last - first + 1)))
    return tuple(starts)


def _window(values: Tensor, starts: Sequence[int], size: Sequence[int], fill: float) -> Tensor:
    """A window, with `fill` where it reaches over the border. (... *s) -> (... *size)."""
    lengths = values.shape[-len(size) :]
    inside: tuple[Any, ...] = tuple(
        slice(max(start, 0), min(start + wanted, length))
        for start, wanted, length in zip(starts, size, lengths, strict=True)
    )
    padding: list[int] = []  # from the last axis to the first, as torch wants it
    for part, start, wanted in zip(inside[::-1], starts[::-1], size[::-1], strict=True):
        padding += [part.start - start, start + wanted - part.stop]
    cut = values[(..., *inside)]
    return functional.pad(cut, padding, value=fill) if any(padding) else cut
