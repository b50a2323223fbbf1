"""Augmentation on the device: exact moves of image, labels and map; zoom; grey values.

Every example of a batch has its own, drawn from a generator that nothing else draws from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rwloss.regions import IGNORED

ZOOM = (0.8, 1.25)
"""Least and largest factor; above 1 the image grows."""
GAIN = (0.8, 1.25)
OFFSET = (-0.2, 0.2)
"""In standard deviations of the image, as is the noise: images are normalised before."""
GAMMA = (0.7, 1.5)
NOISE = (0.0, 0.15)


@dataclass(frozen=True)
class Augmentation:
    """What may be done to an example of a given size, and how probable each kind is.

    flip: of each of flip_axes by itself. turn: by 90°, 180° or 270° between two axes of `planes`.
    zoom: by one factor for all axes, evenly in its logarithm. intensity: of gain and offset, of
    gamma, and of noise, each by itself. Axes are those of *s, from the end, so that they are the
    same with and without channels.
    """

    flip: float = 0.0
    flip_axes: tuple[int, ...] = ()
    turn: float = 0.0
    planes: tuple[tuple[int, int], ...] = ()
    zoom: float = 0.0
    intensity: float = 0.0

    def draw(self, generator: torch.Generator) -> Change:
        """What is done to one example. Always the same number of draws, whatever is switched on."""
        u = iter(torch.rand(16, generator=generator).tolist())
        flips = tuple(
            axis for axis, x in zip((-3, -2, -1), u, strict=False) if self._flips(axis, x)
        )
        turns, which, quarters = next(u) < self.turn and bool(self.planes), next(u), next(u)
        zooms, zoom = next(u) < self.zoom, _between(ZOOM, next(u), by_ratio=True)
        shifts, gain = next(u) < self.intensity, _between(GAIN, next(u), by_ratio=True)
        offset = _between(OFFSET, next(u))
        bends, gamma = next(u) < self.intensity, _between(GAMMA, next(u), by_ratio=True)
        hisses, noise = next(u) < self.intensity, _between(NOISE, next(u))
        return Change(
            flips=flips,
            plane=self.planes[int(which * len(self.planes))] if turns else None,
            quarters=1 + int(quarters * 3) if turns else 0,
            zoom=zoom if zooms else 1.0,
            gain=gain if shifts else 1.0,
            offset=offset if shifts else 0.0,
            gamma=gamma if bends else 1.0,
            noise=noise if hisses else 0.0,
        )

    def _flips(self, axis: int, u: float) -> bool:
        return axis in self.flip_axes and u < self.flip


@dataclass(frozen=True)
class Change:
    """What is done to one example, in this order. flips, plane: axes of *s from the end."""

    flips: tuple[int, ...] = ()
    plane: tuple[int, int] | None = None
    quarters: int = 0
    zoom: float = 1.0
    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0

    def moved(self, values: Tensor) -> Tensor:
        """Flipped and turned, exactly, as `rwloss.moves` does it. (... *s) -> (... *s)."""
        if self.flips:
            values = values.flip(self.flips)
        if self.plane is not None:
            values = values.rot90(self.quarters, self.plane)
        return values

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """Spacing in mm of a voxel after moves and zoom: what grows has smaller voxels."""
        row = [length / self.zoom for length in spacing_mm]
        if self.plane is not None and self.quarters % 2:
            first, second = self.plane
            row[first], row[second] = row[second], row[first]
        return tuple(row)


def zoomed(images: Tensor, labels: Tensor, zooms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Images between voxels (linear), labels of the nearest ones, about the centre.

    images (b c *s), labels (b *s), a factor each -> the same shapes. Outside the image is 0, and
    ignored. Examples of factor 1 stay as they are, to the bit.
    """
    chosen = [index for index, zoom in enumerate(zooms) if zoom != 1.0]
    if not chosen:
        return images, labels
    axes = labels.ndim - 1
    theta = torch.zeros(len(chosen), axes, axes + 1, device=images.device)
    for row, index in zip(theta, chosen, strict=True):
        row[:, :axes] = torch.eye(axes, device=images.device) / zooms[index]
    some = torch.tensor(chosen, device=images.device)
    grid = functional.affine_grid(theta, [len(chosen), 1, *labels.shape[1:]], align_corners=False)
    images, labels = images.clone(), labels.clone()
    images[some] = functional.grid_sample(images[some], grid, align_corners=False)
    # Shifted, so that the 0 outside becomes IGNORED.
    shifted = (labels[some, None] - IGNORED).float()
    nearest = functional.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    labels[some] = nearest[:, 0].round().to(labels.dtype) + IGNORED
    return images, labels


def shaded(images: Tensor, changes: Sequence[Change], noises: Sequence[torch.Generator]) -> Tensor:
    """Gamma, gain and offset, and noise. images (b c *s) -> (b c *s).

    noises: a generator on the images' device for each example.
    """
    shape = (-1, *[1] * (images.ndim - 1))

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=images.dtype, device=images.device).reshape(shape)

    if any(change.gamma != 1.0 for change in changes):
        low, high = (
            each.reshape(*images.shape[:2], *shape[2:])
            for each in torch.aminmax(images.flatten(2), dim=2)
        )
        width = (high - low).clamp_min(1e-6)
        gamma = column([change.gamma for change in changes])
        images = torch.where(gamma == 1.0, images, ((images - low) / width) ** gamma * width + low)
    if any((change.gain, change.offset) != (1.0, 0.0) for change in changes):
        gain, offset = ([getattr(c, name) for c in changes] for name in ("gain", "offset"))
        images = images * column(gain) + column(offset)
    if any(change.noise != 0.0 for change in changes):
        images = images.clone()
        for index, (change, noise) in enumerate(zip(changes, noises, strict=True)):
            if change.noise != 0.0:
                images[index] += change.noise * torch.randn(
                    images.shape[1:], generator=noise, device=images.device, dtype=images.dtype
                )
    return images


def _between(ends: tuple[float, float], u: float, *, by_ratio: bool = False) -> float:
    """The number at u (0..1) of the way from one end to the other."""
    low, high = ends
    return float(low * (high / low) ** u) if by_ratio else low + (high - low) * u
