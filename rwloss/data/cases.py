"""Finding the cases of a dataset: an nnU-Net folder, a folder or glob of label files, one file."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from rwloss.data.dataset_json import MAX_CLASSES, CaseFiles, read_dataset_json
from rwloss.data.formats import case_name, read_labels
from rwloss.data.listing import by_case, channel_of, files_in, is_data, matches, nothing_in
from rwloss.errors import RWLossError

DatasetPart = Literal["train", "test"]

_FOLDER_ENDS = {"train": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class Case:
    """One case: its name, its label file, and its image files in channel order (maybe none)."""

    name: str
    labels: Path
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Cases sorted by name, and what dataset.json says about their classes.

    num_classes: None without dataset.json; see `count_classes`.
    class_names: one per class, or none without dataset.json.
    """

    root: Path
    cases: tuple[Case, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None


def find(source: str | Path, *, part: DatasetPart = "train") -> Dataset:
    """The cases of an nnU-Net raw folder, a folder of label files, a glob pattern or one file.

    A folder with a dataset.json is read as nnU-Net does: labelsTr/CASE.ext and, if there are
    any, imagesTr/CASE_0000.ext, CASE_0001.ext, ... (the Decathlon's imagesTr/CASE.ext too);
    without labelsTr, label files of the folder itself count, as in a folder of predictions.
    part: "test" takes labelsTs and imagesTs of an nnU-Net folder.

    Raises RWLossError for a path that does not exist, no label files, two files of one case name,
    missing channels, or a dataset.json that is not valid or names files outside its folder.

    >>> from rwloss.data import sample_dir
    >>> dataset = find(sample_dir("hippocampus"))
    >>> len(dataset.cases), dataset.num_classes, dataset.class_names
    (24, 3, ('background', 'anterior', 'posterior'))
    """
    if part not in _FOLDER_ENDS:
        raise RWLossError(f"expected part 'train' or 'test', got {part!r}")
    path = Path(source)
    try:
        if path.is_dir():
            # A broken link is not the same as no file.
            if os.path.lexists(path / "dataset.json"):
                return _find_nnunet(path, part)
            if part == "test":
                raise RWLossError(f"part 'test' needs a dataset.json, and {str(path)!r} has none")
            return _from_files(path, files_in(path))
        if path.exists():
            return Dataset(path.parent, (Case(case_name(path), path),))
        if glob.has_magic(str(source)):
            root = Path(*takewhile(lambda name: not glob.has_magic(name), path.parts))
            return _from_files(root, filter(is_data, set(matches(path))), str(source))
        if path.is_symlink():
            raise RWLossError(f"{str(source)!r} is a broken link")
    except OSError as exc:  # no permission, too long a name
        raise RWLossError(f"cannot look into {str(source)!r}: {exc.strerror}") from exc
    raise RWLossError(f"there is no file or folder {str(source)!r}")


def count_classes(
    dataset: Dataset,
    num_classes: int | None = None,
    *,
    ignore_label: int | None = None,
    labels: Iterable[int] | None = None,
) -> int:
    """The number of classes: as given, else as in dataset.json, else the largest label + 1.

    Every file is read for this, so that a case in which the last class is absent gets as many
    channels as the others.
    ignore_label: a label that is not a class; by default the dataset's own. labels: all that occur
    in the cases, if they are known already; else every case is read.

    Raises RWLossError for fewer than two classes, for a negative label, and where a lone 255 or
    65535 looks like a mask or an ignore label rather than like a class.

    >>> from rwloss.data import sample_dir
    >>> count_classes(find(sample_dir("lung_patches") / "labelsTr"))
    2
    """
    if num_classes is None:
        num_classes = dataset.num_classes
    if num_classes is None:
        ignored = dataset.ignore_label if ignore_label is None else ignore_label
        if labels is None:
            labels = _labels_of(dataset.cases)
        num_classes = _largest_label(dataset, set(labels) - {ignored}) + 1
    if num_classes < 2:
        raise RWLossError(
            f"expected two classes or more, got {num_classes} in {str(dataset.root)!r}: "
            "if every label is background, pass num_classes (--num-classes)"
        )
    return num_classes


def _labels_of(cases: Iterable[Case]) -> set[int]:
    """Every label that occurs. A case that can't be read is left out, unless none can."""
    seen: set[int] = set()
    unread: RWLossError | None = None
    for case in cases:
        try:
            seen |= set(np.unique(read_labels(case.labels).labels).tolist())
        except RWLossError as exc:  # reading the case again reports it; the others still count
            unread = exc
    if unread is not None and not seen:
        raise unread
    return seen


def _largest_label(dataset: Dataset, seen: set[int]) -> int:
    if seen and min(seen) < 0:
        raise RWLossError(
            f"{str(dataset.root)!r} holds the label {min(seen)}: labels are 0 or more; if these "
            f"voxels are to be ignored, pass ignore_label={min(seen)} (--ignore-label {min(seen)})"
        )
    largest = max(seen, default=0)
    if largest >= MAX_CLASSES:
        raise RWLossError(
            f"the labels reach {largest}: expected classes below {MAX_CLASSES}, not grey values or "
            "the numbers of objects; if these are classes, pass num_classes (--num-classes)"
        )
    if largest in {255, 65535} and largest - 1 not in seen:
        raise RWLossError(
            f"the labels are {_in_words(seen)}: if {largest} means 'ignore', pass "
            f"ignore_label={largest} (--ignore-label {largest}); if it is the foreground of a "
            f"mask, store it as 1; if there really are {largest + 1} classes, pass "
            f"num_classes={largest + 1} (--num-classes {largest + 1})"
        )
    return largest


def _in_words(labels: set[int]) -> str:
    first = sorted(labels)
    some = [*first[:4], "...", first[-1]] if len(first) > 6 else first
    return ", ".join(map(str, some))


def _find_nnunet(root: Path, part: DatasetPart) -> Dataset:
    content = read_dataset_json(root / "dataset.json")
    if part == "train" and content.dataset is not None:
        cases = _explicit_cases(root, content.dataset)
    else:
        labels, images = (root / (kind + _FOLDER_ENDS[part]) for kind in ("labels", "images"))
        if part == "train" and not os.path.lexists(labels):
            labels = root
        files = by_case(files_in(labels, content.ending))
        if not files:
            raise nothing_in(str(labels), "label files", content.ending)
        found = _images(files_in(images, content.ending) if os.path.lexists(images) else [])
        cases = [
            Case(name, file, _in_order(name, found.get(name, {}))) for name, file in files.items()
        ]
    for case in cases:
        expected = len(content.channel_names or case.images)
        if case.images and len(case.images) != expected:
            raise RWLossError(
                f"dataset.json names {expected} channels, and case {case.name!r} has "
                f"{len(case.images)} images in {str(root)!r}"
            )
    try:
        names, ignore_label = content.classes()
    except RWLossError as exc:
        raise RWLossError(f"{str(root / 'dataset.json')!r}: {exc}") from exc
    ordered = tuple(sorted(cases, key=lambda case: case.name))
    return Dataset(root, ordered, len(names), names, ignore_label)


def _explicit_cases(root: Path, listed: Mapping[str, CaseFiles]) -> list[Case]:
    """The cases of dataset.json's own list of files."""
    cases = []
    for name, files in listed.items():
        # Results are named after the case: a name must not become a path.
        if name in {"", ".", ".."} or any(char in name for char in "/\\\0") or not _encodable(name):
            raise RWLossError(f"dataset.json names a case {name!r}: expected a plain file name")
        images = tuple(_inside(root, image) for image in files.images)
        cases.append(Case(name, _inside(root, files.label), images))
    if not cases:
        raise RWLossError(f'"dataset" in {str(root / "dataset.json")!r} names no case')
    return cases


def _inside(root: Path, written: str) -> Path:
    """A path that dataset.json names, if it stays in the dataset's folder, links resolved.

    Links in labelsTr and imagesTr may lead anywhere, because the user made them on this machine.
    A dataset.json comes with the data, and its author must not choose which files of this machine
    are read.
    """
    path = root / written
    if not _encodable(written) or "\0" in written or not _leads_into(root, path):
        raise RWLossError(
            f"dataset.json names {written!r}, outside its folder {str(root)!r}: move the file into "
            "the folder, or leave out its list and link it in labelsTr or imagesTr"
        )
    if not path.is_file():
        raise RWLossError(f"dataset.json names {written!r}, and {str(root)!r} has no such file")
    return path


def _leads_into(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # a circle of links leads to no file
        return True


def _encodable(name: str) -> bool:
    """Whether a file can have the name: JSON can hold halves of characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _from_files(root: Path, files: Iterable[Path], source: str | None = None) -> Dataset:
    cases = by_case(files)
    if not cases and (root / "labelsTr").is_dir():
        raise RWLossError(
            f"{str(root)!r} has labelsTr but no dataset.json: add it, or name {'labelsTr'!r} itself"
        )
    if not cases:
        raise nothing_in(source or str(root), "label files")
    return Dataset(root, tuple(Case(name, cases[name]) for name in sorted(cases)))


def _images(files: Iterable[Path]) -> dict[str, dict[int | None, Path]]:
    """Image files by case and channel; channel None is the file with the name of the case."""
    found: dict[str, dict[int | None, Path]] = {}
    for name, file in by_case(files).items():
        found.setdefault(name, {})[None] = file
        case, channel = channel_of(file)
        found.setdefault(case, {})[channel] = file
    return found


def _in_order(case: str, channels: dict[int | None, Path]) -> tuple[Path, ...]:
    """Image files of one case in channel order. Raises RWLossError for a gap."""
    numbers = sorted(channel for channel in channels if channel is not None)
    if numbers != list(range(len(numbers))):
        raise RWLossError(
            f"case {case!r} has the channels {numbers}: expected {len(numbers)} channels from "
            f"{case}_0000 on, without a gap"
        )
    return tuple(channels[channel] for channel in numbers or channels)
