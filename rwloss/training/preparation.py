"""Prepare settings and data for training; every problem is found before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from rwloss import data, maps, store
from rwloss.data.classes import labels_in
from rwloss.data.patients import leaked
from rwloss.data.splits import Split, split
from rwloss.errors import RWLossError
from rwloss.losses.label_sets import LabelSets
from rwloss.regions import IGNORED, Regions
from rwloss.rwmap import RWMap
from rwloss.store.manifest import terms_of
from rwloss.training.architectures import check_outputs, network_class
from rwloss.training.augment import Augmentation, augmentation_of
from rwloss.training.completion import Note, completed, with_ct_window
from rwloss.training.dataset_checks import (
    check_alike,
    check_images,
    count_classes,
    regions_note,
)
from rwloss.training.network import SegmentationTask
from rwloss.training.normalization import normalized_channels
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import (
    TrainingVolume,
    read_volume,
    stacked,
    unstacked,
)
from rwloss.words import class_names, some


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """Data in memory, and settings completed with values derived from the data.

    expression: the map of the loss. maps: the store of precomputed maps, if any. test: the test
    cases; they have been read once, to check them, and are read again for the test. train,
    validation: the volumes of these cases. augmentation: of each patch.
    """

    settings: RunSettings
    split: Split
    task: SegmentationTask
    expression: maps.Expression
    train: tuple[TrainingVolume, ...]
    validation: tuple[TrainingVolume, ...]
    test: tuple[data.Case, ...]
    ignore_label: int | None
    maps: store.Store | None
    augmentation: Augmentation

    def read(self, case: data.Case) -> TrainingVolume:
        """A case of the dataset; voxels of label sets are ignored."""
        volume = read_volume(
            case,
            ignore_label=self.ignore_label,
            spacing_mm=self.settings.spacing,
            normalize=partial(normalized_channels, settings=self.settings),
        )
        return volume.with_sets(self.settings.sets)

    def for_run(
        self, settings: RunSettings, note: Note = lambda text: None, *, files: bool = True
    ) -> PreparedRun:
        """The same data for a run with a different seed, map, learning rate or folder; reads no
        file.

        files, note: as for `prepare`, which may have had no store of maps.
        """
        assert self.maps is None
        assert settings.map is not None
        expression = maps.parse(settings.map, files=files)
        if settings.sets is not None:
            settings.sets.check_terms(expression)
        if expression.needs_class_counts:
            num_sets = len(settings.label_sets)
            counts = _class_counts(self.train, self.task.class_names, num_sets)
            expression = expression.resolved(counts)
        settings = settings.model_copy(update={"ct_window": self.settings.ct_window})
        settings = completed(settings, self.train, self.task.num_classes, expression, note)
        augmentation = augmentation_of(settings, self.train, note)
        return replace(self, settings=settings, expression=expression, augmentation=augmentation)

    def whole_maps(self) -> Mapping[str, RWMap] | None:
        """Maps of the training cases by name, (1 *s): stored ones, or made now.

        With map_of "slice", each slice of a volume has its own map. None if the loss makes the map
        of each patch.
        """
        settings = self.settings
        if self.maps is not None or settings.map_of == "patch":
            return self.maps
        if (static := self.expression.static_part) is None:
            return None
        across = settings.slice_axis if settings.map_of == "slice" else None
        return {
            each.name: _whole_map(static, each, self.map_classes, across) for each in self.train
        }

    @property
    def map_classes(self) -> int:
        """Classes of maps and of the labels of training cases: those of the network, then sets."""
        return self.task.num_classes + len(self.settings.label_sets)


def prepare(
    settings: RunSettings, note: Note = lambda text: None, *, files: bool = True
) -> PreparedRun:
    """Read all cases and check them against the settings.

    note: called with a sentence for each setting that cannot be used as given, and for anything
    left out or doubtful in the data. files: whether settings.map and settings.network may name
    Python code, which is run; False for settings that the user did not type, whose code must have
    been loaded before. A store's map never runs a file, unless settings.map names the same file.

    Raises RWLossError for everything that would stop the run later: missing or unreadable files,
    cases that differ in channels or axes, labels out of range, classes that no training case has,
    maps of other labels, and settings that don't fit the data.
    """
    if settings.map is None and settings.maps is None:
        raise RWLossError("no map: give --map, such as --map 'rectified + dice', or --maps STORE")
    network_class(settings.network, files=files)
    typed = None if settings.map is None else maps.parse(settings.map, files=files)
    maps_of = _opened(settings, typed)
    # After the user's own map, so that a file that it names is already known.
    stored = None if maps_of is None else maps.parse(maps_of.expression, files=False)
    expression = cast("maps.Expression", typed or stored)
    sets = settings.sets
    if sets is not None:
        sets.check_terms(expression)
    dataset = data.without_label_sets(data.find(settings.data), sets)
    tests = test_cases(settings)
    parts = split_of(settings, dataset, tests)
    cases = {case.name: case for case in (*dataset.cases, *(tests or ()))}
    for doubt in filter(None, (dataset.doubts, regions_note(dataset), leaked(parts, settings))):
        note(doubt)
    check_images(settings.data, list(cases.values()))
    if settings.learning_rate_schedule == "plateau" and not parts.validation:
        raise RWLossError(
            "--learning-rate-schedule plateau follows the score on validation cases, and there are "
            "none: give --validation-fraction or --folds, or use another schedule"
        )
    ignored = dataset.ignore_label if settings.ignore_label is None else settings.ignore_label
    settings = with_ct_window(
        settings, [cases[name] for name in parts.train], dataset.num_channels, ignored, note
    )
    volumes: dict[str, TrainingVolume] = {}
    digests: dict[str, str] = {}
    found: dict[str, set[int]] = {}
    misplaced_mm: dict[str, float] = {}
    for name in (*parts.train, *parts.validation, *parts.test):
        volume = read_volume(
            cases[name],
            num_channels=dataset.num_channels,
            ignore_label=ignored,
            spacing_mm=settings.spacing,
            normalize=partial(normalized_channels, settings=settings),
            digest_image=maps_of is not None and maps_of.info.uses_image,
        )
        check_alike(volume, volumes.get(parts.train[0], volume))
        digests[name], found[name] = volume.digest, labels_in(volume.labels)
        # Programs round the headers of one image differently, by less than a tenth of a voxel.
        spacing_mm = np.array(volume.spacing_mm or (np.inf,) * volume.labels.ndim)
        shortest_mm = spacing_mm.min(where=np.array(volume.labels.shape) > 1, initial=np.inf)
        if volume.misplaced_mm > 0.1 * shortest_mm:
            misplaced_mm[name] = volume.misplaced_mm
        if name not in parts.test:  # these are only checked: better an error now than at the end
            volumes[name] = volume
    if misplaced_mm:
        note(
            "the files of image and labels place the same voxel up to "
            f"{max(misplaced_mm.values()):.3g} mm apart in {len(misplaced_mm)} of {len(digests)} "
            f"cases ({some(sorted(misplaced_mm))}): voxels are matched by their index in the "
            "files; if that is wrong, fix the headers or resample"
        )
    num_classes = count_classes(dataset, settings, ignored, found)
    train = [volumes[name].with_sets(sets, num_classes) for name in parts.train]
    names = class_names(num_classes, dataset.class_names)
    counts = _class_counts(train, names, len(settings.label_sets))
    if expression.needs_class_counts:
        expression = expression.resolved(counts)
    if maps_of is not None:
        _check_store(maps_of, expression, str(stored), num_classes, sets, train)
    settings = completed(settings, train, num_classes, expression, note)
    if settings.network != "UNet" or settings.network_options:
        check_outputs(settings, len(train[0].image), num_classes)
    return PreparedRun(
        settings=settings,
        split=replace(parts, digests=digests),
        task=SegmentationTask(len(train[0].image), num_classes, names),
        expression=expression,
        train=tuple(train),
        validation=tuple(volumes[name].with_sets(sets) for name in parts.validation),
        test=tuple(cases[name] for name in parts.test),
        ignore_label=ignored,
        maps=maps_of,
        augmentation=augmentation_of(settings, train, note),
    )


def _whole_map(
    static: maps.Expression, volume: TrainingVolume, num_classes: int, across: int | None
) -> RWMap:
    """The map of a volume, or of each of its slices along an axis, (1 *s)."""
    axes, spacing_mm = volume.labels.ndim, volume.spacing_mm or (1.0,) * volume.labels.ndim
    if across is None:
        return static(Regions.single(volume.labels, num_classes, spacing_mm, IGNORED, volume.image))
    within = spacing_mm[:across] + spacing_mm[across + 1 :]
    slices = stacked(volume.labels, axes, across)
    images = stacked(volume.image, axes, across) if static.uses_image else None
    made = static(Regions(slices, num_classes, within, IGNORED, images))
    # From (n ... h w) to (1 ... *s).
    parts = [unstacked(np.asarray(part), axes, across)[None] for part in made.parts]
    return RWMap(volume.labels[None], num_classes, tuple(parts))


def _opened(settings: RunSettings, expression: maps.Expression | None) -> store.Store | None:
    """The store of settings.maps; for another program's maps, the expression states their kind."""
    if settings.maps is None:
        return None
    static = None if expression is None else expression.static_part
    return store.open(settings.maps, None if static is None else str(static), settings.spacing)


