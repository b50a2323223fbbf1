"""Finding images without labels: a folder of them, an nnU-Net folder, or one file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rwloss.data import dataset_json
from rwloss.data.cases import Part, find
from rwloss.data.formats import SUFFIXES, case_name, suffix_of
from rwloss.errors import RWLossError

_CHANNEL = re.compile(r"(?s)(.+)_(\d{4})")


@dataclass(frozen=True)
class ImageCase:
    """One case without labels: its name and its image files in channel order.

    problem: why its files are not one image, or "".
    """

    name: str
    images: tuple[Path, ...]
    problem: str = ""


def find_images(
    source: str | Path, num_channels: int, *, part: Part | None = None
) -> tuple[ImageCase, ...]:
    """The images of a folder, of an nnU-Net raw folder, or one file; sorted by case name.

    A folder holds CASE_0000.ext, CASE_0001.ext, ..., a file a channel, or CASE.ext. Names that end
    with a number are channels of a case only if one ends with 0000, so that with one channel
    scan_0001.png and scan_0002.png are two cases.
    part: imagesTs ("test") or imagesTr ("train") of an nnU-Net folder; by default imagesTs where
    it is there.

    A case with other channels than 0 to num_channels - 1 has a `problem`: it does not stop others.
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
        content = dataset_json.read(root / "dataset.json")
        ending = content.file_ending
        if part == "train" and content.dataset is not None:
            listed = find(root).cases
            return tuple(
                _checked(case.name, case.images, num_channels) for case in listed if case.images
            )
        root /= "imagesTs" if part == "test" else "imagesTr"
    elif part is not None:
        raise RWLossError(f"part {part!r} needs a dataset.json, and {str(source)!r} has none")
    cases = _cases(_files_in(root, ending), num_channels)
    if not cases:
        raise RWLossError(
            f"no images in {str(root)!r}: looked for names that end with "
            f"{ending or ' '.join(SUFFIXES)}"
        )
    return cases


def _files_in(folder: Path, ending: str | None) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as exc:
        raise RWLossError(f"cannot list {str(folder)!r}: {exc.strerror}") from exc
    return [
        file
        for file in files
        # Hidden files are not data: macOS leaves a ._NAME beside each NAME on foreign disks.
        if not file.name.startswith(".") and suffix_of(file) and not file.is_dir()
        if ending is None or suffix_of(file) == ending.lower()
    ]


def _cases(files: Iterable[Path], num_channels: int) -> tuple[ImageCase, ...]:
    """Files by case and channel."""
    named: dict[str, list[tuple[int | None, Path]]] = {}
    parts = [(file, _CHANNEL.fullmatch(case_name(file))) for file in files]
    with_first = {match[1] for _, match in parts if match and int(match[2]) == 0}
    for file, match in parts:
        if match and (num_channels > 1 or match[1] in with_first):
            named.setdefault(match[1], []).append((int(match[2]), file))
        else:
            named.setdefault(case_name(file), []).append((None, file))
    cases = []
    for name, found in sorted(named.items()):
        ordered = sorted(found, key=lambda pair: (pair[0] or 0, pair[1]))
        channels = [channel or 0 for channel, _ in ordered]
        images = tuple(file for _, file in ordered)
        if channels != list(range(len(channels))):
            problem = f"expected the channels 0 to {num_channels - 1}, found files of {channels}"
            cases.append(ImageCase(name, images, problem))
        else:
            cases.append(_checked(name, images, num_channels))
    return tuple(cases)


def _checked(name: str, images: tuple[Path, ...], num_channels: int) -> ImageCase:
    if len(images) == num_channels:
        return ImageCase(name, images)
    found = ", ".join(image.name for image in images) or "none"
    return ImageCase(
        name, images, f"expected {num_channels} images, one a channel, found {len(images)}: {found}"
    )
