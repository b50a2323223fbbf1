"""Dice of whole cases while a network trains, and the rule that picks its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rwloss.training.metrics import score
from rwloss.training.scores import Scores
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import Volume
from rwloss.training.windows import predict


def mean_dice(
    network: nn.Module, volumes: Sequence[Volume], settings: RunSettings, class_names: Sequence[str]
) -> dict[str, float | None]:
    """Mean Dice of each foreground class over whole cases.

    Missed classes and false alarms are 0 in it; None where no case has the class in either.
    """
    cases = [
        score(
            label_map(network, volume, settings),
            volume.labels,
            len(class_names),
            distances=False,
        )
        for volume in volumes
    ]
    summary = Scores(tuple(cases), tuple(class_names)).summary()
    return {each.name: each.dice.mean for each in summary}


def selection_score(dice: Mapping[str, float | None]) -> float:
    """What the checkpoint is chosen by: the mean over foreground classes of their mean Dice.

    Classes that no validation case has, in truth or prediction, say nothing and are left out. The
    highest wins, of equals the earlier.

    >>> round(selection_score({"anterior": 0.8, "posterior": 0.0, "absent": None}), 3)
    0.4
    """
    known = [value for value in dice.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def label_map(network: nn.Module, volume: Volume, settings: RunSettings) -> NDArray[np.int64]:
    """The most probable class of each voxel of a case. -> labels (*s)."""
    assert settings.patch_size is not None
    return predict(
        network,
        volume.image,
        settings.patch_size,
        axis=settings.slice_axis or 0,
        device=next(network.parameters()).device,
    )