def _check_store(
    maps_of: store.Store,
    expression: maps.Expression,
    stored: str,
    num_classes: int,
    sets: LabelSets | None,
    train: Sequence[TrainingVolume],
) -> None:
    """Raise RWLossError unless the store holds the static part of the map for these cases.

    Uses the same identity as precompute and verify: the terms with all parameters and the versions
    of plug-ins, and each case's labels, spacing and affine.
    """
    static, where = expression.static_part, f"the store {str(maps_of.place)!r}"
    fix = "precompute it again, or leave --maps out"
    elsewhere = "precompute it again into another folder, or leave --maps out"
    if static is None or not maps.is_same(stored, str(static)):
        raise RWLossError(
            f"{where} holds the map {stored!r}, and the static part of {str(expression)!r} is "
            f"{str(static)!r}: {elsewhere}"
        )
    terms = terms_of(static) if maps_of.info.terms else ()  # a store without them says less
    of_sets = {} if sets is None else sets.as_table()
    now = maps_of.info.model_copy(
        update={
            "terms": terms,
            "num_classes": num_classes + len(of_sets),
            "label_sets": of_sets,
        }
    )
    if different := maps_of.info.difference(now):
        raise RWLossError(
            f"{where} holds the map of another version of {stored!r}, with "
            f"{'; '.join(different)}: {elsewhere}"
        )
    for volume in train:
        if volume.name not in maps_of:
            raise RWLossError(f"no map of case {volume.name!r} in {where}: {fix}")
        spacing_mm = volume.spacing_mm or (1.0,) * volume.labels.ndim
        try:
            maps_of.check_made_of(volume.name, volume.labels, spacing_mm, volume.labels_sha256)
        except RWLossError as error:
            raise RWLossError(f"{error}: {fix}") from error


