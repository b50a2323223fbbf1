"""Which files of a folder or of a pattern are data, and which case and channel each belongs to."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rwloss.data.formats import SUFFIXES, case_name, suffix_of
from rwloss.errors import RWLossError


def files_in(folder: Path, ending: str | None = None) -> list[Path]:
    """Sorted files of a folder that can be read, or those with one ending.

    A broken link is kept, so that reading it names it. Raises RWLossError if the folder cannot be
    listed.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as exc:
        raise RWLossError(f"cannot list {str(folder)!r}: {exc.strerror}") from exc
    return [file for file in files if is_data(file, ending)]


def is_data(file: Path, ending: str | None = None) -> bool:
    """Whether a path is a file of a known kind, or of one ending."""
    # Hidden files are not data: macOS leaves a ._NAME beside each NAME on foreign disks.
    if file.name.startswith(".") or file.is_dir():
        return False
    return bool(suffix_of(file)) and ending in {None, suffix_of(file)}


def nothing_in(where: str, what: str, ending: str | None = None) -> RWLossError:
    """The error for a place without label files or images."""
    looked_for = ending or " ".join(SUFFIXES)
    return RWLossError(f"no {what} in {where!r}: looked for names that end with {looked_for}")


def by_case(files: Iterable[Path]) -> dict[str, Path]:
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


def channel_of(file: Path) -> tuple[str, int | None]:
    """Case name and channel of an image file named CASE_0000.ext; no channel for other names.

    >>> channel_of(Path("la_003_0001.nii.gz")), channel_of(Path("la_003.nii.gz"))
    (('la_003', 1), ('la_003', None))
    """
    name = case_name(file)
    match = re.fullmatch(r"(?s)(.+)_(\d{4})", name)
    return (match[1], int(match[2])) if match else (name, None)


def matches(pattern: Path) -> Iterator[Path]:
    """Paths that match a glob pattern. `**` follows links, but enters no folder twice.

    (glob's own `recursive` follows circles of links, and never ends with two of them.)
    """
    if "**" not in pattern.parts:
        yield from map(Path, glob.glob(str(pattern)))
        return
    at = pattern.parts.index("**")
    tail = pattern.parts[at + 1 :] or ("*",)
    entered: set[tuple[int, int]] = set()
    for base in matches(Path(*pattern.parts[:at])):
        for folder, below, _ in os.walk(base, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                below.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from matches(Path(glob.escape(folder), *tail))
