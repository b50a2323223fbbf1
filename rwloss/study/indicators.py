"""What is known before training: static diagnostics of maps on the labels of a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rwloss import Regions, maps, stability
from rwloss._version import __version__
from rwloss.data import (
    Case,
    Dataset,
    LabelVolume,
    count_classes,
    find,
    read_case_image,
    read_channels,
    read_labels,
    without_label_sets,
)
from rwloss.data.formats import MAX_VOXELS
from rwloss.data.splits import SplitSettings
from rwloss.errors import RWLossError
from rwloss.files.journal import read_regular
from rwloss.losses.label_sets import LabelSets
from rwloss.precompute.cases import label_counts
from rwloss.regions import IGNORED
from rwloss.stability.pushes import full_probabilities, probabilities
from rwloss.study.plan import Study, runs

INFLUENCE = frozenset(SplitSettings.model_fields) | {
    "dims", "slice_axis", "map_of", "num_classes", "spacing", "ignore_label", "label_sets",
}  # fmt: skip
"""Settings that determine the indicators of a map."""

MAX_CASES = 32
"""Largest number of training cases to use; they are spaced evenly among all."""


@dataclass(frozen=True)
class Indicators:
    """Diagnostics of one map at uniform probabilities; see `rwloss.stability.StabilityReport`.

    promises_stable: every term is declared to obey the principle for any labels. pull,
    pull_exponent: of each foreground class; None where undefined. effective_weights: of the terms
    of a sum. fraction: of the voxels, for each foreground class.
    """

    promises_stable: bool
    violating: float
    pushed_up: float
    wrong_way_mass: float
    pull: Mapping[str, float | None]
    verdict: str
    pull_exponent: Mapping[str, float | None] = field(default_factory=dict)
    effective_weights: Mapping[str, float] = field(default_factory=dict)
    fraction: Mapping[str, float] = field(default_factory=dict)

    @property
    def least_pull(self) -> float | None:
        """The smallest pull ratio of a class."""
        return min((value for value in self.pull.values() if value is not None), default=None)

    @property
    def largest_exponent(self) -> float | None:
        """The largest pull exponent of a class, rounded to the accuracy of its measurement."""
        known = [round(value, 2) for value in self.pull_exponent.values() if value is not None]
        return max(known, default=None)


def indicators_of(study: Study, folder: Path) -> tuple[dict[str, Indicators], str]:
    """The indicators of a study in its folder, and why some are missing (else an empty text).

    Read from results.json if it has the same maps on the same data. Otherwise they are computed
    from the data; if the data are missing, those of unchanged maps in results.json are kept.
    """
    kept = _kept(study, folder)
    if kept.keys() == study.maps.keys():
        return kept, ""
    try:
        return indicators(study, folder), ""
    except RWLossError as error:
        return kept, str(error)


def _kept(study: Study, folder: Path) -> dict[str, Indicators]:
    """Those of unchanged maps; none if results.json is damaged or belongs to other data."""
    now = study.model_dump(mode="json")
    try:
        content = json.loads(read_regular(folder / "results.json"))
        before = content["study"]
        if any(before.get(name, {}) != now[name] for name in ("data", "training", "axes")):
            return {}
        found = TypeAdapter(dict[str, Indicators]).validate_python(content["indicators"])
        return {name: found[name] for name in found if before["maps"][name] == study.maps.get(name)}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def indicators(
    study: Study, folder: Path, note: Callable[[str], None] = lambda text: None
) -> dict[str, Indicators]:
    """The indicators of each map, on up to MAX_CASES training cases, as slices or volumes like in
    runs.

    folder: of the study; nothing is written. note: called with the notes of `prepare`, such as
    cases of one patient in several parts. Schedules are at their first epoch. With axes, the cases
    are those of the first run.
    Raises RWLossError if a run would, and for a map that cannot be made.
    """
    from rwloss.training import patch_sources, prepare

    # This comes first, because a study must not choose which Python files run.
    parsed = {name: maps.parse(text, files=False) for name, text in study.maps.items()}
    _check_splits(study, folder)
    prepared = prepare(next(runs(study, folder)).settings, note)
    settings, task = prepared.settings, prepared.task
    labels_of = [volume.labels[volume.labels >= 0] for volume in prepared.train]
    counts = np.sum([np.bincount(each, minlength=prepared.map_classes) for each in labels_of], 0)
    counts = counts[: task.num_classes]
    expressions = {name: each.resolved(counts.tolist()) for name, each in parsed.items()}
    reports: dict[str, stability.StabilityReport] = {}
    places = np.linspace(0, len(prepared.train) - 1, min(MAX_CASES, len(prepared.train)))
    for place in places.astype(int):
        dims = 3 if settings.map_of == "volume" else settings.dims
        sources = patch_sources([prepared.train[place]], dims=dims, slice_axis=settings.slice_axis)
        labels = np.stack([source.labels.numpy() for source in sources])
        labels[labels >= task.num_classes] = IGNORED  # label sets
        images = np.stack([source.image.numpy() for source in sources])
        regions = Regions(labels, task.num_classes, sources[0].spacing_mm, IGNORED, images)
        for name, expression in expressions.items():
            report = stability.check_expression(expression, regions)
            reports[name] = reports[name] + report if name in reports else report
    found, names = {}, task.class_names
    for name, report in reports.items():
        pull, exponent = (
            dict(zip(names[1:], map(_known, values[1:]), strict=True))
            for values in (report.pull, report.pull_exponent)
        )
        found[name] = Indicators(
            promises_stable=promises_stable(expressions[name]),
            violating=report.violating,
            pushed_up=report.pushed_up,
            wrong_way_mass=report.wrong_way_mass,
            pull=pull,
            verdict=stability.verdict(report, names, is_static=expressions[name].is_static),
            pull_exponent=exponent,
            effective_weights=report.effective_weights,
            fraction={
                name: part.voxels / max(1, report.total.voxels)
                for name, part in zip(names[1:], report.by_class[1:], strict=True)
            },
        )
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _check_splits(study: Study, folder: Path) -> None:
    """Raise RWLossError for values of an axis with which the cases cannot be split."""
    from rwloss.training.preparation import split_of, test_cases

    if study.axes:
        dataset = find(study.data)
        for settings in {str(run.values): run.settings for run in runs(study, folder)}.values():
            split_of(settings, dataset, test_cases(settings))


def promises_stable(expression: maps.Expression) -> bool:
    """Whether every term is tagged as stable, and none is subtracted.

    >>> [promises_stable(maps.parse(text)) for text in ("rectified", "rectified + dice")]
    [True, False]
    """
    leaves = expression.leaves(0, 2)
    return all(leaf.weight >= 0 and leaf.term.is_stable for leaf in leaves)


class Diagnosis:
    """The stability reports of maps over the added cases. No case stays in memory.

    reports: by the text of the map. failed: the reason by the name of the case. in_voxels: number
    of cases without a spacing, if a map has values in mm. maps_of: "volumes" or "slices", depending
    on the label files.
    """

    def __init__(
        self,
        dataset: Dataset,
        map_texts: list[str],
        *,
        num_classes: int | None = None,
        spacing_mm: tuple[float, ...] | None = None,
        ignore_label: int | None = None,
        label_sets: Mapping[Any, Sequence[int]] | None = None,
        probs: str = "uniform",
        seed: int = 0,
    ) -> None:
        """Parse the maps, and compute class weights of the dataset for those that need them.

        num_classes, ignore_label: by default those of the dataset. label_sets: labels that mean one
        of several classes; their voxels do not count. probs, seed: probabilities at which the
        gradient is computed; see `rwloss.stability.check_expression`.
        """
        self.sets = LabelSets.of(label_sets) if label_sets else None
        dataset = without_label_sets(dataset, self.sets)
        self.expressions = {text: maps.parse(text) for text in map_texts}
        self.dataset, self.spacing_mm, self.probs, self.seed = dataset, spacing_mm, probs, seed
        self.ignore_label = dataset.ignore_label if ignore_label is None else ignore_label
        seen: dict[int, int] | None = None
        needs_counts = any(each.needs_class_counts for each in self.expressions.values())
        is_known = num_classes is not None or dataset.num_classes is not None
        if needs_counts or (self.sets is not None and not is_known):
            seen = label_counts(dataset, MAX_VOXELS, jobs=0)
            if self.sets is not None:
                seen = {k: seen[k] for k in seen if k not in self.sets.labels}
                seen |= {k: seen.get(k, 0) for k in self.sets.members}
        self.num_classes = count_classes(
            dataset, num_classes, ignore_label=ignore_label, labels=None if is_known else seen
        )
        if self.sets is not None:
            self.sets.check_fit(self.num_classes, self.ignore_label)
        if seen is not None:
            counts = [
                0 if k == self.ignore_label else seen.get(k, 0) for k in range(self.num_classes)
            ]
            self.expressions = {t: each.resolved(counts) for t, each in self.expressions.items()}
        self.reports: dict[str, stability.StabilityReport] = {}
        self.failed: dict[str, str] = {}
        self.in_voxels = 0
        self.maps_of = "volumes"
        self._number = 0  # of the cases added, for their random probabilities
        self._worst: tuple[float, int, Case] | None = None

    def add(self, case: Case) -> bool:
        """Add one case to every report, or to none if it fails. Returns whether it was added."""
        number, self._number = self._number, self._number + 1
        try:
            volume, regions = self._read(case)
            found = {
                text: stability.check_expression(
                    expression, regions, self.probs, seed=self.seed, first_image=number
                )
                for text, expression in self.expressions.items()
            }
        except Exception as error:  # a plug-in may raise anything; the other cases continue
            known = isinstance(error, RWLossError)
            self.failed[case.name] = str(error) if known else f"{type(error).__name__}: {error}"
            return False
        self.reports = {
            text: self.reports[text] + report if self.reports else report
            for text, report in found.items()
        }
        self.maps_of = "volumes" if regions.labels.ndim > 3 else "slices"
        has_mm = any(each.has_mm for each in self.expressions.values())
        self.in_voxels += has_mm and volume.spacing_mm is None
        wrong = sum(report.wrong_way_mass for report in found.values())
        if self._worst is None or wrong > self._worst[0]:
            self._worst = wrong, number, case
        return True

    def verdicts(self) -> dict[str, str]:
        """A sentence per map."""
        return {
            text: stability.verdict(
                report,
                self.dataset.class_names,
                probs=self.probs,
                is_static=self.expressions[text].is_static,
            )
            for text, report in self.reports.items()
        }

    def as_fields(self, source: str) -> dict[str, Any]:
        """All numbers, as `rwloss check --json` prints them. source: path of the dataset."""
        verdicts = self.verdicts()
        return {
            "rwloss": __version__,
            "data": source,
            "maps_of": self.maps_of,
            "probabilities": self.probs,
            "seed": self.seed,
            "num_classes": self.num_classes,
            "failed": self.failed,
            "maps": {
                text: {
                    "is_static": self.expressions[text].is_static,
                    **report.figures(self.dataset.class_names),
                    "verdict": verdicts[text],
                }
                for text, report in self.reports.items()
            },
            "caution": stability.CAUTION,
        }

    def draw(self, output: Path) -> None:
        """A picture of the case in which the largest share of the push goes the wrong way."""
        from rwloss.pictures.draw import draw_wrong_pushes

        assert self._worst is not None
        _, number, case = self._worst
        volume, regions = self._read(case)
        labels, k = regions.labels, regions.num_classes
        given = probabilities(self.probs, labels, k, seed=self.seed, first_image=number)
        draw_wrong_pushes(
            labels[0],
            {
                text: expression(
                    regions,
                    None if expression.is_static else full_probabilities(given, labels, k),
                )
                for text, expression in self.expressions.items()
            },
            output,
            given=given,
            probs=self.probs,
            image=read_channels(case.images[:1])[0].values if case.images else None,
            class_names=self.dataset.class_names,
            spacing_mm=volume.spacing_mm,
            affine=volume.affine,
            title=case.name,
        )

    def _read(self, case: Case) -> tuple[LabelVolume, Regions]:
        volume, image = read_labels(case.labels, spacing_mm=self.spacing_mm), None
        if any(expression.uses_image for expression in self.expressions.values()):
            image = read_case_image(case, volume.labels.shape)
        labels, ignored = volume.labels, self.ignore_label
        if self.sets is not None:
            labels = self.sets.renumbered(labels, self.num_classes, ignored)
            labels[labels >= self.num_classes] = ignored = IGNORED  # no class is known there
        return volume, Regions.single(labels, self.num_classes, volume.spacing_mm, ignored, image)
