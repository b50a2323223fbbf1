"""Dice by class and case, by MONAI; empty and missed classes are counted, never averaged away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.training.extras import require_monai


@dataclass(frozen=True)
class ClassDice:
    """Dice of one class over cases, in 0..1.

    cases: a value for each case; None where neither truth nor prediction has the class, so that
    there is nothing to measure. missed: cases whose truth has the class and whose prediction does
    not (Dice 0). invented: the other way round (Dice 0). absent: cases with neither (None).
    """

    cases: tuple[float | None, ...]
    missed: int
    invented: int
    absent: int

    @property
    def measured(self) -> int:
        """Number of cases that have a Dice."""
        return len(self.cases) - self.absent

    @property
    def mean(self) -> float | None:
        """Mean over the measured cases; None where there is none."""
        values = [value for value in self.cases if value is not None]
        return float(np.mean(values)) if values else None


def dice(
    predicted: NDArray[Any], labels: NDArray[Any], num_classes: int
) -> tuple[float | None, ...]:
    """Dice of each class in one case; None where both lack it. (*s), (*s) -> k values.

    Voxels whose label is below 0 are ignored: they belong to no class in either.
    Raises RWLossError for shapes that differ, and where MONAI is not installed.
    """
    if predicted.shape != labels.shape:
        raise RWLossError(f"prediction {predicted.shape} and labels {labels.shape} differ in shape")
    require_monai()
    from monai.metrics.meandice import compute_dice

    counted = labels >= 0
    found, truth = (
        torch.from_numpy(np.stack([(x == k) & counted for k in range(num_classes)]))[None]
        for x in (predicted, labels)
    )
    # With ignore_empty MONAI says NaN whenever the truth is empty, even where the prediction is
    # wrong; without, it says 1 for two empty ones.
    values = compute_dice(found, truth, ignore_empty=False)[0].tolist()
    empty = ~(found | truth).flatten(2).any(dim=2)[0]
    return tuple(None if none else float(v) for v, none in zip(values, empty.tolist(), strict=True))


def by_class(
    predictions: Sequence[NDArray[Any]], truths: Sequence[NDArray[Any]], num_classes: int
) -> tuple[ClassDice, ...]:
    """Dice of each class over cases, background (class 0) included. Label maps (*s) in pairs."""
    pairs = list(zip(predictions, truths, strict=True))
    table = [dice(predicted, labels, num_classes) for predicted, labels in pairs]
    classes = []
    for k in range(num_classes):
        in_truth = np.array([bool((labels == k).any()) for _, labels in pairs], dtype=bool)
        in_prediction = np.array(
            [bool((found[labels >= 0] == k).any()) for found, labels in pairs], dtype=bool
        )
        classes.append(
            ClassDice(
                cases=tuple(row[k] for row in table),
                missed=int((in_truth & ~in_prediction).sum()),
                invented=int((~in_truth & in_prediction).sum()),
                absent=int((~in_truth & ~in_prediction).sum()),
            )
        )
    return tuple(classes)
