"""2-D slices of volumes, with the maps of the volumes cut at the very same voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.training.examples import Examples
from rwloss.training.frame import Frame, padded
from rwloss.training.volumes import Volume

AXIAL = 2
"""The axis that axial slices are stacked along, in the (right, anterior, superior) of NIfTI."""


def stacked(values: NDArray[Any], spatial_axes: int, axis: int = AXIAL) -> NDArray[Any]:
    """Slices along the first axis. (... *s) -> (n ... h w); a 2-D image is one slice."""
    if spatial_axes == 2:
        return values[None]
    return np.moveaxis(values, values.ndim - spatial_axes + axis, 0)


def unstacked(slices: NDArray[Any], spatial_axes: int, axis: int = AXIAL) -> NDArray[Any]:
    """The volume again. (n ... h w) -> (... *s)."""
    if spatial_axes == 2:
        volume: NDArray[Any] = slices[0]
        return volume
    return np.moveaxis(slices, 0, slices.ndim - spatial_axes + axis)


def common_size(
    volumes: Sequence[Volume], *, multiple_of: int = 1, axis: int = AXIAL
) -> tuple[int, ...]:
    """The smallest slice (h w) that every slice fits in, in multiples."""
    shapes = [stacked(v.labels, v.labels.ndim, axis).shape[1:] for v in volumes]
    return padded(np.max(shapes, axis=0).tolist(), multiple_of)


def cut(
    volumes: Sequence[Volume],
    rwmaps: Mapping[str, RWMap] | None,
    size: tuple[int, ...],
    *,
    axis: int = AXIAL,
) -> Examples:
    """All slices of all volumes, each in the middle of a window of `size` (h w) voxels.

    rwmaps: maps of the whole volumes by case name (a store); their slices are slices of the full
    map, not maps of slices. None: examples without maps.

    Padding is outside the image and must teach nothing: there the labels are -1 (ignored), the
    map is 0 for every class, so it has no gradient, and the image is 0, its mean.

    Raises RWLossError where a map is missing, or of another shape than its volume.
    """
    images, labels, maps = [], [], []
    for volume in volumes:
        spatial = volume.labels.ndim
        lying = stacked(volume.labels, spatial, axis)
        frame = Frame(lying.shape[1:], size)
        images.append(frame.put(stacked(volume.image, spatial, axis), 0.0))
        labels.append(frame.put(lying, IGNORED))
        if rwmaps is not None:
            maps.append(_cut_map(_map_of(volume, rwmaps), frame, spatial, axis))
    return Examples(
        torch.from_numpy(np.concatenate(images)),
        torch.from_numpy(np.concatenate(labels)),
        _joined(maps) if maps else None,
    )


def _map_of(volume: Volume, rwmaps: Mapping[str, RWMap]) -> RWMap:
    if volume.name not in rwmaps:
        raise RWLossError(f"no map of case {volume.name!r}: precompute the maps of this data set")
    rwmap = rwmaps[volume.name]
    if rwmap.labels.shape != (1, *volume.labels.shape):
        raise RWLossError(
            f"the map of case {volume.name!r} is of labels {rwmap.labels.shape[1:]}, the case has "
            f"{volume.labels.shape}: precompute the maps of this data set"
        )
    return rwmap


def _cut_map(rwmap: RWMap, frame: Frame, spatial_axes: int, axis: int) -> RWMap:
    """The slices of one volume's map. (1 *s) or (1 k *s) -> (n h w) or (n k h w)."""
    parts = {
        name: frame.put(stacked(part[0], spatial_axes, axis), 0.0)
        for name in ("true", "other", "values")
        if (part := getattr(rwmap, name)) is not None
    }
    # Signed: a stored uint8 label map has no room for -1.
    labels = stacked(rwmap.labels[0].astype(np.int64), spatial_axes, axis)
    return RWMap(frame.put(labels, IGNORED), rwmap.num_classes, **parts)


def _joined(maps: Sequence[RWMap]) -> RWMap:
    """Maps of several volumes as one batch of tensors."""
    parts = {
        name: torch.from_numpy(np.concatenate([getattr(rwmap, name) for rwmap in maps]))
        for name in ("labels", "true", "other", "values")
        if getattr(maps[0], name) is not None
    }
    return RWMap(num_classes=maps[0].num_classes, **parts)
