"""Augmentation on the device: exact moves of image, labels and map; zoom; gray values.

Every example of a batch has its own transform, drawn from its own generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rwloss.regions import IGNORED
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import TrainingVolume

ZOOM = (0.8, 1.25)
"""Smallest and largest factor; above 1 the image grows."""
GAIN = (0.8, 1.25)
OFFSET = (-0.2, 0.2)
"""In standard deviations of the image, like the noise; images are normalized before."""
GAMMA = (0.7, 1.5)
NOISE = (0.0, 0.15)
UNIFORM = 16
"""Numbers that the transform of an example is made of."""


def seed_of(seed: int, purpose: str, number: int) -> int:
    """The seed of a generator that depends only on seed, purpose and number.

    So a resumed run needs no random state, runs with different maps see the same batches and
    augmentations, and several processes agree without communication.
    """
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def uniform(seeds: Sequence[int], count: int) -> list[list[float]]:
    """A row of `count` numbers in [0, 1) from each seed.

    >>> uniform([7, 8], 2)[1] == uniform([8], 2)[0]
    True
    """
    rows, random = torch.empty(len(seeds), count), torch.Generator()
    for row, seed in zip(rows, seeds, strict=True):
        row.uniform_(generator=random.manual_seed(seed))
    drawn: list[list[float]] = rows.tolist()
    return drawn


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of patches of one size, with their probabilities.

    flip: for each of flip_axes separately. turn: by 90°, 180° or 270° in one of `planes`. zoom: by
    one factor for all axes, log-uniform. intensity: for gain and offset, for gamma, and for noise,
    each separately. Axes are those of *s, counted from the end, so that they are the same with and
    without channels. flip_axes: axes of *s. planes: pairs of axes.
    """

    flip: float = 0.0
    flip_axes: tuple[int, ...] = ()
    turn: float = 0.0
    planes: tuple[tuple[int, int], ...] = ()
    zoom: float = 0.0
    intensity: float = 0.0

    def transform(self, numbers: Sequence[float]) -> PatchTransform:
        """The transform of one example. numbers: UNIFORM numbers in [0, 1), whatever the settings.

        A setting does not change what is drawn for another one.
        """
        u = iter(numbers)
        drawn = [axis for axis in (-3, -2, -1) if next(u) < self.flip]
        turns, which, quarters = next(u) < self.turn and bool(self.planes), next(u), next(u)
        zooms, zoom = next(u) < self.zoom, next(u)
        shifts, gain, offset = next(u) < self.intensity, next(u), next(u)
        curves, gamma = next(u) < self.intensity, next(u)
        noises, noise = next(u) < self.intensity, next(u)
        return PatchTransform(
            flips=tuple(axis for axis in drawn if axis in self.flip_axes),
            plane=self.planes[int(which * len(self.planes))] if turns else None,
            quarters=1 + int(quarters * 3) if turns else 0,
            zoom=_between(ZOOM, zoom, by_ratio=True) if zooms else 1.0,
            gain=_between(GAIN, gain, by_ratio=True) if shifts else 1.0,
            offset=_between(OFFSET, offset) if shifts else 0.0,
            gamma=_between(GAMMA, gamma, by_ratio=True) if curves else 1.0,
            noise=_between(NOISE, noise) if noises else 0.0,
        )


def augmentation_of(
    settings: RunSettings, volumes: Sequence[TrainingVolume], note: Callable[[str], None]
) -> Augmentation:
    """The augmentations that are possible for patches of these volumes.

    Rotations are only between axes with the same spacing (within 1 %) and the same patch length.
    note: called with a sentence for each setting that cannot be used.
    """
    assert settings.patch_size is not None
    axes = volumes[0].labels.ndim
    kept = [a for a in range(axes) if not (axes == 3 and a == settings.slice_axis)]
    place = {axis: index - len(kept) for index, axis in enumerate(kept)}  # from the end
    spacings = [volume.spacing_mm or (1.0,) * axes for volume in volumes]
    planes = [
        (place[first], place[second])
        for index, first in enumerate(kept)
        for second in kept[index + 1 :]
        if settings.patch_size[place[first]] == settings.patch_size[place[second]]
        and all(abs(row[first] / row[second] - 1) < 0.01 for row in spacings)
    ]
    if settings.turn and not planes:
        note(
            f"no rotations: patches of {settings.patch_size} voxels have no two axes with the same "
            "length and spacing"
        )
    flip_axes = kept if settings.flip_axes is None else settings.flip_axes
    if settings.flip and (without := [axis for axis in flip_axes if axis not in place]):
        note(f"no flips of axis {', '.join(map(str, without))}: patches have the axes {kept}")
    return Augmentation(
        flip=settings.flip,
        flip_axes=tuple(place[axis] for axis in flip_axes if axis in place),
        turn=settings.turn,
        planes=tuple(planes),
        zoom=settings.zoom,
        intensity=settings.intensity,
    )


