"""Select the test cases that a report shows, and draw them with one pixel per voxel."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from rwloss import Regions, data, maps
from rwloss.errors import RWLossError
from rwloss.maps.expression import weighted_sum
from rwloss.pictures.panels import IGNORED, MAX_CLASSES, diverging, grey, largest_classes, tinted
from rwloss.pictures.view import View, channels_of, choose_view, known_labels
from rwloss.regions import IGNORED as NO_CLASS
from rwloss.study.outcomes import mean_of
from rwloss.study.plan import Run, runs
from rwloss.study.results import Results

_OPACITY = 0.6


@dataclass(frozen=True)
class Choice:
    """A test case of a run. rank: "worst", "median", "best", or "all alike"; dice: 0..1.

    run: the map with its values of the axes.
    """

    rank: str
    case: str
    run: str
    seed: int
    dice: float


@dataclass(frozen=True)
class Panel:
    """One picture with its title. source: a data URI, which browsers enlarge without blur.

    class_number: of a channel of the map, where the background is 0.
    """

    title: str
    alt: str
    source: str
    class_number: int | None = None


@dataclass(frozen=True)
class CasePicture:
    """One case. proportion: width of its panels divided by their height. limit: of the map."""

    choice: Choice
    panels: tuple[Panel, ...]
    proportion: float
    limit: float
    text: str


def choices(results: Results, name: str) -> list[Choice]:
    """The worst, median and best of all test cases of a map's finished runs.

    They are ranked by the mean Dice over foreground classes; cases without any class are left out.
    Only one if all have the same Dice.
    """
    found = sorted(
        (
            Choice("", case["name"], row.name, row.seed, dice)
            for row in results.done(name)
            for case in (row.tested or {}).get("cases", ())
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


def case_pictures(results: Results, folder: Path, name: str) -> Iterator[CasePicture]:
    """The cases to show for a map, predicted with the best checkpoints of the runs.

    Raises RWLossError if a checkpoint or the data are missing.
    """
    places = {(run.name, run.seed): run for run in runs(results.study, folder)}
    for choice in choices(results, name):
        yield _predicted(places[choice.run, choice.seed], choice)


def has_schedule(text: str) -> bool:
    """Whether the map changes with the epoch; False if unknown.

    >>> [has_schedule(text) for text in ("dice", "2 * blend(dice, boundary)", "file('a.py:A')")]
    [False, True, False]
    """
    with suppress(RWLossError):
        return any(leaf.schedule for leaf in maps.parse(text, files=False).leaves())
    return False


def at_the_end(expression: maps.Expression, num_epochs: int) -> maps.Expression:
    """The map at the last of this many epochs; unchanged without a schedule.

    >>> str(at_the_end(maps.parse("blend(dice, boundary, alpha=0.5)"), 51))
    '0.5 * dice + 0.5 * boundary'
    """
    if not any(leaf.schedule for leaf in expression.leaves()):
        return expression
    pairs = []
    for leaf in expression.leaves(num_epochs - 1, num_epochs):
        term = leaf.term if leaf.link is None else leaf.term.with_link(leaf.link)
        pairs.append((leaf.scale, term))
    return weighted_sum(pairs)


def _predicted(run: Run, choice: Choice) -> CasePicture:
    """The picture of a case, with the map as in training: of the slice, or of the volume.

    A map that depends on the prediction is drawn at uniform probabilities.
    """
    from rwloss.training import read_volume
    from rwloss.training.inference import label_map
    from rwloss.training.network import load_network
    from rwloss.training.normalization import normalized_channels

    trained = load_network(run.folder, run.settings.test_checkpoint)
    settings, num_classes = trained.settings, trained.task.num_classes
    case, ignored = _case(choice.case, settings.data, settings.test_part)
    volume = read_volume(
        case,
        ignore_label=ignored if settings.ignore_label is None else settings.ignore_label,
        spacing_mm=settings.spacing,
        normalize=partial(normalized_channels, settings=settings),
    ).with_sets(settings.sets)
    labels = known_labels(volume.labels, num_classes)
    across = settings.slice_axis if labels.ndim == 3 and settings.dims == 2 else None
    spacing_mm = volume.spacing_mm or (1.0,) * labels.ndim
    affine = data.read_labels(case.labels, spacing_mm=settings.spacing).affine
    view = choose_view(labels, spacing_mm, affine, across, None)
    prediction = label_map(trained.network, volume, settings).astype(np.int32)

    assert settings.map is not None
    expression = at_the_end(maps.parse(settings.map, files=False), settings.num_epochs)
    mapped, image, within = labels, volume.image, view
    if across is not None and settings.map_of != "volume":
        mapped = np.take(labels, view.index, axis=across)
        image = np.take(image, view.index, axis=1 + across)
        spacing_mm = tuple(mm for axis, mm in enumerate(spacing_mm) if axis != across)
        within = replace(view, axis=None)
    regions = Regions.single(mapped, num_classes, spacing_mm, NO_CLASS, image)
    probs = np.full((1, num_classes, *mapped.shape), 1 / num_classes, dtype=np.float32)
    channels = channels_of(expression(regions, None if expression.is_static else probs), within)
    return picture(
        choice,
        trained.task.class_names,
        view.cut(volume.image[0]),
        view.cut(labels),
        view.cut(prediction),
        channels,
        view,
    )


def _case(name: str, source: str, test_part: str) -> tuple[data.Case, int | None]:
    """A test case, of the split or of the test folder, and the ignore label of the dataset."""
    dataset = data.find(source)
    cases = {case.name: case for case in dataset.cases}
    there = all((Path(source) / part).is_dir() for part in ("imagesTs", "labelsTs"))
    if there and test_part != "split":
        cases |= {case.name: case for case in data.find(source, part="test").cases}
    if name not in cases:
        raise RWLossError(f"the dataset no longer has a case {name!r}")
    return cases[name], dataset.ignore_label


def picture(
    choice: Choice,
    names: tuple[str, ...],
    image: NDArray[Any],
    labels: NDArray[np.int32],
    prediction: NDArray[np.int32],
    channels: NDArray[np.float64],
    view: View,
) -> CasePicture:
    """Image, labels, prediction and the map's channels of a slice.

    All (rows columns), channels (k rows columns); labels are -1 where ignored.
    """
    rows, columns = labels.shape
    grey_of_ignored = np.array(ImageColor.getrgb(IGNORED)) / 255
    counted = labels >= 0
    ground = np.repeat(grey(image)[..., None], 3, axis=-1)
    limit = float(np.nanmax(np.abs(np.where(counted, channels, 0.0)))) or 1.0
    panels = [Panel("image", f"Image of {choice.case}", _png(ground))]
    for title, what, classes in (
        ("labels", "Labels of", labels),
        ("prediction", "Prediction for", prediction),
    ):
        counts = np.bincount(classes[classes >= 0], minlength=len(names))
        amounts = ", ".join(f"{name} {counts[k]} pixels" for k, name in enumerate(names) if k)
        text = f"{what} {choice.case}: {amounts}"
        panels.append(Panel(title, text, _png(tinted(classes, ground, len(names), _OPACITY))))
    for k in largest_classes(labels, len(names)):
        inside = channels[k][counted]
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
        covered = (counted & np.isfinite(channels[k]))[..., None]
        pixels = np.where(covered, diverging(channels[k] / limit), grey_of_ignored)
        title = f"map at {names[k]}"
        panels.append(Panel(title, f"M{title[1:]}, from {low:.3g} to {high:.3g}", _png(pixels), k))
    left_out = f"Map at {MAX_CLASSES} of {len(names)} classes: those with the most voxels."
    return CasePicture(
        choice=choice,
        panels=tuple(panels),
        proportion=columns * view.step_mm[1] / (rows * view.step_mm[0]),
        limit=limit,
        text=" ".join([view.text, *[left_out] * (len(names) > MAX_CLASSES)]).strip(),
    )


def _png(pixels: NDArray[np.float64]) -> str:
    """A data URI of (rows columns 3), of 0..1."""
    stream = io.BytesIO()
    Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(
        stream, format="png", optimize=True
    )
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
