"""One training from its settings to its numbers on the test cases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwloss import data, store
from rwloss.losses import RegionWiseLoss
from rwloss.regions import IGNORED
from rwloss.training import slices
from rwloss.training.examples import batches
from rwloss.training.loop import train
from rwloss.training.metrics import ClassDice, by_class
from rwloss.training.predict import predict
from rwloss.training.unet import PRESETS, PresetName, unet
from rwloss.training.volumes import read


@dataclass(frozen=True)
class Run:
    """Settings of one training of a 2-D U-Net; with the data, all that decides its result.

    source: nnU-Net raw folder with images of both parts, train and test. maps: store with the maps
    of the training cases. Runs that differ only in their maps start from the same weights and meet
    the same batches.
    """

    source: Path
    maps: Path
    steps: int
    seed: int = 0
    batch_size: int = 8
    learning_rate: float = 4e-3
    preset: PresetName = "tiny"


@dataclass(frozen=True)
class RunResult:
    """What came out: Dice of each class (background first) over the test cases, and the losses.

    losses: of the batch of each step, unitless. seconds: wall-clock time of the training steps.
    """

    expression: str
    class_names: tuple[str, ...]
    test_cases: tuple[str, ...]
    dice: tuple[ClassDice, ...]
    losses: tuple[float, ...]
    size: tuple[int, ...]
    num_slices: int
    parameters: int
    seconds: float


def train_and_test(run: Run, on_step: Callable[[int, float], None] | None = None) -> RunResult:
    """Train on slices of the training cases, then measure on the whole volumes of the test cases.

    Raises RWLossError for data, maps or settings that do not fit together.
    """
    maps = store.open(run.maps)
    dataset, tests = (data.find(run.source, part=part) for part in ("train", "test"))
    num_classes = maps.info.num_classes
    volumes = [read(case, ignore_label=dataset.ignore_label) for case in dataset.cases]
    multiple_of = PRESETS[run.preset].multiple_of
    size = slices.common_size(volumes, multiple_of=multiple_of)
    examples = slices.cut(volumes, maps, size)
    network = unet(2, len(volumes[0].image), num_classes, preset=run.preset, seed=run.seed)
    loss = RegionWiseLoss(maps.expression, ignore_index=IGNORED)
    started = time.monotonic()
    losses = train(
        network,
        loss,
        batches(examples, run.batch_size, steps=run.steps, seed=run.seed),
        learning_rate=run.learning_rate,
        on_step=on_step,
    )
    seconds = time.monotonic() - started
    truths, predictions = [], []
    for case in tests.cases:
        volume = read(case, ignore_label=dataset.ignore_label)
        truths.append(volume.labels)
        predictions.append(predict(network, volume.image, size, multiple_of=multiple_of))
    return RunResult(
        expression=maps.expression,
        class_names=dataset.class_names,
        test_cases=tuple(case.name for case in tests.cases),
        dice=by_class(predictions, truths, num_classes),
        losses=tuple(losses),
        size=size,
        num_slices=len(examples),
        parameters=sum(weight.numel() for weight in network.parameters()),
        seconds=seconds,
    )
