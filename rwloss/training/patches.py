"""The batch of each training step: patches of slices or volumes, cropped and augmented on the
device.

A batch depends only on the seed and the number of its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.training.augment import Augmentation, PatchTransform, generator, shaded, zoomed
from rwloss.training.volumes import AXIAL, TrainingVolume, stacked


@dataclass(frozen=True, eq=False)
class PatchSource:
    """One slice or one volume from which patches are cropped.

    image (c *s) float32; labels (*s), -1 where ignored; spacing_mm: one length per axis.
    map_parts: the parts of a stored map of the whole volume, true and other (*s) or values (k *s);
    empty if maps are made on the fly.
    """

    image: Tensor
    labels: Tensor
    spacing_mm: tuple[float, ...]
    map_parts: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """images (b c *s) float32, as the network sees them; labels (b *s) int64, -1 where ignored.

    spacings_mm: one row each. rwmap: the stored map of these labels; None if the loss makes it on
    the fly.
    """

    images: Tensor
    labels: Tensor
    spacings_mm: tuple[tuple[float, ...], ...]
    rwmap: RWMap | None = None


def patch_sources(
    volumes: Sequence[TrainingVolume],
    rwmaps: Mapping[str, RWMap] | None = None,
    *,
    dims: Literal[2, 3],
    slice_axis: int | None = None,
    device: torch.device | str = "cpu",
    max_device_bytes: float = float("inf"),
) -> list[PatchSource]:
    """Slices of volumes along an axis (dims 2), or the volumes themselves (dims 3), on a device.

    rwmaps: stored maps of the whole volumes (1 *s), by case name. Slices are cropped from them;
    they are not maps of slices. max_device_bytes: if the sources need more, all of them stay in
    main memory. The slices of a volume are views of one tensor. volumes: of the dataset.
    slice_axis: the axis of *s to slice across.

    Raises RWLossError for a volume without a map, and for a map of other labels.
    """
    parts = [_map_parts(volume, rwmaps) for volume in volumes]
    values = sum(volume.image.size + volume.labels.size for volume in volumes)
    values += sum(part.size for of_map in parts for part in of_map)
    if 4 * values > max_device_bytes:  # each takes 4 bytes
        device = "cpu"
    return [
        source
        for volume, of_map in zip(volumes, parts, strict=True)
        for source in _sources_in(volume, of_map, dims, slice_axis, device)
    ]


def _map_parts(
    volume: TrainingVolume, rwmaps: Mapping[str, RWMap] | None
) -> list[NDArray[np.float32]]:
    """The arrays of the stored map of a volume, without the batch axis; none without a store."""
    if rwmaps is None:
        return []
    if volume.name not in rwmaps:
        raise RWLossError(f"no map of case {volume.name!r}: precompute the maps of this dataset")
    rwmap = rwmaps[volume.name]
    if rwmap.labels.shape[1:] != volume.labels.shape or not np.array_equal(
        rwmap.labels[0].astype(np.int64), volume.labels
    ):
        raise RWLossError(
            f"the map of case {volume.name!r} was made from other labels than the case has: "
            "precompute the maps of this dataset"
        )
    return [part[0].astype(np.float32) for part in rwmap.parts]


def _sources_in(
    volume: TrainingVolume,
    map_parts: Sequence[NDArray[np.float32]],
    dims: Literal[2, 3],
    slice_axis: int | None,
    device: torch.device | str,
) -> Iterator[PatchSource]:
    spatial, axis = volume.labels.ndim, AXIAL if slice_axis is None else slice_axis
    spacing_mm = volume.spacing_mm or (1.0,) * spatial

    def tensor(values: NDArray[Any]) -> Tensor:
        if dims == 2:
            values = stacked(values, spatial, axis)  # (n ... h w)
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    image, labels = tensor(volume.image), tensor(volume.labels.astype(np.int32))
    parts = [tensor(part) for part in map_parts]
    if dims == 3:
        yield PatchSource(image, labels, spacing_mm, tuple(parts))
        return
    if spatial == 3:
        spacing_mm = spacing_mm[:axis] + spacing_mm[axis + 1 :]
    for n in range(len(labels)):
        yield PatchSource(image[n], labels[n], spacing_mm, tuple(part[n] for part in parts))


class PatchSampler:
    """The batch of each step, for one of several processes.

    Example number n, counted over all steps and processes, does not depend on the number of
    processes: two processes with batches of b see together what one sees with batches of 2 b.

    Every source is used once before any is used again. balanced: only every second example is drawn
    this way; the others are a random patch around a random voxel of a class that is drawn first,
    with equal probability for all foreground classes.

    sources: slices or volumes. patch_size: length of each axis in voxels. batch_size: patches per
    step and process. augmentation: of each patch.
    """

    def __init__(
        self,
        sources: Sequence[PatchSource],
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
        """process: the number of this process, and the number of processes."""
        if not sources or batch_size < 1:
            raise RWLossError(
                f"expected slices or volumes to draw from and batches of 1 or more, got "
                f"{len(sources)} and {batch_size}"
            )
        self.sources, self.num_classes = sources, num_classes
        self.patch_size, self.batch_size, self.seed = patch_size, batch_size, seed
        self.augmentation = augmentation or Augmentation()
        self.device = torch.device(device)
        self.rank, self.processes = process
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._voxels = lru_cache(maxsize=4096)(self._some_voxels)
        self.holders: dict[int, list[int]] = {}  # the sources of each foreground class
        for index, source in enumerate(sources if balanced else ()):
            for k in torch.unique(source.labels).tolist():
                if k > 0:
                    self.holders.setdefault(k, []).append(index)
        if balanced and not self.holders:
            raise RWLossError("balanced sampling needs a foreground class, and no case has one")

    def __call__(self, step: int) -> TrainingBatch:
        """The batch of a step, counted from 1, on the device."""
        first = ((step - 1) * self.processes + self.rank) * self.batch_size
        numbers = range(first, first + self.batch_size)
        patches, transforms = zip(*map(self._patch, numbers), strict=True)

        def stack(values: Sequence[Tensor]) -> Tensor:
            together = torch.stack(list(values))
            if together.is_cpu and self.device.type == "cuda":
                together = together.pin_memory()  # so that the copy keeps nobody waiting
            return together.to(self.device, non_blocking=True)

        images = stack([patch.image for patch in patches])
        labels = stack([patch.labels for patch in patches]).to(torch.int64)
        parts = tuple(map(stack, zip(*(patch.map_parts for patch in patches), strict=True)))
        images, labels = zoomed(images, labels, [transform.zoom for transform in transforms])
        noises = [generator(self.seed, "noise", number, self.device) for number in numbers]
        return TrainingBatch(
            shaded(images, transforms, noises),
            labels,
            tuple(patch.spacing_mm for patch in patches),
            RWMap(labels, self.num_classes, parts) if parts else None,
        )

    def _patch(self, number: int) -> tuple[PatchSource, PatchTransform]:
        """One example, cropped, flipped and rotated; and its transform, whose other parts are still
        to do."""
        random = generator(self.seed, "example", number)
        u = torch.rand(6, generator=random).tolist()
        transform = self.augmentation.draw(random)
        index, voxel = self._place(number, u[:3])
        source = self.sources[index]
        starts = patch_starts(source.labels.shape, self.patch_size, voxel, u[3:])

        def moved(values: Tensor, fill: float) -> Tensor:
            return transform.moved(cut_patch(values, starts, self.patch_size, fill))

        patch = PatchSource(
            moved(source.image, 0.0),
            moved(source.labels, IGNORED),
            transform.spacing(source.spacing_mm),
            tuple(moved(part, 0.0) for part in source.map_parts),
        )
        return patch, transform

    def _place(self, number: int, u: Sequence[float]) -> tuple[int, tuple[int, ...] | None]:
        """The index of a source, and a voxel that the patch must contain, if any."""
        if self.holders and number % 2:
            classes = sorted(self.holders)
            k = classes[int(u[0] * len(classes))]
            index = self.holders[k][int(u[1] * len(self.holders[k]))]
            voxels = self._voxels(index, k)
            return index, voxels[int(u[2] * len(voxels))]
        drawn = number // 2 if self.holders else number
        turn, place = divmod(drawn, len(self.sources))
        return self._order(turn)[place], None

    def _shuffled(self, turn: int) -> list[int]:
        random = generator(self.seed, "order", turn)
        order: list[int] = torch.randperm(len(self.sources), generator=random).tolist()
        return order

    def _some_voxels(self, index: int, k: int) -> list[tuple[int, ...]]:
        """Voxels of a class in a source, evenly spread, at most a few thousand."""
        voxels = (self.sources[index].labels == k).nonzero()
        return list(map(tuple, voxels[:: max(1, len(voxels) // 4096)].tolist()))


def patch_starts(
    lengths: Sequence[int],
    size: Sequence[int],
    voxel: Sequence[int] | None,
    u: Sequence[float],
) -> tuple[int, ...]:
    """Where a patch begins on each axis, from uniform numbers u, one per axis.

    A smaller patch lies inside the image and contains `voxel`, if given. A larger one is centered,
    so it begins below 0.
    """
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


def cut_patch(values: Tensor, starts: Sequence[int], size: Sequence[int], fill: float) -> Tensor:
    """A patch, filled with `fill` beyond the border. (... *s) -> (... *size)."""
    lengths = values.shape[-len(size) :]
    inside: tuple[Any, ...] = tuple(
        slice(max(start, 0), min(start + wanted, length))
        for start, wanted, length in zip(starts, size, lengths, strict=True)
    )
    padding: list[int] = []  # from the last axis to the first, as torch expects
    for part, start, wanted in zip(inside[::-1], starts[::-1], size[::-1], strict=True):
        padding += [part.start - start, start + wanted - part.stop]
    cut = values[(..., *inside)]
    return functional.pad(cut, padding, value=fill) if any(padding) else cut
