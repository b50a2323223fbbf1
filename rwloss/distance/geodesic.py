"""Geodesic distance: the shortest path over an image, where steps across edges are long."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def geodesic_distance(
    channel: NDArray[Any], seeds: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Length of the shortest path from each voxel to a seed. channel, seeds (*s) -> (*s), float64.

    A step to one of the 8 (26) neighbors is as long as its length in mm times (|difference of gray
    values| + 1e-5). Exact on this graph, by Dijkstra's algorithm; one seed is needed at least.

    Source: the raster scan of GeodisTK (Wang et al., DeepIGeoS, TPAMI 2018) with lambda = 1, which
    approaches the same.

    >>> grey, seeds = np.array([[0.0, 0.0, 5.0]]), np.array([[True, False, False]])
    >>> geodesic_distance(grey, seeds, (1.0, 2.0)).round(3).tolist()
    [[0.0, 0.0, 10.0]]
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    grey = channel.astype(np.float64)
    number = np.arange(grey.size, dtype=np.int32).reshape(grey.shape)
    starts, ends, lengths = [], [], []
    for step in itertools.product((-1, 0, 1), repeat=grey.ndim):
        if step <= (0,) * grey.ndim:
            continue  # each pair of neighbors once
        here = tuple(slice(max(0, -s), -s if s > 0 else None) for s in step)
        there = tuple(slice(max(0, s), s if s < 0 else None) for s in step)
        mm = float(np.linalg.norm(np.multiply(step, spacing_mm)))
        starts.append(number[here].ravel())
        ends.append(number[there].ravel())
        lengths.append(mm * (np.abs(grey[here] - grey[there]).ravel() + 1e-5))
    pairs = np.concatenate(starts), np.concatenate(ends)
    graph = csr_matrix((np.concatenate(lengths), pairs), shape=(grey.size, grey.size))
    found = dijkstra(graph, directed=False, indices=number[seeds], min_only=True)
    distances: NDArray[np.float64] = found.reshape(grey.shape)
    return distances
