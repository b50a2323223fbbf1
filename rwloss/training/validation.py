"""Scores of whole cases by a network, and the rule that picks its checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rwloss.training.metrics import score
from rwloss.training.scores import Scores
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import TrainingVolume
from rwloss.training.windows import predict_labels


def score_volumes(
    network: nn.Module,
    volumes: Iterable[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
    *,
    distances: bool = True,
) -> Scores:
    """Scores of the label maps that a network predicts. distances: see `metrics.score`."""
    cases = [
        score(
            label_map(network, volume, settings),
            volume.labels,
            len(class_names),
            volume.spacing_mm,
            name=volume.name,
            distances=distances,
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
    scores = score_volumes(network, volumes, settings, class_names, distances=False)
    return {each.name: each.dice.mean for each in scores.summary()}


def selection_score(dice: Mapping[str, float | None]) -> float:
    """The score that picks the checkpoint: the mean over foreground classes of their mean Dice.

    Classes that no validation case has, in truth or prediction, are left out. The highest score
    wins; if several are equal, the earliest.

    >>> round(selection_score({"anterior": 0.8, "posterior": 0.0, "absent": None}), 3)
    0.4
    """
    known = [value for value in dice.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def label_map(
    network: nn.Module, volume: TrainingVolume, settings: RunSettings
) -> NDArray[np.int64]:
    """The most probable class at each voxel of a case. -> labels (*s)."""
    assert settings.patch_size is not None  # run.toml holds the value it took
    return predict_labels(
        network,
        volume.image,
        settings.patch_size,
        axis=settings.slice_axis or 0,
        device=next(network.parameters()).device,
    )
