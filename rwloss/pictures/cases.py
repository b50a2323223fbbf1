"""Load a case to draw: a label file with newly computed maps, or a case of a store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import data, maps
from rwloss.data import Dataset
from rwloss.errors import RWLossError
from rwloss.pictures.draw import draw
from rwloss.pictures.panels import Scale
from rwloss.regions import Regions
from rwloss.rwmap import RWMap
from rwloss.stability.pushes import full_probabilities
from rwloss.store import Store
from rwloss.store.manifest import last_start
from rwloss.words import length_unit, nearest

_LABEL_FOLDERS = {"labelsTr": "train", "labelsTs": "test"}


@dataclass(frozen=True, eq=False)
class CaseDrawing:
    """The data of a picture, before slicing. labels (*s); rwmaps and units by the text of their
    row.

    image: the file of the first channel, if it was found.
    """

    title: str
    labels: NDArray[Any]
    rwmaps: dict[str, RWMap]
    units: dict[str, str]
    class_names: tuple[str, ...]
    spacing_mm: tuple[float, ...] | None
    affine: NDArray[Any] | None
    image: Path | None
    note: str = ""

    def draw(
        self,
        out: Path,
        *,
        image: Path | None = None,
        axis: int | None = None,
        slice_index: int | None = None,
        scale: Scale = "linear",
    ) -> None:
        """Draw it. image: replaces the image that was found. See `rwloss.pictures.draw`."""
        image = image or self.image
        channels = [] if image is None else data.read_channels([image])
        grey = np.mean([channel.values for channel in channels], axis=0) if channels else None
        given = vars(self) | {"image": grey}
        draw(path=out, axis=axis, slice_index=slice_index, scale=scale, **given)


def of_labels(
    label_file: Path,
    map_texts: Sequence[str],
    *,
    num_classes: int | None = None,
    spacing_mm: tuple[float, ...] | None = None,
    ignore_label: int | None = None,
) -> CaseDrawing:
    """A label file with newly computed maps; those of dynamic terms at uniform probabilities.

    Raises RWLossError for what is wrong with them.
    """
    generators = {text: maps.parse(text) for text in map_texts}
    dataset = _dataset_of(label_file)
    [case] = dataset.cases
    volume, image = data.read_labels(case.labels, spacing_mm=spacing_mm), None
    if any(generator.uses_image for generator in generators.values()):
        image = data.read_case_image(case, volume.labels.shape)
    regions = Regions.single(
        volume.labels,
        data.count_classes(dataset, num_classes, ignore_label=ignore_label),
        volume.spacing_mm,
        dataset.ignore_label if ignore_label is None else ignore_label,
        image,
    )
    dynamic = [text for text, generator in generators.items() if not generator.is_static]
    uniform = full_probabilities(None, regions.labels, regions.num_classes) if dynamic else None
    return CaseDrawing(
        title=case.name,
        labels=regions.labels[0],
        rwmaps={
            text: generator(regions, uniform if text in dynamic else None)
            for text, generator in generators.items()
        },
        units={
            text: _said(generator.unit, volume.spacing_mm is not None)
            for text, generator in generators.items()
        },
        class_names=dataset.class_names,
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        image=next(iter(case.images), None),
        note="Maps that depend on the prediction use uniform probabilities." if dynamic else "",
    )


def of_store(stored: Store, name: str | None = None) -> CaseDrawing:
    """A case of a store, by default its first, with its stored map.

    Raises RWLossError where it has none.
    """
    if not stored:
        raise RWLossError(f"{str(stored.place)!r} holds no map yet: `rwloss precompute` makes them")
    name = next(iter(stored)) if name is None else name
    if name not in stored:
        raise RWLossError(f"{str(stored.place)!r} has no case {name!r}{nearest(name, stored)}")
    text, rwmap = stored.expression, stored[name]
    spacing_mm = stored.spacing_mm(name)
    image = affine = None
    in_mm = True if set(spacing_mm) != {1.0} else None  # 1 is written for an unknown spacing too
    with suppress(RWLossError):  # the dataset of the newest run, if it is still there
        for each in data.find(str(last_start(stored.place).get("source"))).cases:
            if each.name == name:
                image = next(iter(each.images), None)
                volume = data.read_labels(each.labels, spacing_mm=stored.info.spacing_mm)
                affine, in_mm = volume.affine, volume.spacing_mm is not None
    unit = ""  # unknown where the plug-in is not here, or its file would have to be run
    with suppress(RWLossError):
        unit = _said(maps.parse(text, files=False).unit, in_mm)
    return CaseDrawing(
        title=f"{name}, as stored",
        labels=rwmap.labels[0],
        rwmaps={text: rwmap},
        units={text: unit},
        class_names=stored.info.class_names,
        spacing_mm=spacing_mm,
        affine=affine,
        image=image,
    )


def _said(unit: str, in_mm: bool | None) -> str:
    """The unit of values: voxels instead of mm if there is no spacing. None: unknown.

    >>> _said("1/mm", True), _said("mm^2", False), _said("mm", None)
    ('1/mm', 'voxels^2', 'mm or voxels')
    """
    return unit.replace("mm", length_unit([True, False] if in_mm is None else [in_mm]))


def _dataset_of(label_file: Path) -> Dataset:
    """The case of this label file, with the classes of its dataset.json."""
    if not label_file.is_file():
        found = "is a folder" if label_file.is_dir() else "is not there"
        raise RWLossError(
            f"{str(label_file)!r} {found}: expected one label file, such as a file of labelsTr, or "
            "a store of maps"
        )
    root, part = label_file.parent.parent, _LABEL_FOLDERS.get(label_file.parent.name)
    if part is not None and (root / "dataset.json").is_file():
        dataset = data.find(root, part="test" if part == "test" else "train")
        for case in dataset.cases:
            if case.labels.resolve() == label_file.resolve():
                return replace(dataset, cases=(case,))
    return data.find(label_file)
