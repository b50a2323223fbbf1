"""Workloads a-d: anatomy-like label maps from a seed, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Workload:
    """Shape (b *s), number of classes, spacing in mm, and the share of foreground to aim for."""

    name: str
    shape: tuple[int, ...]
    num_classes: int
    spacing_mm: tuple[float, ...]
    foreground: float

    @property
    def words(self) -> str:
        """The workload as a table's row begins."""
        batch, *size = self.shape
        text = "x".join(map(str, size))
        many = f"{batch} images " if batch > 1 else ""
        spacing = "" if set(self.spacing_mm) == {1.0} else f", {self.spacing_mm} mm"
        return f"{self.name}: {many}{text}, K={self.num_classes}{spacing}"

    def labels(self) -> NDArray[np.uint8]:
        """Labels (b *s), uint8."""
        return _labels(self)


A = Workload("a", (16, 256, 256), 4, (1.0, 1.0), 0.2)
B = Workload("b", (1, 128, 128, 128), 4, (1.0, 1.0, 1.0), 0.2)
C = Workload("c", (1, 256, 256, 128), 16, (1.0, 1.0, 1.0), 0.2)
D = Workload("d", (1, 512, 512, 100), 3, (0.8, 0.8, 2.5), 0.002)
ALL = (A, B, C, D)


@cache
def _labels(workload: Workload) -> NDArray[np.uint8]:
    return np.stack(
        [_image(workload, seed) for seed in range(workload.shape[0])],
    )


def _image(workload: Workload, seed: int) -> NDArray[np.uint8]:
    """Ellipsoids with rough edges, a few for each class, that may touch and overlap. (*s)."""
    rng = np.random.default_rng((workload.num_classes, *workload.shape, seed))
    size = np.array(workload.shape[1:])
    labels = np.zeros(tuple(size), dtype=np.uint8)
    blobs = 3
    share = workload.foreground / ((workload.num_classes - 1) * blobs)
    ball = {2: np.pi, 3: 4 / 3 * np.pi}[len(size)]
    radius = (share / ball) ** (1 / len(size)) * size
    for k in range(1, workload.num_classes):
        for _ in range(blobs):
            radii = np.maximum(radius * rng.uniform(0.7, 1.4, len(size)), 1.0)
            centre = rng.uniform(0.15, 0.85, len(size)) * size
            low = np.maximum(np.floor(centre - 1.3 * radii), 0).astype(int)
            high = np.minimum(np.ceil(centre + 1.3 * radii) + 1, size).astype(int)
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            grid = np.meshgrid(
                *(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"
            )
            unit = [(g - c) / r for g, c, r in zip(grid, centre, radii, strict=True)]
            # Waves on the surface: real organs are no ellipsoids.
            waves = sum(np.sin(rng.uniform(2, 6) * u + rng.uniform(0, 6)) for u in unit)
            inside = sum(u**2 for u in unit) * (1 + 0.1 * waves) <= 1
            labels[box][inside] = k
    return labels