def split_of(
    settings: RunSettings, dataset: data.Dataset, tests: Sequence[data.Case] | None
) -> Split:
    """The split of a dataset. tests: the result of `test_cases`."""
    return split(
        [case.name for case in dataset.cases],
        settings,
        test_names=None if tests is None else [case.name for case in tests],
    )


def test_cases(settings: RunSettings) -> tuple[data.Case, ...] | None:
    """The cases of imagesTs and labelsTs; None if the test cases are drawn from the others."""
    exists = all((Path(settings.data) / name).is_dir() for name in ("imagesTs", "labelsTs"))
    if settings.test_part == "split" or (settings.test_part == "auto" and not exists):
        return None
    if not exists:
        raise RWLossError(
            f"--test-part folder needs imagesTs and labelsTs, and {settings.data!r} does not have "
            "both: add them, or draw the test cases from the others with --test-part split"
        )
    return data.find(settings.data, part="test").cases


def _class_counts(
    volumes: Sequence[TrainingVolume], names: Sequence[str], num_sets: int
) -> list[int]:
    """Voxels of each class, then of each label set, in the training cases.

    Raises RWLossError if a class has none.
    """
    channels = len(names) + num_sets
    counts = sum(
        np.bincount(volume.labels[volume.labels >= 0], minlength=channels) for volume in volumes
    )
    found: list[int] = np.asarray(counts).tolist()
    if absent := [f"{k} ({names[k]})" for k in range(len(names)) if found[k] == 0]:
        raise RWLossError(
            f"class {', '.join(absent[:5])}{', ...' * (len(absent) > 5)} is in no training case, "
            "so a network can't learn it. Choose another split (--split-seed) if other cases have "
            "it; otherwise remove it from the dataset, or, if it is the last class, with "
            "--num-classes"
        )
    return found
