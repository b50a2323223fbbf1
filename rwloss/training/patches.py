"""The batch of each training step: patches of slices or volumes, cropped and augmented on the
device.

A batch depends only on the seed and the number of its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import gt
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.training.augment import (
    UNIFORM,
    Augmentation,
    PatchTransform,
    seed_of,
    shaded,
    uniform,
    zoomed,
)
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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Image, labels and map parts."""
        return self.image, self.labels, *self.map_parts


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


class PatchSources(list[PatchSource]):
    """Slices or volumes, and what all samplers of them share. It is not changed once it is made."""

    def __init__(self, sources: Iterable[PatchSource], memory: Sequence[Tensor] = ()) -> None:
        """memory: for image, labels and each map part, a tensor (n) of which those of all sources
        are views; empty if they have no memory in common."""
        super().__init__(sources)
        self.memory = tuple(memory)
        self.voxels = lru_cache(maxsize=4096)(self._some_voxels)

    @cached_property
    def holders(self) -> dict[int, list[int]]:
        """The sources of each foreground class."""
        found: dict[int, list[int]] = {}
        for index, source in enumerate(self):
            for k in torch.unique(source.labels).tolist():
                if k > 0:
                    found.setdefault(k, []).append(index)
        return dict(sorted(found.items()))

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """*s of each source."""
        return [tuple(source.labels.shape) for source in self]

    @cached_property
    def shortest(self) -> tuple[int, ...]:
        """The least length of each axis."""
        return tuple(map(min, zip(*self.shapes, strict=True)))

    @cached_property
    def places(self) -> list[list[tuple[int, tuple[int, ...]]]]:
        """Where the tensors of each source begin in `memory`, and their strides."""
        return [
            [(int(tensor.storage_offset()), tensor.stride()) for tensor in source.tensors]
            for source in self
        ]

    def _some_voxels(self, index: int, k: int) -> NDArray[np.int32]:
        """Voxels of a class in a source, evenly spread, at most a few thousand. (n axes)."""
        voxels = (self[index].labels == k).nonzero()
        voxels = voxels[:: max(1, len(voxels) // 4096)]
        return voxels.to("cpu", torch.int32).numpy()


def pooled(sources: Iterable[PatchSource], device: torch.device | str) -> PatchSources:
    """Copies on a device, in one memory: patches of many sources then come in one operation."""
    sources = list(sources)
    memory, copies = [], []
    for tensors in zip(*(source.tensors for source in sources), strict=True):
        sizes = [tensor.numel() for tensor in tensors]
        whole = torch.empty(sum(sizes), dtype=tensors[0].dtype, device=device)
        parts = zip(torch.split(whole, sizes), tensors, strict=True)
        copies.append([part.view(tensor.shape).copy_(tensor.to(device)) for part, tensor in parts])
        memory.append(whole)
    return PatchSources(
        (
            PatchSource(image, labels, source.spacing_mm, tuple(map_parts))
            for source, image, labels, *map_parts in zip(sources, *copies, strict=True)
        ),
        memory,
    )


def patch_sources(
    volumes: Sequence[TrainingVolume],
    rwmaps: Mapping[str, RWMap] | None = None,
    *,
    dims: Literal[2, 3],
    slice_axis: int | None = None,
    device: torch.device | str = "cpu",
    max_device_bytes: float = float("inf"),
) -> PatchSources:
    """Slices of volumes along an axis (dims 2), or the volumes themselves (dims 3), on a device.

    rwmaps: stored maps of the whole volumes (1 *s), by case name. Slices are cropped from them;
    they are not maps of slices. max_device_bytes: if the sources need more, all of them stay in
    main memory. volumes: of the dataset. slice_axis: the axis of *s to slice across.

    Raises RWLossError for a volume without a map, and for a map of other labels.
    """
    parts = [_map_parts(volume, rwmaps) for volume in volumes]
    values = sum(volume.image.size + volume.labels.size for volume in volumes)
    values += sum(part.size for of_map in parts for part in of_map)
    if 4 * values > max_device_bytes:  # each takes 4 bytes
        device = "cpu"
    sources = (
        source
        for volume, of_map in zip(volumes, parts, strict=True)
        for source in _sources_in(volume, of_map, dims, slice_axis)
    )
    return PatchSources(sources) if torch.device(device).type == "cpu" else pooled(sources, device)


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
) -> Iterator[PatchSource]:
    """In main memory, where the slices of a volume are views of one tensor."""
    spatial, axis = volume.labels.ndim, AXIAL if slice_axis is None else slice_axis
    spacing_mm = volume.spacing_mm or (1.0,) * spatial

    def tensor(values: NDArray[Any]) -> Tensor:
        if dims == 2:
            values = stacked(values, spatial, axis)  # (n ... h w)
        return torch.from_numpy(np.ascontiguousarray(values))

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
        self.sources = sources if isinstance(sources, PatchSources) else PatchSources(sources)
        self.num_classes, self.patch_size = num_classes, patch_size
        self.batch_size, self.seed = batch_size, seed
        self.augmentation = augmentation or Augmentation()
        self.device = torch.device(device)
        self.rank, self.processes = process
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self.classes = list(self.sources.holders) if balanced else []
        if balanced and not self.classes:
            raise RWLossError("balanced sampling needs a foreground class, and no case has one")

    def __call__(self, step: int) -> TrainingBatch:
        """The batch of a step, counted from 1, on the device."""
        [batch] = _made_together([self], step)
        return batch

    @property
    def kind(self) -> tuple[Any, ...]:
        """Samplers of the same kind make batches that differ only in which patches they hold."""
        return id(self.sources), self.num_classes, self.patch_size, self.device

    def numbers(self, step: int) -> range:
        """The numbers of the examples of a step."""
        first = ((step - 1) * self.processes + self.rank) * self.batch_size
        return range(first, first + self.batch_size)

    def example(self, number: int, u: Sequence[float]) -> _Example:
        """What an example consists of. number: its own. u: the numbers drawn for it."""
        source, voxel = self._place(number, u[:3])
        starts = patch_starts(self.sources.shapes[source], self.patch_size, voxel, u[3:6])
        transform = self.augmentation.transform(u[6:])
        noise_seed = seed_of(self.seed, "noise", number) if transform.noise else 0
        return _Example(source, starts, transform, noise_seed)

    def _place(self, number: int, u: Sequence[float]) -> tuple[int, Sequence[int] | None]:
        """The index of a source, and a voxel that the patch must contain, if any."""
        if self.classes and number % 2:
            k = self.classes[int(u[0] * len(self.classes))]
            holders = self.sources.holders[k]
            index = holders[int(u[1] * len(holders))]
            voxels = self.sources.voxels(index, k)
            return index, voxels[int(u[2] * len(voxels))].tolist()
        drawn = number // 2 if self.classes else number
        turn, place = divmod(drawn, len(self.sources))
        return self._order(turn)[place], None

    def _shuffled(self, turn: int) -> list[int]:
        random = torch.Generator().manual_seed(seed_of(self.seed, "order", turn))
        order: list[int] = torch.randperm(len(self.sources), generator=random).tolist()
        return order


class _Example(NamedTuple):
    """A patch of a source: where it begins, and how it is changed."""

    source: int
    starts: tuple[int, ...]
    transform: PatchTransform
    noise_seed: int


def batches_of_step(
    makers: Sequence[Callable[[int], TrainingBatch]], step: int
) -> list[TrainingBatch]:
    """The batch of each maker. Those of samplers of the same kind are made in one go."""
    kinds: dict[tuple[Any, ...], list[PatchSampler]] = {}
    for maker in makers:
        if type(maker) is PatchSampler:  # a subclass may make its batches in its own way
            kinds.setdefault(maker.kind, []).append(maker)
    made: dict[int, TrainingBatch] = {}
    for samplers in kinds.values():
        made.update(zip(map(id, samplers), _made_together(samplers, step), strict=True))
    return [made[id(maker)] if id(maker) in made else maker(step) for maker in makers]


def _made_together(samplers: Sequence[PatchSampler], step: int) -> list[TrainingBatch]:
    """The batches of samplers of the same kind, as views of the same tensors.

    Each operation is for the examples of all of them, because on a GPU an operation for few takes
    as long as one for many.
    """
    first, *_ = samplers
    sources, size, device = first.sources, first.patch_size, first.device
    todo = [(sampler, number) for sampler in samplers for number in sampler.numbers(step)]
    drawn = uniform([seed_of(each.seed, "example", n) for each, n in todo], 6 + UNIFORM)
    examples = [each.example(n, u) for (each, n), u in zip(todo, drawn, strict=True)]
    transforms = [example.transform for example in examples]
    cut = _gathered if sources.memory else _stacked
    images, labels, *parts = (_sent(part, device) for part in cut(sources, examples, size))
    images, labels = zoomed(images, labels, [each.zoom for each in transforms])
    labels = labels.to(torch.int64)
    images = shaded(images, transforms, [example.noise_seed for example in examples])
    spacings_mm = [
        example.transform.spacing(sources[example.source].spacing_mm) for example in examples
    ]
    batches, own = [], slice(0, 0)
    for sampler in samplers:
        own = slice(own.stop, own.stop + sampler.batch_size)
        of_map = tuple(part[own] for part in parts)
        rwmap = RWMap(labels[own], sampler.num_classes, of_map) if of_map else None
        batches.append(TrainingBatch(images[own], labels[own], tuple(spacings_mm[own]), rwmap))
    return batches


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """A copy on a device; nobody waits for it."""
    if values.is_cpu and device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _stacked(
    sources: PatchSources, examples: Sequence[_Example], size: Sequence[int]
) -> Iterator[Tensor]:
    """Images, labels and map parts of examples, cropped, flipped and rotated one by one.

    (b c *s), (b *s) and parts.
    """
    for part in range(len(sources[0].tensors)):
        fill = IGNORED if part == 1 else 0.0
        yield torch.stack(
            [
                example.transform.moved(
                    cut_patch(sources[example.source].tensors[part], example.starts, size, fill)
                )
                for example in examples
            ]
        )


def _gathered(
    sources: PatchSources, examples: Sequence[_Example], size: Sequence[int]
) -> Iterator[Tensor]:
    """The same as `_stacked`, from the common memory in a few operations for all examples."""
    axes, rows = len(size), []
    is_larger = any(map(gt, size, sources.shortest))  # patches may reach beyond the border
    for source, starts, transform, _ in examples:
        walks, row = transform.walks(starts, size), []
        for axis, start, sign in walks if is_larger else ():
            row += [start, sign, sources.shapes[source][axis]]
        for offset, strides in sources.places[source]:
            lead, along = strides[:-axes], strides[-axes:]
            row.append(offset + sum(start * along[axis] for axis, start, _ in walks))
            row += [*lead, *(sign * along[axis] for axis, _, sign in walks)]
        rows.append(row)
    device = sources.memory[0].device
    columns = iter(_sent(torch.from_numpy(np.array(rows)), device).unbind(1))

    def walked(first: Tensor, direction: Tensor, shape: Sequence[int], axis: int) -> Tensor:
        """first + i * direction for each i of an axis, for each example."""
        count = torch.arange(shape[axis], device=device)
        behind = [1] * (len(shape) - axis - 1)
        return first.addcmul(direction.view(-1, *[1] * len(shape)), count.view(-1, *behind))

    outside = None
    for axis in range(axes) if is_larger else ():
        first, direction, length = (next(columns).view(-1, *[1] * axes) for _ in range(3))
        place = walked(first, direction, size, axis)
        beyond = (place < 0) | (place >= length)
        outside = beyond if outside is None else outside | beyond
    for part, memory in enumerate(sources.memory):
        shape = (*sources[0].tensors[part].shape[:-axes], *size)
        place = next(columns).view(-1, *[1] * len(shape))
        for axis in range(len(shape)):
            place = walked(place, next(columns), shape, axis)
        if outside is None:
            yield memory.take(place)
            continue
        fill = IGNORED if part == 1 else 0
        hidden = outside.view(len(rows), *[1] * (len(shape) - axes), *outside.shape[1:])
        yield memory.take(place.masked_fill(hidden, 0)).masked_fill(hidden, fill)


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
    padding: list[int] = []  # from the last axis to the first, as torch expects
    for axis, (start, wanted) in enumerate(zip(starts, size, strict=True), start=-len(size)):
        first, last = max(start, 0), min(start + wanted, values.shape[axis])
        padding[:0] = [first - start, start + wanted - last]
        if last - first < values.shape[axis]:
            values = values.narrow(axis, first, last - first)
    return functional.pad(values, padding, value=fill) if any(padding) else values
