"""Label maps that look like anatomy, from a seed: nested and touching blobs, and stray voxels."""

from functools import cache

import numpy as np


def anatomy(seed, shape, num_classes=4, dtype=np.uint8):
    """Labels (*s): for each foreground class a few ellipsoids, and some voxels on their own.

    Classes lie over each other, touch the border of the image, and fall apart into components.
    """
    return _drawn(tuple(_flat(seed)), tuple(shape), num_classes).astype(dtype)


def _flat(seed):
    """The numbers of a seed, one by one: NumPy 2.5 takes no nested ones."""
    return [n for part in seed for n in _flat(part)] if isinstance(seed, (tuple, list)) else [seed]


@cache
def _drawn(seed, shape, num_classes):
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.int64)
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    for k in range(1, num_classes):
        for _ in range(rng.integers(1, 4)):
            centre = rng.uniform(0, shape)
            radius = rng.uniform(0.08, 0.35, len(shape)) * shape + 0.5
            labels[(((where - centre) / radius) ** 2).sum(axis=-1) <= 1] = k
        for _ in range(3):
            labels[tuple(rng.integers(0, shape))] = k
    return labels


def ball(spacing, radius=9.0):
    """Labels (1 27 27 27) of a ball, and the distance of each voxel from its centre (27 27 27)."""
    place = np.indices((27, 27, 27)) * np.reshape(spacing, (3, 1, 1, 1))
    centre = np.reshape(np.array(spacing) * 13, (3, 1, 1, 1))
    from_centre = np.sqrt(((place - centre) ** 2).sum(axis=0))
    return (from_centre <= radius).astype(np.uint8)[None], from_centre


def batch(seed, shape, num_classes=4, size=3, dtype=np.uint8):
    """Labels (b *s) of that many different images."""
    return np.stack([anatomy((seed, i), shape, num_classes, dtype) for i in range(size)])
