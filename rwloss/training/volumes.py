"""One case in memory: normalized channels, checked labels, and slices of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.losses.label_sets import LabelSets
from rwloss.regions import IGNORED
from rwloss.store import labels_digest
from rwloss.training.normalization import normalized

AXIAL = 2
"""The axis along which axial slices are stacked, in NIfTI's (right, anterior, superior)."""


@dataclass(frozen=True, eq=False)
class TrainingVolume:
    """image (c *s), float32, normalized; labels (*s), int64, ignored voxels -1; *s 2-D or 3-D.

    spacing_mm: one length per axis; None if neither the file nor the caller knows.
    misplaced_mm: the largest distance between the positions of the same voxel in the files of image
    and labels. digest: of gray values, labels and spacing as they were read. labels_sha256: of
    labels, spacing and affine, by which a store identifies a case.
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[np.int64]
    spacing_mm: tuple[float, ...] | None = None
    misplaced_mm: float = 0.0
    digest: str = ""
    labels_sha256: str = ""

    def with_sets(self, sets: LabelSets | None, num_classes: int | None = None) -> TrainingVolume:
        """The same with set i as class num_classes + i, or by default ignored."""
        if sets is None:
            return self
        labels = self.labels
        found = (
            sets.ignored(labels)
            if num_classes is None
            else sets.renumbered(labels, num_classes, IGNORED)
        )
        return replace(self, labels=found)


def read_volume(
    case: data.Case,
    *,
    num_channels: int | None = None,
    ignore_label: int | None = None,
    spacing_mm: Sequence[float] | None = None,
    normalize: Callable[[Sequence[NDArray[Any]]], NDArray[np.float32]] | None = None,
    digest_image: bool = False,
) -> TrainingVolume:
    """One case with all its channels.

    normalize: from c channels (*s) to the image (c *s), such as `normalized_channels` with the
    settings of a run; by default each has mean 0 and standard deviation 1 (`normalized`).
    num_channels: how many channels the case must have, if known.
    spacing_mm: for formats that carry none. digest_image: labels_sha256 is that of a store whose
    maps use the image.

    Raises RWLossError for a case without images, files that can't be read, negative labels, and
    channels whose shape differs from that of the labels.
    """
    if not case.images:
        raise RWLossError(
            f"case {case.name!r} has no image: expected imagesTr/{case.name}_0000.ext next to "
            "its labels, one file per channel"
        )
    if case.problem:
        raise RWLossError(f"case {case.name!r}: {case.problem}")
    found = data.read_labels(case.labels, spacing_mm=spacing_mm)
    labels = found.labels.astype(np.int64)
    ignored = np.zeros(labels.shape, dtype=bool) if ignore_label is None else labels == ignore_label
    if (negative := labels[~ignored].min(initial=0)) < 0:
        raise RWLossError(
            f"case {case.name!r} holds the label {negative}: labels are 0 or more; to ignore these "
            f"voxels, pass --ignore-label {negative} (ignore_label={negative})"
        )
    labels[ignored] = IGNORED
    channels, misplaced_mm = [], 0.0
    digest = hashlib.sha256(repr((labels.shape, found.spacing_mm)).encode())
    digest.update(np.ascontiguousarray(labels).data)
    for placed in data.read_channels(case.images, num_channels):
        if placed.values.shape != labels.shape:
            raise RWLossError(
                f"image {str(case.images[0])!r} has shape {placed.values.shape}, its labels "
                f"{labels.shape}: they must lie on the same voxels; resample one of them, or leave "
                "the case out"
            )
        digest.update(np.ascontiguousarray(placed.values).data)
        channels.append(placed.values)
        if placed.affine is not None and found.affine is not None:
            shifts = corners_mm(placed.affine - found.affine, labels.shape)
            misplaced_mm = max(misplaced_mm, float(np.linalg.norm(shifts, axis=1).max()))
    shape_mm = found.spacing_mm or (1.0,) * labels.ndim
    return TrainingVolume(
        case.name,
        np.stack(list(map(normalized, channels))) if normalize is None else normalize(channels),
        labels,
        found.spacing_mm,
        misplaced_mm,
        digest.hexdigest(),
        labels_digest(
            found.labels, shape_mm, found.affine, np.stack(channels) if digest_image else None
        ),
    )


def corners_mm(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Positions in mm of the corner voxels of an image of this shape, 2-D or 3-D. (8 3).

    For the difference of two affines, these are the shifts between their corners.
    """
    last = np.subtract([*shape, 1, 1][:3], 1)
    places: NDArray[np.float64] = np.array(list(np.ndindex(2, 2, 2))) * last @ affine[:3, :3].T
    return places + affine[:3, 3]


def slice_axis_of(volumes: Sequence[TrainingVolume]) -> int:
    """The axis of the largest spacing (median over volumes); the last one if several are equal.

    Slices along it have the finest pixels. An axis of one voxel counts as having the largest
    spacing, so that a volume of one slice is that slice.
    """
    flat = [v for v in volumes if v.labels.ndim == 3]
    known = [v for v in flat if v.spacing_mm is not None] or flat
    if not known:
        return AXIAL
    rows = [v.spacing_mm or (1.0, 1.0, 1.0) for v in known]
    lengths = np.array([v.labels.shape for v in known])
    spacing = np.median(np.where(lengths == 1, np.inf, rows), axis=0)
    return int(np.flatnonzero(spacing >= 0.99 * spacing.max())[-1])


def stacked(values: NDArray[Any], spatial_axes: int, axis: int = AXIAL) -> NDArray[Any]:
    """Slices along the first axis. (... *s) -> (n ... h w); a 2-D image is one slice."""
    if spatial_axes == 2:
        return values[None]
    return np.moveaxis(values, values.ndim - spatial_axes + axis, 0)


def unstacked(slices: NDArray[Any], spatial_axes: int, axis: int = AXIAL) -> NDArray[Any]:
    """The inverse of `stacked`. (n ... h w) -> (... *s)."""
    if spatial_axes == 2:
        volume: NDArray[Any] = slices[0]
        return volume
    return np.moveaxis(slices, 0, slices.ndim - spatial_axes + axis)
