"""Finding the cases of a data set: an nnU-Net folder, a folder or glob of label files, one file."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from rwloss.data.formats import SUFFIXES, case_name, read_labels, suffix_of
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from rwloss.data.dataset_json import DatasetJson

Part = Literal["train", "test"]

MAX_CLASSES = 2**16
"""More are object numbers or grey values by mistake; num_classes given by the caller may be."""

_CHANNEL = re.compile(r"(?s)(.+)_(\d{4})")
_FOLDER_ENDS = {"train": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class Case:
    """One case: its name, its label file, and its image files in channel order (maybe none)."""

    name: str
    labels: Path
    images: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Cases sorted by name, and what a dataset.json says of their classes.

    num_classes: None without dataset.json; see `count_classes`.
    class_names: one for each class, or none without dataset.json.
    """

    root: Path
    cases: tuple[Case, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None


def find(source: str | Path, *, part: Part = "train") -> Dataset:
    """The cases of an nnU-Net raw folder, a folder of label files, a glob pattern or one file.

    A folder with a dataset.json is read in nnU-Net's way: labelsTr/CASE.ext and, if they are
    there, imagesTr/CASE_0000.ext, CASE_0001.ext, ... (the Decathlon's imagesTr/CASE.ext too);
    without labelsTr, its own label files count, as in a folder of predictions.
    part: "test" takes labelsTs and imagesTs of an nnU-Net folder.

    Raises RWLossError for a path that does not exist, no label files, two files of one case name,
    missing channels, or a dataset.json that is not valid or that names files outside its folder.

    >>> from rwloss.data import sample_dir
    >>> dataset = find(sample_dir("hippocampus"))
    >>> len(dataset.cases), dataset.num_classes, dataset.class_names
    (24, 3, ('background', 'anterior', 'posterior'))
    """
    if part not in _FOLDER_ENDS:
        raise RWLossError(f"expected part 'train' or 'test', got {part!r}")
    try:
        return _find(source, part)
    except OSError as exc:  # no permission, too long a name
        raise RWLossError(f"cannot look into {str(source)!r}: {exc.strerror}") from exc


def _find(source: str | Path, part: Part) -> Dataset:
    path = Path(source)
    if path.is_dir():
        # A link that leads nowhere is not the same as none.
        if os.path.lexists(path / "dataset.json"):
            return _find_nnunet(path, part)
        if part == "test":
            raise RWLossError(f"part 'test' needs a dataset.json, and {str(path)!r} has none")
        return _from_files(path, _files_in(path))
    if path.exists():
        return Dataset(path.parent, (Case(case_name(path), path),))
    if glob.has_magic(str(source)):
        root = Path(*path.parts[: _first_magic(path)])
        return _from_files(root, filter(_is_candidate, set(_matches(path))), str(source))
    if path.is_symlink():
        raise RWLossError(f"{str(source)!r} is a link that leads to no file or folder")
    raise RWLossError(f"there is no file or folder {str(source)!r}")


def count_classes(
    dataset: Dataset,
    num_classes: int | None = None,
    *,
    ignore_label: int | None = None,
    labels: Iterable[int] | None = None,
) -> int:
    """The number of classes: as given, else as in dataset.json, else the largest label + 1.

    The largest label is that of all cases together (every file that can be read is), so that a
    case in which the last class is absent gets as many channels as the others.
    ignore_label: a label that is no class; by default the data set's own. labels: all that occur
    in the cases, where that is known already; else every case is read.

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
        except RWLossError as exc:  # who uses the case will be told; the others can still be done
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


def _find_nnunet(root: Path, part: Part) -> Dataset:
    from rwloss.data import dataset_json

    content = dataset_json.read(root / "dataset.json")
    ending = content.file_ending
    if ending is not None and ending.lower() not in SUFFIXES:
        raise RWLossError(
            f"{str(root / 'dataset.json')!r} has file_ending {ending!r}: expected one of "
            f"{' '.join(SUFFIXES)}"
        )
    if part == "train" and content.dataset is not None:
        cases = _explicit_cases(root, content)
    else:
        labels, images = (root / (kind + _FOLDER_ENDS[part]) for kind in ("labels", "images"))
        if part == "train" and not os.path.lexists(labels):
            labels = root
        files = _by_name(_with_ending(_files_in(labels), ending))
        _require_files(files, str(labels), ending)
        pictures = _files_in(images) if os.path.lexists(images) else []
        channels = _channels(_with_ending(pictures, ending))
        cases = [Case(name, path, _in_order(name, channels)) for name, path in files.items()]
    for case in cases:
        expected = len(content.channel_names or case.images)
        if case.images and len(case.images) != expected:
            raise RWLossError(
                f"dataset.json names {expected} channels, and case {case.name!r} has "
                f"{len(case.images)} images in {str(root)!r}"
            )
    classes = _classes(root, content)
    return Dataset(root, tuple(sorted(cases, key=lambda case: case.name)), *classes)


def _classes(root: Path, content: DatasetJson) -> tuple[int, tuple[str, ...], int | None]:
    """Number of classes, their names and the ignore label."""
    try:
        values = content.values()
        ignored = values.pop("ignore", None)
        if ignored is not None and len(ignored) != 1:
            raise RWLossError(f'expected one number for "ignore", got {list(ignored)}')
        used = {label for labels in values.values() for label in labels}
        if not used:
            raise RWLossError('"labels" names no class')
        if max(used) >= MAX_CLASSES:
            raise RWLossError(f"expected labels below {MAX_CLASSES}, got {max(used)}")
        if ignored is not None and ignored[0] in used:
            raise RWLossError(f'"ignore" is {ignored[0]}, which is the label of a class too')
        named: dict[int, str] = {}
        for name, labels in values.items():
            # Regions such as "whole tumour": [1, 2, 3] name no label of their own.
            if len(labels) == 1 and named.setdefault(labels[0], name) != name:
                raise RWLossError(
                    f"label {labels[0]} has two names: {named[labels[0]]!r}, {name!r}"
                )
        names = [named.get(label, f"label {label}") for label in range(max(used) + 1)]
    except RWLossError as exc:
        raise RWLossError(f"{str(root / 'dataset.json')!r}: {exc}") from exc
    return len(names), tuple(names), None if ignored is None else ignored[0]


def _explicit_cases(root: Path, content: DatasetJson) -> list[Case]:
    """The cases of dataset.json's own list of files."""
    cases = []
    for name, files in (content.dataset or {}).items():
        # Results are named after the case: a name must not become a path.
        if name in {"", ".", ".."} or any(char in name for char in "/\\\0") or not _encodable(name):
            raise RWLossError(f"dataset.json names a case {name!r}: expected a plain file name")
        images = tuple(_inside(root, image) for image in files.images)
        cases.append(Case(name, _inside(root, files.label), images))
    if not cases:
        raise RWLossError(f'"dataset" in {str(root / "dataset.json")!r} names no case')
    return cases


def _inside(root: Path, written: str) -> Path:
    """A path that dataset.json writes, if it stays in the data set's folder, links resolved.

    Links that lie in labelsTr and imagesTr may lead anywhere, because the user made them on this
    machine. A dataset.json comes with the data, and its author must not choose which files of
    this machine are read.
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
    except RuntimeError:  # links in a circle lead nowhere, and so to no file
        return True


def _encodable(name: str) -> bool:
    """Whether a file can have the name: JSON can write halves of characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _from_files(root: Path, files: Iterable[Path], source: str | None = None) -> Dataset:
    cases = _by_name(files)
    if not cases and (root / "labelsTr").is_dir():
        raise RWLossError(
            f"{str(root)!r} has labelsTr but no dataset.json: add it, or name {'labelsTr'!r} itself"
        )
    _require_files(cases, source or str(root), None)
    return Dataset(root, tuple(Case(name, cases[name]) for name in sorted(cases)))


def _require_files(files: dict[str, Path], where: str, ending: str | None) -> None:
    if not files:
        raise RWLossError(
            f"no label files in {where!r}: looked for names that end with "
            f"{ending or ' '.join(SUFFIXES)}"
        )


def _files_in(folder: Path) -> list[Path]:
    """Readable kinds of files in a folder. A broken link is kept, so that reading names it."""
    try:
        return [file for file in folder.iterdir() if _is_candidate(file)]
    except OSError as exc:
        raise RWLossError(f"cannot list {str(folder)!r}: {exc.strerror}") from exc


def _is_candidate(file: Path) -> bool:
    # Hidden files are not data: macOS leaves a ._NAME beside each NAME on foreign disks.
    return not file.name.startswith(".") and bool(suffix_of(file)) and not file.is_dir()


def _with_ending(files: Iterable[Path], ending: str | None) -> list[Path]:
    return [file for file in files if ending is None or suffix_of(file) == ending.lower()]


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """Files by case name. Raises RWLossError for two files of one name."""
    named: dict[str, Path] = {}
    for file in sorted(files):
        other = named.setdefault(case_name(file), file)
        if other != file:
            raise RWLossError(
                f"two files of one case name {case_name(file)!r}: {str(other)!r} and "
                f"{str(file)!r}: rename one, or name the files by a narrower pattern"
            )
    return named


def _channels(files: Iterable[Path]) -> dict[str, dict[int, Path]]:
    """Image files by case and channel; channel -1 is the file that is named like the case."""
    channels: dict[str, dict[int, Path]] = {}
    for name, file in _by_name(files).items():
        channels.setdefault(name, {})[-1] = file
        if match := _CHANNEL.fullmatch(name):
            channels.setdefault(match[1], {})[int(match[2])] = file
    return channels


def _in_order(case: str, channels: dict[str, dict[int, Path]]) -> tuple[Path, ...]:
    """Image files of one case in channel order. Raises RWLossError for a gap."""
    found = dict(channels.get(case, {}))
    alone = found.pop(-1, None)
    if not found:
        return () if alone is None else (alone,)
    if sorted(found) != list(range(len(found))):
        raise RWLossError(
            f"case {case!r} has the channels {sorted(found)}: expected {len(found)} from "
            f"{case}_0000 on, without a gap"
        )
    return tuple(found[channel] for channel in sorted(found))


def _matches(pattern: Path) -> Iterator[Path]:
    """Paths that match a glob pattern. `**` follows links, but enters no folder twice.

    (glob's own `recursive` runs in circles where links do, and with two of them for ever.)
    """
    if "**" not in pattern.parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    at = pattern.parts.index("**")
    tail = pattern.parts[at + 1 :] or ("*",)
    entered: set[tuple[int, int]] = set()
    for base in _matches(Path(*pattern.parts[:at])):
        for folder, below, _ in os.walk(base, followlinks=True):
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in entered:
                below.clear()
                continue
            entered.add((place.st_dev, place.st_ino))
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from _matches(Path(glob.escape(folder), *tail))


def _first_magic(path: Path) -> int:
    """Index of the first part of a pattern that is not a plain name."""
    return next(i for i, name in enumerate(path.parts) if glob.has_magic(name))
