"""Predict the labels of whole cases with a network of slices or patches, and score them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rwloss.errors import RWLossError
from rwloss.training.architectures import outputs_of
from rwloss.training.environment import require_monai
from rwloss.training.scores import Scores, score
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import AXIAL, TrainingVolume, stacked, unstacked

OVERLAP = 0.5

_VOXELS_AT_A_TIME = 2**20


@torch.no_grad()
def predict_labels(
    network: nn.Module,
    image: NDArray[Any],
    size: Sequence[int],
    *,
    axis: int = AXIAL,
    batch_size: int | None = None,
    overlap: float = OVERLAP,
    device: torch.device | str = "cpu",
) -> NDArray[np.int64]:
    """The most probable class of each voxel. image (c *s), normalized -> labels (*s).

    size: the window that the network was trained on: (h w) for a network of slices, which are
    predicted one by one along `axis` of a volume, or three lengths for a network of volumes. An
    image that fits is padded with 0 on all sides, as in training, and predicted at once. A larger
    one is covered by windows that overlap by at least `overlap`, a fraction of their length. Their
    probabilities are averaged with Gaussian weights (standard deviation an eighth of the window,
    minimum 0.001), so that the middle of a window counts more than its border. batch_size: windows
    at a time, by default about a million voxels. device: that of the network. The probabilities of
    the whole image (or of batch_size slices), 4 bytes per voxel and class, are held in main memory.
    overlap: from 0 to 1.

    Leaves the network in eval mode. Raises RWLossError for an image that does not fit the network's
    axes, an overlap outside 0..1, and if MONAI is not installed.
    """
    spatial, axes = image.ndim - 1, len(size)
    if spatial not in {2, 3} or axes not in {2, 3} or spatial < axes:
        raise RWLossError(
            f"expected an image (c *s) for windows of {axes} axes, got the shape {image.shape}"
        )
    check_overlap(overlap)
    require_monai()
    from monai.inferers.utils import sliding_window_inference

    def probabilities(windows: torch.Tensor) -> torch.Tensor:
        logits = outputs_of(network(windows), axes)[0]
        return logits.float().softmax(dim=1)

    window = tuple(size)
    if batch_size is None:
        batch_size = min(max(_VOXELS_AT_A_TIME // math.prod(window), 1), 64)
    images = image[None] if axes == 3 else stacked(image, spatial, axis)
    network.eval()
    labels = []
    for batch in torch.split(torch.from_numpy(np.ascontiguousarray(images)), batch_size):
        probs = sliding_window_inference(
            batch,
            window,
            batch_size,
            probabilities,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device="cpu",
        )
        assert isinstance(probs, torch.Tensor)
        labels.append(probs.argmax(dim=1))
    found: NDArray[np.int64] = torch.cat(labels).numpy()
    return found[0] if axes == 3 else unstacked(found, spatial, axis)


def check_overlap(overlap: float) -> None:
    """Raise RWLossError unless the overlap is from 0 to below 1."""
    if not 0 <= overlap < 1:
        raise RWLossError(f"expected an overlap from 0 to below 1, got {overlap}")


def label_map(
    network: nn.Module, volume: TrainingVolume, settings: RunSettings
) -> NDArray[np.int64]:
    """The most probable class at each voxel of a case. -> labels (*s)."""
    assert settings.patch_size is not None  # run.toml holds the value it took
    device = next(network.parameters()).device
    axis = settings.slice_axis or 0
    return predict_labels(network, volume.image, settings.patch_size, axis=axis, device=device)


def score_volumes(
    network: nn.Module,
    volumes: Iterable[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
    metrics: Iterable[str] | None = None,
) -> Scores:
    """Scores of the label maps that a network predicts.

    metrics: by default those of the settings, and Dice, which studies compare.
    """
    cases = [
        score(
            label_map(network, volume, settings),
            volume.labels,
            len(class_names),
            volume.spacing_mm,
            name=volume.name,
            metrics=("dice", *settings.metrics) if metrics is None else metrics,
            tolerance_mm=settings.nsd_tolerance,
        )
        for volume in volumes
    ]
    return Scores(tuple(cases), tuple(class_names))


def mean_dice(
    network: nn.Module,
    volumes: Sequence[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
) -> dict[str, float | None]:
    """Mean Dice per foreground class over whole cases.

    Missed classes and false alarms count as 0; None if no case has the class in either.
    """
    scores = score_volumes(network, volumes, settings, class_names, metrics=("dice",))
    return {each.name: each.dice.mean for each in scores.summary()}


def selection_score(dice: Mapping[str, float | None]) -> float:
    """The score that selects the checkpoint: the mean over foreground classes of their mean Dice.

    Classes that no validation case has, in truth or prediction, are left out. The highest score
    wins; if several are equal, the earliest.

    >>> round(selection_score({"anterior": 0.8, "posterior": 0.0, "absent": None}), 3)
    0.4
    """
    known = [value for value in dice.values() if value is not None]
    return sum(known) / len(known) if known else 0.0
