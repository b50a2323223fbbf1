"""What a store says of itself: map.json (the map) and manifest.jsonl (a line a case)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rwloss.errors import RWLossError
from rwloss.store.atomic import whole_file

MAP_FILE = "map.json"
MANIFEST_FILE = "manifest.jsonl"


class MapInfo(BaseModel):
    """map.json: everything that decides the values of the maps, besides the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Literal[1] = 1
    format: Literal["nifti"] = "nifti"
    expression: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None
    engine: str
    versions: dict[str, str]


class StoredPart(BaseModel):
    """One array of a map: a file, or one value at every voxel that is not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = None
    sha256: str | None = None
    constant: float | None = None
    max_error: float = 0.0


class Entry(BaseModel):
    """A line of manifest.jsonl: one case, known by its content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: str
    labels_sha256: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    parts: dict[Literal["labels", "true", "other", "values"], StoredPart] = Field(min_length=2)


def read_info(folder: Path) -> MapInfo:
    """map.json of a store. Raises RWLossError where there is none, or it is damaged."""
    path = folder / MAP_FILE
    try:
        return MapInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise RWLossError(
            f"{folder} is no store of maps: it has no {MAP_FILE}; `rwloss precompute` makes one"
        ) from error
    except (OSError, ValidationError) as error:
        raise RWLossError(f"{path} is damaged or of another version: {error}") from error


def write_info(folder: Path, info: MapInfo) -> None:
    """Write map.json, whole or not at all."""
    with whole_file(folder / MAP_FILE) as part:
        part.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_entries(folder: Path) -> dict[str, Entry]:
    """The manifest by case name; the last line of a case counts.

    A last line without its end is what a killed run leaves: that case counts as missing. Any other
    line that can't be read is damage, and an error.
    """
    path = folder / MANIFEST_FILE
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    entries = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            raise RWLossError(f"{path}, line {number}, is damaged: {error}") from error
        entries[entry.case] = entry
    return entries


def append_entry(folder: Path, entry: Entry) -> None:
    """Add a line to the manifest, in one write."""
    with (folder / MANIFEST_FILE).open("ab") as file:
        file.write(_line(entry))


def write_entries(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the manifest anew, sorted by case, whole or not at all."""
    with whole_file(folder / MANIFEST_FILE) as part:
        part.write_bytes(b"".join(_line(e) for e in sorted(entries, key=lambda e: e.case)))


def _line(entry: Entry) -> bytes:
    fields = entry.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
