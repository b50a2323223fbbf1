"""From settings and files to what the loop needs; whatever is wrong with them is said here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rwloss import data, maps, store
from rwloss.data.splits import Split, split
from rwloss.errors import RWLossError
from rwloss.training import items
from rwloss.training.augment import Augmentation
from rwloss.training.checkpoint import Task
from rwloss.training.settings import RunSettings
from rwloss.training.unet import PRESETS
from rwloss.training.volumes import Volume, read
from rwloss.words import some

LARGEST_PATCH = {2: 256, 3: 64}
"""Voxels an axis of the default patch, at most, by dimensions."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data in memory and settings without gaps: what follows from the data is filled in.

    maps: the store that the maps come from, if any. test: cases that were read once, to see that
    they can be; they are read again for the test.
    """

    settings: RunSettings
    split: Split
    task: Task
    train: tuple[Volume, ...]
    validation: tuple[Volume, ...]
    test: tuple[data.Case, ...]
    ignore_label: int | None
    maps: store.Store | None
    augmentation: Augmentation

    def read(self, case: data.Case) -> Volume:
        """A case of the data set."""
        return read(case, ignore_label=self.ignore_label, spacing_mm=self.settings.spacing)


def prepare(settings: RunSettings, note: Callable[[str], None] = lambda text: None) -> Prepared:
    """Read all cases and check them against the settings.

    note: told in words what is done otherwise than asked.

    Raises RWLossError for everything that would stop the training later: files that are missing or
    can't be read, cases that differ in channels or axes, labels beyond the classes, classes that no
    training case has, maps of other labels, and settings that don't fit the data.
    """
    maps_of = None if settings.maps is None else store.open(settings.maps)
    expression = _expression(settings, maps_of)
    dataset = data.find(settings.data)
    tests = test_cases(settings)
    parts = split(
        [case.name for case in dataset.cases],
        settings,
        test_names=None if tests is None else [case.name for case in tests],
    )
    cases = {case.name: case for case in (*dataset.cases, *(tests or ()))}
    _check_images(settings.data, list(cases.values()))
    ignored = dataset.ignore_label if settings.ignore_label is None else settings.ignore_label
    volumes = {
        name: read(cases[name], ignore_label=ignored, spacing_mm=settings.spacing)
        for name in (*parts.train, *parts.validation)
    }
    largest = {name: int(volume.labels.max()) for name, volume in volumes.items()}
    digests = {name: volume.digest for name, volume in volumes.items()}
    misplaced = [volume for volume in volumes.values() if _is_misplaced(volume)]
    like = volumes[parts.train[0]]
    for volume in volumes.values():
        _check_alike(volume, like)
    for name in parts.test:  # read and dropped: an error now is better than after the training
        volume = read(cases[name], ignore_label=ignored, spacing_mm=settings.spacing)
        _check_alike(volume, like)
        largest[name], digests[name] = int(volume.labels.max()), volume.digest
        if _is_misplaced(volume):
            misplaced.append(volume)
    if misplaced:
        largest_mm = max(volume.misplaced_mm for volume in misplaced)
        note(
            f"the files of image and labels place the same voxel up to {largest_mm:.3g} mm apart "
            f"in {len(misplaced)} of {len(largest)} cases "
            f"({some(sorted(volume.name for volume in misplaced))}): voxels are matched as they "
            "lie in the files; if they should not be, mend the headers or resample"
        )
    num_classes = data.count_classes(
        dataset, settings.num_classes, ignore_label=ignored, labels=largest.values()
    )
    for name, label in largest.items():
        if label >= num_classes:
            raise RWLossError(
                f"case {name!r} holds the label {label}, and there are {num_classes} classes: "
                f"store them as 0 to {num_classes - 1} (the 255 of a mask as 1), pass "
                f"--num-classes, or --ignore-label {label} if it is none"
            )
    train = [volumes[name] for name in parts.train]
    names = tuple(
        dataset.class_names[k] if k < len(dataset.class_names) else f"class {k}"
        for k in range(num_classes)
    )
    counts = _class_counts(train, names)
    if expression.needs_class_counts:
        expression = expression.resolved(counts)
    _check_store(settings, maps_of, expression)
    settings = _filled(settings, train, num_classes, expression, note)
    return Prepared(
        settings=settings,
        split=replace(parts, digests=digests),
        task=Task(len(like.image), num_classes, names),
        train=tuple(train),
        validation=tuple(volumes[name] for name in parts.validation),
        test=tuple(cases[name] for name in parts.test),
        ignore_label=ignored,
        maps=maps_of,
        augmentation=augmentation(settings, train, note),
    )


def augmentation(
    settings: RunSettings,
    volumes: Sequence[Volume],
    note: Callable[[str], None] = lambda text: None,
) -> Augmentation:
    """What can be done to patches of these volumes.

    Turns are between axes of one spacing (within 1 %) and of one length of the patch alone.
    """
    assert settings.patch_size is not None
    axes = volumes[0].labels.ndim
    kept = [a for a in range(axes) if not (axes == 3 and a == settings.slice_axis)]
    place = {axis: index - len(kept) for index, axis in enumerate(kept)}  # from the end
    spacings = [volume.spacing_mm or (1.0,) * axes for volume in volumes]
    planes = [
        (place[first], place[second])
        for index, first in enumerate(kept)
        for second in kept[index + 1 :]
        if settings.patch_size[place[first]] == settings.patch_size[place[second]]
        and all(abs(row[first] / row[second] - 1) < 0.01 for row in spacings)
    ]
    if settings.turn and not planes:
        note(
            f"no turns: patches of {settings.patch_size} voxels have no two axes of one length and "
            "one spacing"
        )
    flip_axes = kept if settings.flip_axes is None else settings.flip_axes
    if settings.flip and (without := [axis for axis in flip_axes if axis not in place]):
        note(f"no flips of axis {', '.join(map(str, without))}: patches have the axes {kept}")
    return Augmentation(
        flip=settings.flip,
        flip_axes=tuple(place[axis] for axis in flip_axes if axis in place),
        turn=settings.turn,
        planes=tuple(planes),
        zoom=settings.zoom,
        intensity=settings.intensity,
    )


def test_cases(settings: RunSettings) -> tuple[data.Case, ...] | None:
    """The cases of imagesTs and labelsTs; None where the test part is drawn from the others."""
    there = all((Path(settings.data) / name).is_dir() for name in ("imagesTs", "labelsTs"))
    if settings.test_part == "split" or (settings.test_part == "auto" and not there):
        return None
    if not there:
        raise RWLossError(
            f"--test-part folder takes imagesTs and labelsTs, and {settings.data!r} has not both: "
            "add them, or draw the test cases from the others with --test-part split"
        )
    return data.find(settings.data, part="test").cases


def _check_images(where: str, cases: Sequence[data.Case]) -> None:
    """Before any file is read. Raises RWLossError where images are missing, all in one."""
    without = [case.name for case in cases if not case.images]
    if not without:
        return
    if len(without) == len(cases):
        raise RWLossError(
            f"{where!r} has {len(cases)} label files and no images: training needs an nnU-Net raw "
            "folder, with dataset.json, imagesTr/CASE_0000.ext and labelsTr/CASE.ext"
        )
    raise RWLossError(
        f"no image for {len(without)} of {len(cases)} cases: {some(without)}; add "
        f"{without[0]}_0000 to the images, a file for each channel, or remove the labels"
    )


def _is_misplaced(volume: Volume) -> bool:
    """Beyond what headers of one image differ by in their rounding: a tenth of a voxel."""
    return volume.misplaced_mm > 0.1 * min(volume.spacing_mm or (np.inf,))


def _check_alike(volume: Volume, like: Volume) -> None:
    if len(volume.image) != len(like.image):
        raise RWLossError(
            f"case {volume.name!r} has {len(volume.image)} channels, {like.name!r} has "
            f"{len(like.image)}: a network needs the same ones in every case; name them in "
            "dataset.json (channel_names), and add or remove files"
        )
    if volume.labels.ndim != like.labels.ndim:
        raise RWLossError(
            f"case {volume.name!r} has {volume.labels.ndim} axes, {like.name!r} has "
            f"{like.labels.ndim}: train on one kind at a time"
        )


def _class_counts(volumes: Sequence[Volume], names: Sequence[str]) -> list[int]:
    """Voxels of each class in the training cases. Raises RWLossError where a class has none."""
    counts = np.zeros(len(names), dtype=np.int64)
    for volume in volumes:
        found = np.bincount(volume.labels[volume.labels >= 0], minlength=len(names))
        counts += found
    if absent := [f"{k} ({names[k]})" for k, count in enumerate(counts) if count == 0]:
        raise RWLossError(
            f"class {', '.join(absent)} is in no training case: a network can't learn it. Choose "
            "another split (--split-seed) if other cases have it; if none has, take it out of the "
            "data set, or out of the end of it with --num-classes"
        )
    return [int(count) for count in counts]


def _expression(settings: RunSettings, maps_of: store.Store | None) -> maps.Expression:
    """The map, before any case is read."""
    if settings.map is None and maps_of is None:
        raise RWLossError(
            "which map? Give --map, such as --map 'rectified + dice', or --maps STORE"
        )
    return maps.parse(settings.map or (maps_of.expression if maps_of else ""))


def _check_store(
    settings: RunSettings, maps_of: store.Store | None, expression: maps.Expression
) -> None:
    """Raise RWLossError where a store holds other maps than the static part of the expression."""
    if maps_of is None:
        return
    part = expression.static_part
    if part is None or str(part) != str(maps.parse(maps_of.expression)):
        raise RWLossError(
            f"the store {settings.maps!r} holds the map {maps_of.expression!r}, and the static "
            f"part of {str(expression)!r} is {str(part)!r}: precompute that, or leave --maps out"
        )


def _filled(
    settings: RunSettings,
    train: Sequence[Volume],
    num_classes: int,
    expression: maps.Expression,
    note: Callable[[str], None],
) -> RunSettings:
    """Settings with what follows from the data."""
    axes = train[0].labels.ndim
    if settings.dims == 3 and axes == 2:
        raise RWLossError("the images have 2 axes: train on them with --dims 2")
    slice_axis = None
    if settings.dims == 2 and axes == 3:
        slice_axis = (
            items.slice_axis_of(train) if settings.slice_axis is None else settings.slice_axis
        )
    lengths = [
        max(volume.labels.shape[axis] for volume in train)
        for axis in range(axes)
        if axis != slice_axis
    ]
    multiple_of = PRESETS[settings.preset].multiple_of
    size = settings.patch_size or tuple(
        _rounded_up(min(length, LARGEST_PATCH[settings.dims]), multiple_of) for length in lengths
    )
    # Normalising over the voxels of an image takes two of them, at the coarsest level too.
    if settings.patch_size is None and max(size) == multiple_of:
        size = (2 * multiple_of,) * settings.dims
    if (
        len(size) != settings.dims
        or any(length % multiple_of for length in size)
        or max(size) == multiple_of
    ):
        raise RWLossError(
            f"expected --patch-size as {settings.dims} multiples of {multiple_of} (the network "
            f"{settings.preset!r} halves them again and again), one of them {2 * multiple_of} or "
            f"more, got {','.join(map(str, size))}"
        )
    if axes == 2 and settings.slice_axis is not None:
        note("no slice axis: the images have 2 axes")
    zoom = settings.zoom
    if zoom and settings.maps is not None:
        note("no zoom: stored maps follow flips, turns and crops alone")
        zoom = 0.0
    return settings.model_copy(
        update={
            "map": str(expression),
            "num_classes": num_classes,
            "slice_axis": slice_axis,
            "patch_size": tuple(size),
            "zoom": zoom,
        }
    )


def _rounded_up(length: int, multiple_of: int) -> int:
    return -(-length // multiple_of) * multiple_of
