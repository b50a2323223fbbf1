"""Finding images without labels: a folder of them, an nnU-Net folder, or one file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from rwloss.data.cases import DatasetPart, find
from rwloss.data.dataset_json import read_dataset_json
from rwloss.data.formats import case_name
from rwloss.data.listing import channel_of, files_in, nothing_in
from rwloss.errors import RWLossError


@dataclass(frozen=True)
class ImageCase:
    """One case without labels: its name and its image files in channel order.

    problem: why its files are not one image, or "".
    """

    name: str
    images: tuple[Path, ...]
    problem: str = ""


def find_images(
    source: str | Path, num_channels: int, *, part: DatasetPart | None = None
) -> tuple[ImageCase, ...]:
    """The images of a folder, of an nnU-Net raw folder, or one file; sorted by case name.

    A folder holds CASE_0000.ext, CASE_0001.ext, ..., one file per channel, or CASE.ext. Names that
    end with a number are channels of a case only if one ends with 0000, so that with one channel
    scan_0001.png and scan_0002.png are two cases.
    part: imagesTs ("test") or imagesTr ("train") of an nnU-Net folder; by default imagesTs if it
    exists.

    A case with channels other than 0 to num_channels - 1 has a `problem`: it does not stop others.
    Raises RWLossError for a path that does not exist or that holds no images.

    >>> from rwloss.data import sample_dir
    >>> images = find_images(sample_dir("hippocampus"), 1)
    >>> len(images), images[0].name
    (8, 'hippocampus_040')
    """
    root = Path(source)
    if root.is_file():
        case_name(root)  # names an unknown suffix
        return _cases([root], num_channels)
    if not root.is_dir():
        raise RWLossError(f"there is no file or folder {str(source)!r}")
    ending = None
    if (root / "dataset.json").is_file():
        if part is None:
            part = "test" if (root / "imagesTs").is_dir() else "train"
        content = read_dataset_json(root / "dataset.json")
        ending = content.ending
        if part == "train" and content.dataset is not None:
            return tuple(
                _checked(case.name, case.images, num_channels)
                for case in find(root).cases
                if case.images
            )
        root /= "imagesTs" if part == "test" else "imagesTr"
    elif part is not None:
        raise RWLossError(f"part {part!r} needs a dataset.json, and {str(source)!r} has none")
    cases = _cases(files_in(root, ending), num_channels)
    if not cases:
        raise nothing_in(str(root), "images", ending)
    return cases


def _cases(files: Iterable[Path], num_channels: int) -> tuple[ImageCase, ...]:
    """Files by case and channel."""
    numbered = [(file, *channel_of(file)) for file in files]
    with_first = {name for _, name, channel in numbered if channel == 0}
    named: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for file, name, channel in numbered:
        if channel is not None and (num_channels > 1 or name in with_first):
            named[name].append((channel, file))
        else:
            named[case_name(file)].append((0, file))
    cases = []
    for name, found in sorted(named.items()):
        channels = [channel for channel, _ in sorted(found)]
        case = _checked(name, tuple(file for _, file in sorted(found)), num_channels)
        if channels != list(range(len(channels))):
            problem = f"expected the channels 0 to {num_channels - 1}, found files of {channels}"
            case = replace(case, problem=problem)
        cases.append(case)
    return tuple(cases)


def _checked(name: str, images: tuple[Path, ...], num_channels: int) -> ImageCase:
    if len(images) == num_channels:
        return ImageCase(name, images)
    found = ", ".join(image.name for image in images) or "none"
    problem = f"expected {num_channels} images, one per channel, found {len(images)}: {found}"
    return ImageCase(name, images, problem)
