"""The record of a folder of label maps: what made each of them, and from which images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rwloss.files.journal import parsed_lines

RECORD_FILE = "predictions.jsonl"
"""The file beside the label maps with one line per label map, which says how it was made."""


class PredictionRecord(BaseModel):
    """What decides the label maps of a start, except the images.

    weights_sha256: of the checkpoint file. The device is not part of it, as it changes only
    rounding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rwloss: str
    run: str
    checkpoint: str
    step: int
    weights_sha256: str
    overlap: float
    class_names: tuple[str, ...]

    def makes_the_same_as(self, other: PredictionRecord) -> bool:
        """Whether the same images give the same label maps."""
        return (self.weights_sha256, self.overlap) == (other.weights_sha256, other.overlap)

    @property
    def origin(self) -> str:
        """What makes these label maps, in words."""
        return (
            f"the {self.checkpoint} weights of {self.run!r} (step {self.step}) with overlap "
            f"{self.overlap:g}"
        )


class PredictionEntry(PredictionRecord):
    """A line of the record: how one label map was made, and from which images.

    images: path and SHA-256 of each channel, in order. label_map_sha256: the line does not apply to
    a file with other bytes.
    """

    label_map: str
    label_map_sha256: str
    images: dict[str, str]

    def images_are(self, images: Mapping[str, str]) -> bool:
        """Whether images have the same content, wherever they are now."""
        now = [*images.values()]
        return "" not in now and now == [*self.images.values()]


def entries_in(folder: Path) -> dict[tuple[str, str], PredictionEntry]:
    """The record by name and digest of the label map; the newest of several."""
    entries = {}
    with suppress(FileNotFoundError):
        for fields in parsed_lines((folder / RECORD_FILE).read_bytes()):
            with suppress(ValueError):
                entry = PredictionEntry.model_validate(fields)
                entries[entry.label_map, entry.label_map_sha256] = entry
    return entries


def file_digest(path: Path) -> str:
    """SHA-256 of a file; "" if it can't be read."""
    try:
        if not path.is_file():  # reading a pipe would block
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def image_digests(images: Sequence[Path]) -> dict[str, str]:
    """Path and SHA-256 of each channel, in order."""
    return {os.path.realpath(image): file_digest(image) for image in images}
