"""One case in memory: channels of one scale, labels of known meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.regions import IGNORED


@dataclass(frozen=True, eq=False)
class Volume:
    """image (c *s), float32, normalised; labels (*s), int64, ignored voxels -1; *s 2-D or 3-D.

    spacing_mm: one length for each axis; None where neither the file nor the caller knows.
    misplaced_mm: how far apart the files of image and labels place the same voxel, at most.
    digest: of grey values, labels and spacing as they were read.
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[np.int64]
    spacing_mm: tuple[float, ...] | None = None
    misplaced_mm: float = 0.0
    digest: str = ""


def read(
    case: data.Case,
    *,
    ignore_label: int | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Volume:
    """One case with all its channels, each normalised by itself.

    spacing_mm: for formats that carry none.

    Raises RWLossError for a case without images, files that can't be read, and channels whose
    shape is not that of the labels.
    """
    if not case.images:
        raise RWLossError(
            f"case {case.name!r} has no image: expected imagesTr/{case.name}_0000.ext beside its "
            "labels, a file for each channel"
        )
    volume = data.read_labels(case.labels, spacing_mm=spacing_mm)
    labels = volume.labels.astype(np.int64)
    ignored = np.zeros(labels.shape, dtype=bool) if ignore_label is None else labels == ignore_label
    if (negative := labels[~ignored].min(initial=0)) < 0:
        raise RWLossError(
            f"case {case.name!r} holds the label {negative}: labels are 0 or more; if these voxels "
            f"are to be ignored, pass --ignore-label {negative} (ignore_label={negative})"
        )
    labels[ignored] = IGNORED
    channels, misplaced_mm = [], 0.0
    digest = hashlib.sha256(repr((labels.shape, volume.spacing_mm)).encode())
    digest.update(np.ascontiguousarray(labels).data)
    for path in case.images:
        placed = data.read_placed_image(path)
        channel = placed.values
        if channel.shape != labels.shape:
            raise RWLossError(
                f"image {str(path)!r} has shape {channel.shape}, its labels {labels.shape}: "
                "they must lie on the same voxels; resample one of them, or leave the case out"
            )
        digest.update(np.ascontiguousarray(channel).data)
        channels.append(normalized(channel))
        misplaced_mm = max(misplaced_mm, _apart_mm(placed.affine, volume.affine, labels.shape))
    return Volume(
        case.name, np.stack(channels), labels, volume.spacing_mm, misplaced_mm, digest.hexdigest()
    )


def _apart_mm(
    affine: NDArray[np.float64] | None,
    other: NDArray[np.float64] | None,
    shape: tuple[int, ...],
) -> float:
    """Largest distance between where two affines place a corner; 0 where one is not known."""
    if affine is None or other is None:
        return 0.0
    ends = [(0, length - 1) for length in (*shape, 1, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in product(*ends)]).T
    return float(np.linalg.norm(((affine - other) @ corners)[:3], axis=0).max())


def normalized(channel: NDArray[Any]) -> NDArray[np.float32]:
    """Grey values with mean 0 and standard deviation 1, extremes clipped. (*s) -> (*s), float32.

    Scanners write any scale, so each case has its own; and a few bright vessels must not set it,
    so values beyond the percentiles 0.5 and 99.5 are clipped before; where these are one value,
    all that is to be seen lies beyond, and nothing is clipped. A constant image is 0.
    """
    values = channel.astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.5))
    if low < high:
        values = np.clip(values, low, high)
    spread = values.std()
    if spread == 0:
        return np.zeros(channel.shape, dtype=np.float32)
    return np.asarray((values - values.mean()) / spread, dtype=np.float32)