@dataclass(frozen=True)
class PatchTransform:
    """The transform of one example, in the order of the fields. Axes of *s count from the end."""

    flips: tuple[int, ...] = ()
    plane: tuple[int, int] | None = None
    quarters: int = 0
    zoom: float = 1.0
    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0

    def moved(self, values: Tensor) -> Tensor:
        """Flip and rotate exactly, like `rwloss.moves`. (... *s) -> (... *s)."""
        if self.flips:
            values = values.flip(self.flips)
        if self.plane is not None:
            values = values.rot90(self.quarters, self.plane)
        return values

    def walks(self, starts: Sequence[int], size: Sequence[int]) -> list[tuple[int, int, int]]:
        """How each axis of a moved patch walks through its source: (axis, first, direction).

        Voxel i of the patch comes from voxel first + i * direction of that axis of the source.
        starts, size: of the patch, before it is moved.
        """
        found = [(axis, start, 1) for axis, start in enumerate(starts)]

        def flip(axis: int) -> None:
            along, first, direction = found[axis]
            found[axis] = along, first + direction * (size[along] - 1), -direction

        for axis in self.flips:
            flip(axis)
        if self.plane is not None:
            # A half turn flips both axes; a quarter flips one of them, and swaps them.
            one, other = self.plane
            for axis in {1: (other,), 2: (one, other), 3: (one,)}[self.quarters]:
                flip(axis)
            if self.quarters != 2:
                found[one], found[other] = found[other], found[one]
        return found

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """Spacing in mm after the transform: an enlarged image has smaller voxels."""
        row = [length / self.zoom for length in spacing_mm]
        if self.plane is not None and self.quarters % 2:
            first, second = self.plane
            row[first], row[second] = row[second], row[first]
        return tuple(row)


def zoomed(images: Tensor, labels: Tensor, zooms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Zoom about the center: images with linear interpolation, labels with nearest neighbor.

    images (b c *s), labels (b *s), one factor per example -> the same shapes. Voxels from outside
    the image are 0, with ignored labels. Examples with factor 1 stay bit-identical.
    """
    chosen = [index for index, zoom in enumerate(zooms) if zoom != 1.0]
    if not chosen:
        return images, labels
    axes = labels.ndim - 1
    factors = torch.tensor([zooms[index] for index in chosen])[:, None, None]
    theta = torch.cat([torch.eye(axes) / factors, torch.zeros(len(chosen), axes, 1)], dim=2)
    # Made in main memory: small copies that do not block cost a GPU nothing.
    theta = theta.to(images.device, non_blocking=True)
    rows = torch.tensor(chosen).to(images.device, non_blocking=True)
    grid = functional.affine_grid(theta, [len(chosen), 1, *labels.shape[1:]], align_corners=False)
    linear = functional.grid_sample(images[rows], grid, align_corners=False)
    # Shifted, so that the 0 outside becomes IGNORED.
    shifted = (labels[rows, None] - IGNORED).float()
    nearest = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    back = nearest[:, 0].round().to(labels.dtype) + IGNORED
    return images.index_copy(0, rows, linear), labels.index_copy(0, rows, back)


def shaded(images: Tensor, changes: Sequence[PatchTransform], noise_seeds: Sequence[int]) -> Tensor:
    """Apply gamma, gain and offset, and noise. images (b c *s) -> (b c *s).

    noise_seeds: one per example.
    """

    def column(values: Sequence[float]) -> Tensor:
        made = torch.tensor(values, dtype=images.dtype).reshape(-1, *[1] * (images.ndim - 1))
        return made.to(images.device, non_blocking=True)

    if any(change.gamma != 1.0 for change in changes):
        space = tuple(range(2, images.ndim))
        low, high = images.amin(space, keepdim=True), images.amax(space, keepdim=True)
        width = (high - low).clamp_min(1e-6)
        gamma = column([change.gamma for change in changes])
        images = torch.where(gamma == 1.0, images, ((images - low) / width) ** gamma * width + low)
    if any((change.gain, change.offset) != (1.0, 0.0) for change in changes):
        gain, offset = ([getattr(c, name) for c in changes] for name in ("gain", "offset"))
        images = images * column(gain) + column(offset)
    if chosen := [index for index, change in enumerate(changes) if change.noise != 0.0]:
        rows = torch.tensor(chosen).to(images.device, non_blocking=True)
        strength = column([changes[index].noise for index in chosen])
        noise = images.new_empty(len(chosen), *images.shape[1:])
        random = torch.Generator(images.device)
        for row, index in zip(noise, chosen, strict=True):
            row.normal_(generator=random.manual_seed(noise_seeds[index]))
        images = images.index_add(0, rows, strength * noise)
    return images


def _between(ends: tuple[float, float], u: float, *, by_ratio: bool = False) -> float:
    """The number at u (0..1) between two ends, linear or log-linear."""
    low, high = ends
    return float(low * (high / low) ** u) if by_ratio else low + (high - low) * u
