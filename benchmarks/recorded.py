"""The table of recorded training runs, from which `benchmarks.risk` fits the models that ship."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rwloss.stability.alarm import LOOKS

TABLE = Path(__file__).parent / "results" / "recorded_runs.csv"


@dataclass(frozen=True)
class RecordedClass:
    """One foreground class of one training run, and its end.

    dataset: the source of the images; all datasets of one source have one name. study, axes: the
    arm of the recordings. fraction: of the training voxels. pull, pull_exponent: see
    `StabilityReport`; known before training. signs: the result of `alarm.features_of` at each look;
    empty if the run did not record them. lost: whether the final validation Dice was below 0.05.
    """

    dataset: str
    study: str
    axes: str
    map: str
    seed: int
    name: str
    learning_rate: float
    steps: int
    fraction: float
    pull: float
    pull_exponent: float
    lost: bool
    signs: Mapping[float, Mapping[str, float]]

    @property
    def run(self) -> str:
        """Identity of its run."""
        of_study = f"{self.dataset} {self.study} {self.axes}"
        return f"{of_study} {self.map} {self.learning_rate} {self.steps} {self.seed}"

    def signs_at(self, look: float) -> dict[str, float]:
        """The signs of a look, with the pull ratio."""
        return {**self.signs[look], "pull": self.pull}


def read_table(file: Path = TABLE) -> tuple[RecordedClass, ...]:
    """The rows of a table of recorded runs."""
    with file.open(encoding="utf-8", newline="") as lines:
        return tuple(map(_row, csv.DictReader(lines)))


def _row(cells: dict[str, str]) -> RecordedClass:
    signs: dict[float, dict[str, float]] = {look: {} for look in LOOKS}
    for column, text in cells.items():
        name, at, percent = column.partition("_at_")
        if at and text:
            signs[int(percent) / 100][name] = float(text)
    return RecordedClass(
        dataset=cells["dataset"],
        study=cells["study"],
        axes=cells["axes"],
        map=cells["map"],
        seed=int(cells["seed"]),
        name=cells["class"],
        learning_rate=float(cells["learning_rate"]),
        steps=int(cells["steps"]),
        fraction=float(cells["fraction"]),
        pull=float(cells["pull"]),
        pull_exponent=float(cells["pull_exponent"]),
        lost=cells["lost"] == "1",
        signs={look: found for look, found in signs.items() if found},
    )
