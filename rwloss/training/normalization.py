"""Normalize gray values for a network: per channel, or with one scale for a whole dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.training.settings import RunSettings

_VOXELS_PER_CASE = 100_000


def normalized(
    channel: NDArray[Any],
    how: Literal["zscore", "minmax", "percentile", "ct"] = "zscore",
    window: Sequence[float] = (),
) -> NDArray[np.float32]:
    """Normalized gray values of one channel of an image. (*s) -> (*s), float32.

    zscore: mean 0 and standard deviation 1. Each image is normalized separately, because scanners
    use different scales. Values beyond the percentiles 0.5 and 99.5 are clipped first, so that a
    few bright vessels do not set the scale; if the two percentiles are equal, everything visible
    lies beyond them, and nothing is clipped.
    minmax: the lowest value becomes 0, the highest 1. percentile: the percentiles 0.5 and 99.5
    become 0 and 1, and values beyond them are clipped; if the two are equal, as minmax.
    ct: clipped to the first two numbers of window; then the third is subtracted, and the result
    divided by the fourth.
    A constant image is 0, except with ct.

    >>> normalized(np.array([-1000.0, 40.0, 3000.0]), "ct", (-160, 240, 40, 100)).tolist()
    [-2.0, 0.0, 2.0]
    """
    values = channel.astype(np.float64)
    if how == "ct":
        low, high, mean, spread = window
        return np.asarray((np.clip(values, low, high) - mean) / spread, dtype=np.float32)
    low, high = (float(values.min()), float(values.max()))
    if how != "minmax":
        percentiles = np.percentile(values, (0.5, 99.5))
        if percentiles[0] < percentiles[1]:
            low, high = percentiles
            values = np.clip(values, low, high)
    mean, spread = (values.mean(), values.std()) if how == "zscore" else (low, high - low)
    if spread == 0:
        return np.zeros(channel.shape, dtype=np.float32)
    return np.asarray((values - mean) / spread, dtype=np.float32)


def normalized_channels(
    channels: Sequence[NDArray[Any]], settings: RunSettings
) -> NDArray[np.float32]:
    """All channels of an image as the run normalizes them. c times (*s) -> (c *s), float32."""
    numbers: Sequence[float] = settings.ct_window or ()
    if settings.normalization == "ct" and len(numbers) != 4 * len(channels):
        raise RWLossError(
            f"expected {4 * len(channels)} numbers as --ct-window, 4 per channel, got "
            f"{len(numbers)}"
        )
    return np.stack(
        [
            normalized(channel, settings.normalization, numbers[4 * number : 4 * number + 4])
            for number, channel in enumerate(channels)
        ]
    )


def ct_window(
    cases: Sequence[data.Case], *, num_channels: int | None, ignore_label: int | None
) -> tuple[float, ...]:
    """Percentiles 0.5 and 99.5, mean and standard deviation of the foreground, per channel. (4 c).

    Over all cases together, like nnU-Net for CT: from up to 100,000 foreground voxels per case,
    evenly spread. Raises RWLossError without foreground, and if it is constant.
    """
    found: list[NDArray[np.float64]] = []
    for case in cases:
        labels = data.read_labels(case.labels).labels
        voxels = np.flatnonzero((labels > 0) & (labels != ignore_label))
        voxels = voxels[:: max(1, len(voxels) // _VOXELS_PER_CASE)]
        channels = data.read_channels(case.images, num_channels)
        if all(channel.values.shape == labels.shape for channel in channels):  # else read_volume
            found.append(
                np.array([channel.values.ravel()[voxels] for channel in channels], np.float64)
            )
    values = np.concatenate(found, axis=1) if found else np.empty((0, 0))
    if not values.size or (values.std(axis=1) == 0).any():
        raise RWLossError(
            "--normalization ct takes its scale from the foreground of the training cases, which "
            "is empty or has one gray value: give --ct-window, or another normalization"
        )
    low, high = np.percentile(values, (0.5, 99.5), axis=1)
    numbers = np.stack([low, high, values.mean(axis=1), values.std(axis=1)], axis=1)
    return tuple(numbers.ravel().tolist())
