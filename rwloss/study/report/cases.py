"""Which test cases a report shows, and what it needs of each: image, labels, prediction, map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import Regions, maps
from rwloss.errors import RWLossError
from rwloss.maps.expression import weighted_sum
from rwloss.pictures.draw import channels_of, known_labels
from rwloss.pictures.view import View, choose_view
from rwloss.regions import IGNORED
from rwloss.study.outcomes import mean_of
from rwloss.study.plan import Run, runs
from rwloss.study.report.logs import RunLog
from rwloss.study.results import Results


@dataclass(frozen=True)
class Choice:
    """A test case of a run. rank: "worst", "median", "best", or "all alike"; dice: 0..1."""

    rank: str
    case: str
    map: str
    seed: int
    dice: float


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a case, all (rows columns) or (k rows columns); labels -1 where ignored."""

    choice: Choice
    class_names: tuple[str, ...]
    image: NDArray[Any]
    labels: NDArray[np.int32]
    prediction: NDArray[np.int32]
    channels: NDArray[np.float64]
    step_mm: tuple[float, float]
    text: str


def choices(logs: Sequence[RunLog], name: str) -> list[Choice]:
    """The worst, median and best of all test cases of all runs of a map that have been tested.

    They are ranked by the mean Dice over foreground classes; cases without any class are left out.
    One choice where all have the same Dice.
    """
    found = sorted(
        (
            Choice("", case["name"], name, log.seed, dice)
            for log in logs
            if log.map == name and log.test is not None
            for case in log.test.get("cases", ())
            if (dice := mean_of(each["dice"] for each in case["classes"])) is not None
        ),
        key=lambda each: each.dice,
    )
    if not found:
        return []
    if math.isclose(found[0].dice, found[-1].dice, abs_tol=5e-4):
        return [replace(found[0], rank="all alike")]
    chosen = {"worst": found[0], "median": found[(len(found) - 1) // 2], "best": found[-1]}
    return [replace(choice, rank=rank) for rank, choice in chosen.items()]


def slices(results: Results, folder: Path, logs: Sequence[RunLog], name: str) -> Iterator[Slice]:
    """The slices to show of a map, predicted now with the best checkpoints of the runs.

    Raises RWLossError where a checkpoint or the data are missing.
    """
    places = {(run.name, run.seed): run for run in runs(results.study, folder)}
    for choice in choices(logs, name):
        yield _slice(places[choice.map, choice.seed], choice)


def has_schedule(expression: maps.Expression) -> bool:
    """Whether the map changes with the epoch.

    >>> [has_schedule(maps.parse(text)) for text in ("dice", "2 * blend(dice, boundary)")]
    [False, True]
    """
    return any(leaf.schedule for leaf in expression.leaves())


def at_the_end(expression: maps.Expression, num_epochs: int) -> maps.Expression:
    """The map at the last of this many epochs; unchanged without a schedule.

    >>> str(at_the_end(maps.parse("blend(dice, boundary, alpha=0.5)"), 51))
    '0.5 * dice + 0.5 * boundary'
    """
    if not has_schedule(expression):
        return expression
    pairs = []
    for leaf in expression.leaves(num_epochs - 1, num_epochs):
        term = leaf.term if leaf.link is None else leaf.term.with_link(leaf.link)
        pairs.append((leaf.weight * leaf.factor, term))
    return weighted_sum(pairs)


def _slice(run: Run, choice: Choice) -> Slice:
    from rwloss import data
    from rwloss.training import read_volume
    from rwloss.training.inference import label_map
    from rwloss.training.network import load_network

    trained = load_network(run.folder)
    settings = trained.settings
    case, ignored = _case(choice.case, settings.data, settings.test_part)
    volume = read_volume(
        case,
        ignore_label=ignored if settings.ignore_label is None else settings.ignore_label,
        spacing_mm=settings.spacing,
    )
    num_classes = trained.task.num_classes
    labels = known_labels(volume.labels, num_classes)
    across = settings.slice_axis if labels.ndim == 3 and settings.dims == 2 else None
    spacing_mm = volume.spacing_mm or (1.0,) * labels.ndim
    affine = data.read_labels(case.labels, spacing_mm=settings.spacing).affine
    view = choose_view(labels, spacing_mm, affine, across, None)
    assert settings.map is not None
    return Slice(
        choice=choice,
        class_names=trained.task.class_names,
        image=view.cut(volume.image[0]),
        labels=view.cut(labels),
        prediction=view.cut(label_map(trained.network, volume, settings).astype(np.int32)),
        channels=_channels(
            at_the_end(maps.parse(settings.map), settings.num_epochs),
            labels,
            num_classes,
            spacing_mm,
            view,
            across,
        ),
        step_mm=view.step_mm,
        text=view.text,
    )


def _case(name: str, source: str, test_part: str) -> tuple[Any, int | None]:
    """A test case, of the split or of the test folder, and the ignored label of the dataset."""
    from rwloss import data

    dataset = data.find(source)
    cases = {case.name: case for case in dataset.cases}
    there = all((Path(source) / part).is_dir() for part in ("imagesTs", "labelsTs"))
    if there and test_part != "split":
        cases |= {case.name: case for case in data.find(source, part="test").cases}
    if name not in cases:
        raise RWLossError(f"the dataset no longer has a case {name!r}")
    return cases[name], dataset.ignore_label


def _channels(
    expression: maps.Expression,
    labels: NDArray[np.int32],
    num_classes: int,
    spacing_mm: Sequence[float],
    view: View,
    across: int | None,
) -> NDArray[np.float64]:
    """Values of the map as in training: of the slice, or of the volume. (k rows columns).

    A map that depends on the prediction is taken at uniform probabilities.
    """
    if across is not None:
        labels = np.take(labels, view.index, axis=across)
        spacing_mm = [mm for axis, mm in enumerate(spacing_mm) if axis != across]
        view = replace(view, axis=None)
    regions = Regions.single(labels, num_classes, tuple(spacing_mm), IGNORED)
    probs = np.full((1, num_classes, *labels.shape), 1 / num_classes, dtype=np.float32)
    return channels_of(expression(regions, None if expression.is_static else probs), view)
