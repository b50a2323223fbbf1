"""Volumes as the items that patches are cut from: slices in 2-D, themselves in 3-D."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap
from rwloss.training.batches import Item
from rwloss.training.slices import AXIAL, stacked
from rwloss.training.volumes import Volume


def items_of(
    volume: Volume,
    rwmap: RWMap | None = None,
    *,
    dims: Literal[2, 3],
    slice_axis: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Item]:
    """Slices of a volume across an axis (dims 2), or the volume itself (dims 3), on a device.

    rwmap: the stored map of the whole volume, (1 *s). Slices are cut from it: they are not maps of
    slices. All slices are views of one tensor.

    Raises RWLossError where the map is of other labels.
    """
    spatial, axis = volume.labels.ndim, AXIAL if slice_axis is None else slice_axis
    spacing_mm = volume.spacing_mm or (1.0,) * spatial
    arrays = {"image": volume.image, "labels": volume.labels.astype(np.int32)}
    if rwmap is not None:
        arrays |= _map_parts(volume, rwmap)

    def tensor(values: Any) -> torch.Tensor:
        if dims == 2:
            values = stacked(values, spatial, axis)  # (n ... h w)
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    tensors = {name: tensor(values) for name, values in arrays.items()}
    if dims == 3:
        yield _item(tensors, spacing_mm)
        return
    if spatial == 3:
        spacing_mm = spacing_mm[:axis] + spacing_mm[axis + 1 :]
    for number in range(len(tensors["labels"])):
        yield _item({name: values[number] for name, values in tensors.items()}, spacing_mm)


def stored_maps(
    volumes: Sequence[Volume], rwmaps: Mapping[str, RWMap] | None
) -> Iterator[RWMap | None]:
    """The map of each volume, or None for each without a store. Raises RWLossError for a gap."""
    for volume in volumes:
        if rwmaps is not None and volume.name not in rwmaps:
            raise RWLossError(
                f"no map of case {volume.name!r}: precompute the maps of this data set"
            )
        yield None if rwmaps is None else rwmaps[volume.name]


def num_bytes(volumes: Sequence[Volume], *, map_values: int) -> int:
    """Memory of all items. map_values: stored values a voxel, 0 without a store."""
    return sum(4 * v.image.size + 4 * v.labels.size * (1 + map_values) for v in volumes)


def slice_axis_of(volumes: Sequence[Volume]) -> int:
    """The axis of largest spacing (median over volumes), the last one of equals.

    Slices across it have the finest pixels.
    """
    known = [v.spacing_mm for v in volumes if v.spacing_mm is not None and v.labels.ndim == 3]
    if not known:
        return AXIAL
    spacing = np.median(known, axis=0)
    return int(np.flatnonzero(spacing >= 0.99 * spacing.max())[-1])


def _item(tensors: Mapping[str, torch.Tensor], spacing_mm: tuple[float, ...]) -> Item:
    parts = {name: values for name, values in tensors.items() if name not in {"image", "labels"}}
    return Item(tensors["image"], tensors["labels"], spacing_mm, parts)


def _map_parts(volume: Volume, rwmap: RWMap) -> dict[str, Any]:
    """The arrays of a map, without its batch axis."""
    if rwmap.labels.shape[1:] != volume.labels.shape or not np.array_equal(
        rwmap.labels[0].astype(np.int64), volume.labels
    ):
        raise RWLossError(
            f"the map of case {volume.name!r} was made from other labels than the case has: "
            "precompute the maps of this data set"
        )
    parts = zip(rwmap.part_names, rwmap.parts, strict=True)
    return {name: part[0].astype(np.float32) for name, part in parts}
