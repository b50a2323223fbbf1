"""Find cases and images: in an nnU-Net folder, a folder or glob of label files, or one file."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rwloss.data.dataset_json import DatasetJson, listed_cases, read_dataset_json
from rwloss.data.formats import PICTURES, SUFFIXES, case_name, read_channels, suffix_of
from rwloss.errors import RWLossError
from rwloss.words import count_of, listed, some

DatasetPart = Literal["train", "test"]

_FOLDER_ENDS = {"train": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class Case:
    """One case: its name, its label file, and its image files in channel order (maybe none).

    problem: why the image files are not the channels of one image, or "".
    """

    name: str
    labels: Path
    images: tuple[Path, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class ImageCase:
    """One case without labels: its name, its image files in channel order, `problem` as in Case."""

    name: str
    images: tuple[Path, ...]
    problem: str = ""


@dataclass(frozen=True)
class Dataset:
    """Cases sorted by name, and their classes according to dataset.json.

    num_classes: None without dataset.json; see `count_classes`. class_names: one per class, or
    empty without dataset.json. num_channels: of each image, if dataset.json names channels.
    unlabelled: names of the images without a label file. regions: names that dataset.json gives to
    several labels together, such as the whole tumor. unnamed: labels that it skips. root: its
    folder.
    """

    root: Path
    cases: tuple[Case, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None
    num_channels: int | None = None
    unlabelled: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    unnamed: tuple[int, ...] = ()

    @property
    def doubts(self) -> str:
        """A note about images without a label file, and one about labels without a name; or ""."""
        lines = []
        if self.unlabelled:
            count = count_of(len(self.unlabelled), "image")
            lines += [
                f"left out, because they have no label file: {count}, {some(self.unlabelled)}"
            ]
        if self.unnamed:
            numbers = listed([*map(str, self.unnamed[:5])]) + ", ..." * (len(self.unnamed) > 5)
            lines += [
                f"dataset.json names no label {numbers}: each counts as a class that no voxel has; "
                "number the labels 0, 1, 2, ... without a gap"
            ]
        return "\n".join(lines)


def find(source: str | Path, *, part: DatasetPart = "train") -> Dataset:
    """The cases of an nnU-Net raw folder, a folder of label files, a glob pattern or one file.

    A folder with a dataset.json is read as nnU-Net does: labelsTr/CASE.ext and, if there are
    any, imagesTr/CASE_0000.ext, CASE_0001.ext, ... (or the Decathlon's imagesTr/CASE.ext);
    without labelsTr, label files of the folder itself count, as in a folder of predictions.
    part: "test" takes labelsTs and imagesTs of an nnU-Net folder.

    Raises RWLossError for a path that does not exist, no label files, two files of one case name,
    or a dataset.json that is not valid or names files outside its folder. Missing channels are the
    `problem` of their case: its labels can be used without them.

    source: a path or a pattern.

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
            return _classes_of_parent(_from_files(path, _files_in(path)))
        if path.exists():
            return Dataset(path.parent, (Case(case_name(path), path),))
        if glob.has_magic(str(source)):
            root = path.parent
            while not root.is_dir():  # the names of folders may hold brackets too
                root = root.parent
            tail = path.parts[len(root.parts) :]
            files = set(_matches(Path(glob.escape(str(root)), *tail)))
            why = "; [...] stands for one character: write [[] for [" if "[" in str(tail) else ""
            return _from_files(root, filter(_is_data, files), str(source), why)
        if path.is_symlink():
            raise RWLossError(f"{str(source)!r} is a broken link")
    except OSError as exc:  # no permission, too long a name
        raise RWLossError(f"cannot open {str(source)!r}: {exc.strerror}") from exc
    raise RWLossError(f"there is no file or folder {str(source)!r}")


def read_case_image(case: Case, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The gray values of a case as stored in its files, not normalized. (c *s).

    shape: of its labels. Raises RWLossError for a case without an image, and for files that can't
    be read or have another shape.
    """
    if not case.images:
        raise RWLossError(
            f"the map uses the image, and case {case.name!r} has none: expected "
            f"imagesTr/{case.name}_0000.ext next to its labels, one file per channel"
        )
    if case.problem:
        raise RWLossError(f"case {case.name!r}: {case.problem}")
    image = np.stack([channel.values for channel in read_channels(case.images)])
    if image.shape[1:] != shape:
        raise RWLossError(
            f"image {str(case.images[0])!r} has shape {image.shape[1:]}, its labels {shape}: they "
            "must lie on the same voxels; resample one of them"
        )
    return image


def find_images(
    source: str | Path, num_channels: int, *, part: DatasetPart | None = None
) -> tuple[ImageCase, ...]:
    """The images of a folder, of an nnU-Net raw folder, or one file; sorted by case name.

    A folder holds CASE_0000.ext, CASE_0001.ext, ..., one file per channel, or CASE.ext. Names that
    end with a number are channels of a case only if one ends with 0000, so that with one channel
    scan_0001.png and scan_0002.png are two cases.
    part: imagesTs ("test") or imagesTr ("train") of an nnU-Net folder; by default imagesTs if it
    exists.

    A case with channels other than 0 to num_channels - 1 has a `problem`, which does not stop
    others.
    Raises RWLossError for a path that does not exist or that holds no images.

    >>> from rwloss.data import sample_dir
    >>> images = find_images(sample_dir("hippocampus"), 1)
    >>> len(images), images[0].name
    (8, 'hippocampus_040')
    """
    root = Path(source)
    if root.is_file():
        case_name(root)  # names an unknown suffix
        return _image_cases([root], num_channels)
    if not root.is_dir():
        raise RWLossError(f"there is no file or folder {str(source)!r}")
    ending = None
    if (root / "dataset.json").is_file():
        if part is None:
            part = "test" if (root / "imagesTs").is_dir() else "train"
        content = read_dataset_json(root / "dataset.json")
        ending = content.file_ending
        if part == "train" and content.dataset is not None:
            listed = listed_cases(root, content.dataset)
            return tuple(
                ImageCase(name, images, _problem(enumerate(images), num_channels))
                for name, (_, images) in sorted(listed.items())
                if images
            )
        root /= "images" + _FOLDER_ENDS[part]
    elif part is not None:
        raise RWLossError(f"part {part!r} needs a dataset.json, and {str(source)!r} has none")
    cases = _image_cases(_files_in(root, ending), num_channels)
    if not cases:
        raise _nothing_in(str(root), "images", ending)
    return cases


def _classes_of_parent(labels: Dataset) -> Dataset:
    """Cases of labelsTr or labelsTs, with the classes of the dataset.json next to that folder."""
    file = labels.root.absolute().parent / "dataset.json"
    if labels.root.absolute().name not in {"labelsTr", "labelsTs"} or not file.is_file():
        return labels
    return _with_classes(labels, read_dataset_json(file), file)


def _with_classes(dataset: Dataset, content: DatasetJson, file: Path) -> Dataset:
    try:
        names, ignored = content.classes()
    except RWLossError as exc:
        raise RWLossError(f"{str(file)!r}: {exc}") from exc
    return replace(
        dataset,
        num_classes=len(names),
        class_names=names,
        ignore_label=ignored,
        regions=content.regions,
        unnamed=tuple(sorted({*range(1, len(names))} - content.used - {ignored})),
    )


def _find_nnunet(root: Path, part: DatasetPart) -> Dataset:
    content = read_dataset_json(root / "dataset.json")
    num_channels = len(content.channel_names or ()) or None
    if part == "train" and content.dataset is not None:
        unlabelled: set[str] = set()
        cases = [
            Case(name, labels, images, _problem(enumerate(images), num_channels))
            for name, (labels, images) in listed_cases(root, content.dataset).items()
        ]
    else:
        labels, images = (root / (kind + _FOLDER_ENDS[part]) for kind in ("labels", "images"))
        if part == "train" and not os.path.lexists(labels):
            labels = root
        files = _by_case(_files_in(labels, content.file_ending))
        if not files:
            raise _nothing_in(str(labels), "label files", content.file_ending)
        found: dict[str, list[tuple[int | None, Path]]] = defaultdict(list)
        for image in _files_in(images, content.file_ending) if os.path.lexists(images) else []:
            name, channel = (case_name(image), None)
            if name not in files:
                name, channel = _channel_of(image)
            found[name].append((channel, image))
        unlabelled = found.keys() - files.keys()
        cases = [
            _case(name, file, found.get(name, []), num_channels) for name, file in files.items()
        ]
    dataset = Dataset(
        root,
        tuple(sorted(cases, key=lambda case: case.name)),
        num_channels=num_channels,
        unlabelled=tuple(sorted(unlabelled)),
    )
    return _with_classes(dataset, content, root / "dataset.json")


def _case(
    name: str, labels: Path, found: list[tuple[int | None, Path]], num_channels: int | None
) -> Case:
    """A case with its images: those with channel numbers, else the one with the case's name."""
    numbered = sorted((channel, file) for channel, file in found if channel is not None)
    channels = numbered or [(0, file) for _, file in found]
    images = tuple(file for _, file in channels)
    return Case(name, labels, images, _problem(channels, num_channels))


def _image_cases(files: Iterable[Path], num_channels: int) -> tuple[ImageCase, ...]:
    """Files by case and channel."""
    numbered = [(file, *_channel_of(file)) for file in files]
    with_first = {name for _, name, channel in numbered if channel == 0}
    named: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for file, name, channel in numbered:
        # A color picture may hold all channels: without a first file, they are cases.
        is_numbered = num_channels > 1 and suffix_of(file) not in PICTURES
        if channel is not None and (is_numbered or name in with_first):
            named[name].append((channel, file))
        else:
            named[case_name(file)].append((0, file))
    return tuple(
        ImageCase(name, tuple(file for _, file in sorted(found)), _problem(found, num_channels))
        for name, found in sorted(named.items())
    )


def _problem(found: Iterable[tuple[int, Path]], num_channels: int | None) -> str:
    """Why files with their channel numbers are not the channels of one image, or ""."""
    pairs = sorted(found)
    channels, files = [channel for channel, _ in pairs], [file for _, file in pairs]
    expected = num_channels or len(files)
    # A color picture holds several channels, which are counted when it is read.
    may_hold_more = len(files) < expected and all(suffix_of(file) in PICTURES for file in files)
    if channels != list(range(len(channels))):
        return f"expected the channels 0 to {expected - 1}, found files of {channels}"
    if len(files) != expected and not may_hold_more:
        names = ", ".join(file.name for file in files)
        return f"expected {expected} images, one per channel, found {len(files)}: {names}"
    return ""


def _from_files(root: Path, files: Iterable[Path], source: str = "", why: str = "") -> Dataset:
    cases = _by_case(files)
    if not cases and (root / "labelsTr").is_dir() and not source:
        raise RWLossError(
            f"{str(root)!r} has labelsTr but no dataset.json: add it, or name {'labelsTr'!r} itself"
        )
    if not cases:
        raise _nothing_in(source or str(root), "label files", why=why)
    return Dataset(root, tuple(Case(name, cases[name]) for name in sorted(cases)))


def _files_in(folder: Path, ending: str | None = None) -> list[Path]:
    """Sorted files of a folder that can be read, or those with one ending.

    A broken link is kept, so that reading it names it. Raises RWLossError if the folder cannot be
    listed.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as exc:
        raise RWLossError(f"cannot list {str(folder)!r}: {exc.strerror}") from exc
    return [file for file in files if _is_data(file) and ending in {None, suffix_of(file)}]


def _is_data(file: Path) -> bool:
    # Hidden files are not data: macOS leaves a ._NAME beside each NAME on foreign disks.
    return not file.name.startswith(".") and bool(suffix_of(file)) and not file.is_dir()


def _nothing_in(where: str, what: str, ending: str | None = None, why: str = "") -> RWLossError:
    looked_for = ending or " ".join(SUFFIXES)
    return RWLossError(f"no {what} in {where!r}: looked for names that end with {looked_for}{why}")


def _by_case(files: Iterable[Path]) -> dict[str, Path]:
    """Files by case name. Raises RWLossError for two files of one name."""
    named: dict[str, Path] = {}
    for file in sorted(files):
        other = named.setdefault(case_name(file), file)
        if other != file:
            raise RWLossError(
                f"two files of one case name {case_name(file)!r}: {str(other)!r} and "
                f"{str(file)!r}: rename one, or use a pattern that matches only one"
            )
    return named


def _channel_of(file: Path) -> tuple[str, int | None]:
    """Case name and channel of an image file named CASE_0000.ext; no channel for other names."""
    name = case_name(file)
    match = re.fullmatch(r"(?s)(.+)_(\d{4})", name)
    return (match[1], int(match[2])) if match else (name, None)


def _matches(pattern: Path) -> Iterator[Path]:
    """Paths that match a glob pattern. `**` follows links, but enters no folder twice.

    (glob's own `recursive` follows circles of links, and never ends with two of them.)
    """
    if "**" not in pattern.parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    at = pattern.parts.index("**")
    tail = pattern.parts[at + 1 :] or ("*",)
    entered: set[tuple[int, int]] = set()
    for base in _matches(Path(*pattern.parts[:at])):
        for folder, below, _ in os.walk(base, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                below.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from _matches(Path(glob.escape(folder), *tail))
