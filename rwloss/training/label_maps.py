"""Label maps of a folder of images, by the network of a run."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rwloss import data
from rwloss._version import __version__
from rwloss.data.cases import Part
from rwloss.data.formats import MAX_VOXELS, suffix_of
from rwloss.data.images import ImageCase, find_images
from rwloss.data.splits import SplitPart
from rwloss.data.writing import write_labels
from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX, whole_file
from rwloss.files.journal import append_line, json_line
from rwloss.training.run_folder import RunFolder
from rwloss.training.slices import AXIAL
from rwloss.training.volumes import normalized
from rwloss.training.windows import OVERLAP, check_overlap, predict
from rwloss.words import some

if TYPE_CHECKING:
    from rwloss.training.checkpoint import Trained, Which

State: TypeAlias = Literal["made", "kept", "failed"]

RECORD = "predictions.jsonl"
"""The file beside the label maps that says what made each of them, a line a label map."""

# What the next case would meet too: no space, no quota, a file system that became read-only.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# A label map is written in one go.
_LEFT_AFTER_S = 3600
# Stacks of pages come with the pages first.
_PAGES = {".tif", ".tiff"}


class Record(BaseModel):
    """What decides the label maps of a start, but for the images.

    weights_sha256: of the checkpoint file. device is not part of it: it decides rounding alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rwloss: str
    run: str
    checkpoint: str
    step: int
    weights_sha256: str
    overlap: float
    class_names: tuple[str, ...]

    def makes_the_same_as(self, other: Record) -> bool:
        """Whether the same images become the same label maps."""
        return (self.weights_sha256, self.overlap) == (other.weights_sha256, other.overlap)

    @property
    def origin(self) -> str:
        """What made them, in words."""
        run = f"the {self.checkpoint} weights of {self.run!r} (step {self.step})"
        return f"{run} with overlap {self.overlap:g}"


class Entry(Record):
    """A line of the record: what made one label map, and from which images.

    images: path and SHA-256 of each channel, in their order. label_map_sha256: a file with other
    bytes is not what this line speaks of.
    """

    label_map: str
    label_map_sha256: str
    images: dict[str, str]

    def images_are(self, images: Mapping[str, str]) -> bool:
        """Whether images have the same content, wherever they lie now."""
        now = [*images.values()]
        return "" not in now and now == [*self.images.values()]


@dataclass(frozen=True)
class Predicted:
    """What became of one case: made now, kept from an earlier start, or failed with a reason.

    note: what was done that the run does not say, or "".
    """

    case: str
    state: State
    path: Path | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """Label maps of a folder. outcomes are sorted by case name; seconds are wall-clock time."""

    out: str
    record: Record
    outcomes: tuple[Predicted, ...] = field(repr=False)
    seconds: float = 0.0

    @property
    def made(self) -> int:
        """Number of label maps made in this start."""
        return sum(outcome.state == "made" for outcome in self.outcomes)

    @property
    def kept(self) -> int:
        """Number of label maps that an earlier start had made."""
        return sum(outcome.state == "kept" for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[Predicted, ...]:
        """The cases that have no label map of their images as they are, each with the reason."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")


def predict_images(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    checkpoint: Which = "best",
    part: Part | None = None,
    split: SplitPart | None = None,
    overlap: float = OVERLAP,
    batch_size: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    max_voxels: int = MAX_VOXELS,
    progress: Callable[[Predicted, int], None] | None = None,
) -> Predictions:
    """Write a label map for every image of a folder, in the image's format and place.

    run: folder of a run of `rwloss train`. images: a folder (CASE_0000.ext, CASE_0001.ext, ..., a
    file a channel, or CASE.ext), an nnU-Net raw folder (`part`: by default imagesTs where it is
    there), or one file. out: the folder of CASE.ext, made where it is missing.
    split: only the cases of this part of the run's own split, by name, from both parts of an
    nnU-Net raw folder.
    checkpoint: "best" on validation, or "last". overlap, batch_size: see `predict`. device: "cpu",
    "cuda", ...; by default a GPU where there is one.
    overwrite: make label maps again that are there. Without it those of an earlier start with the
    same weights, overlap and images are kept (each is whole: files appear with a rename), those of
    images that have changed in their place are made again, and any other is an error.
    progress: called after each case with what became of it and the number of cases.

    Images are normalised as in training. A case that fails does not stop the others. The folder may
    hold label maps of other runs for other cases.
    Raises RWLossError for wrong use, before any label map is made, and for a full disk.
    """
    from rwloss.training.checkpoint import load_network

    started = time.monotonic()
    check_overlap(overlap)
    used = _device(device)
    trained = load_network(run, which=checkpoint, device=used)
    weights = Path(run) / "checkpoints" / f"{checkpoint}.pt"
    record = Record(
        rwloss=__version__,
        run=str(run),
        checkpoint=checkpoint,
        step=trained.step,
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        overlap=overlap,
        class_names=trained.task.class_names,
    )
    channels = trained.task.in_channels
    if split is None:
        cases = find_images(images, channels, part=part)
    else:
        cases = _named(RunFolder(Path(run)).cases(split), images, channels, part)
    folder = Path(out)
    paths = [folder / f"{case.name}{suffix_of(case.images[0])}" for case in cases]
    kept = _begin(folder, record, cases, paths, overwrite=overwrite)
    outcomes: list[Predicted] = []
    for case, path in zip(cases, paths, strict=True):
        if path in kept:
            outcomes.append(Predicted(case.name, "kept", path))
        else:
            outcomes.append(_predicted(case, path, trained, record, batch_size, used, max_voxels))
        if progress is not None:
            progress(outcomes[-1], len(cases))
    return Predictions(str(out), record, tuple(outcomes), time.monotonic() - started)


def _named(
    names: Sequence[str], images: str | Path, num_channels: int, part: Part | None
) -> tuple[ImageCase, ...]:
    """Cases of these names, from the training and the test images of an nnU-Net raw folder."""
    root, parts = Path(images), [part]
    if part is None and (root / "dataset.json").is_file():
        parts = ["test"] if (root / "imagesTs").is_dir() else []
        if not parts or (root / "imagesTr").is_dir():
            parts.append("train")
    found = {
        case.name: case for each in parts for case in find_images(root, num_channels, part=each)
    }
    if missing := [name for name in names if name not in found]:
        raise RWLossError(
            f"{str(images)!r} has no image of {some(missing)}, which the run's splits.json names: "
            "give the images that it was trained on, or leave --split out"
        )
    return tuple(found[name] for name in names)


def _device(given: str | None) -> str:
    import torch

    if given is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=given)
    except Exception as error:  # each back end raises its own
        reason = str(error).splitlines()[0]
        raise RWLossError(f"there is no device {given!r} here ({reason}): try cpu") from error
    return given


def _begin(
    folder: Path,
    record: Record,
    cases: Sequence[ImageCase],
    paths: Sequence[Path],
    *,
    overwrite: bool,
) -> set[Path]:
    """Make the folder and its record, and say which label maps are there already.

    Refuses a folder that holds others under their names; with overwrite it removes those, so that
    none is left where a case fails, or where this start is stopped and the next goes on.
    """
    if folder.resolve() in {image.parent.resolve() for case in cases for image in case.images}:
        raise RWLossError(f"{str(folder)!r} is the folder of the images: name another as OUT")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept, others = _compared(folder, record, cases, paths)
        if others and not overwrite:
            path, origin = next(iter(others.items()))
            raise RWLossError(
                f"{str(folder)!r} holds {len(others)} label maps of these cases already, such as "
                f"{path.name!r}, {origin}; now it would be {record.origin}: name another folder, or"
                " --overwrite them"
            )
        append_line(
            folder / RECORD, b"", sync=True
        )  # where nothing can be written, nothing is removed
        for path in others:
            path.unlink()
        for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
            # By a start that was killed, and not by one that writes beside this one.
            if time.time() - left.stat().st_mtime > _LEFT_AFTER_S:
                left.unlink(missing_ok=True)
    except OSError as error:
        raise RWLossError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from error
    return set() if overwrite else kept


def _compared(
    folder: Path, record: Record, cases: Sequence[ImageCase], paths: Sequence[Path]
) -> tuple[set[Path], dict[Path, str]]:
    """The label maps that are as this start would make them, and those of others with their origin.

    In neither are those that aren't there, and those whose images have changed in their place.
    """
    entries = _entries_in(folder)
    kept: set[Path] = set()
    others: dict[Path, str] = {}
    for case, path in zip(cases, paths, strict=True):
        if not os.path.lexists(path):
            continue
        before = entries.get((path.name, _digest(path)))
        if before is None:
            others[path] = "of another origin, or changed since it was made"
        elif not before.makes_the_same_as(record):
            others[path] = f"made by {before.origin}"
        else:
            images = _digests(case.images)
            if before.images_are(images):
                kept.add(path)
            elif before.images.keys() != images.keys() and not case.problem:
                others[path] = f"made from other images ({', '.join(before.images)})"
    return kept, others


def _entries_in(folder: Path) -> dict[tuple[str, str], Entry]:
    """The record by name and digest of the label map; of equal ones the newest."""
    try:
        lines = (folder / RECORD).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    entries = {}
    for line in lines:
        with suppress(ValueError):  # half a line of a killed start, or an empty one after it
            entry = Entry.model_validate(json.loads(line))
            entries[entry.label_map, entry.label_map_sha256] = entry
    return entries


def _digest(path: Path) -> str:
    """SHA-256 of a file as it lies there; "" where it can't be read."""
    try:
        if not path.is_file():  # a pipe would block for ever
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _digests(images: Sequence[Path]) -> dict[str, str]:
    return {os.path.realpath(image): _digest(image) for image in images}


def _predicted(
    case: ImageCase,
    path: Path,
    trained: Trained,
    record: Record,
    batch_size: int | None,
    device: str,
    max_voxels: int,
) -> Predicted:
    """Predict one case and write it; a failure is an outcome, not an end."""
    if case.problem:
        return Predicted(case.name, "failed", reason=case.problem)
    settings, note = trained.settings, ""
    axis: int | None = settings.slice_axis
    assert settings.patch_size is not None  # run.toml holds what it became
    images = _digests(case.images)  # before they are read: a change after it is found next time
    try:
        image = np.stack(_channels(case, max_voxels))
        if image.ndim - 1 < settings.dims:
            raise RWLossError(
                f"expected an image of {settings.dims} axes, as in training, got {image.shape[1:]}"
            )
        if axis is None:
            suffix = suffix_of(case.images[0])
            axis = 0 if suffix in _PAGES else AXIAL
            if image.ndim - 1 > settings.dims:
                note = (
                    f"the run was trained on 2-D images: volumes ({suffix}) are predicted slice by "
                    f"slice, across axis {axis}"
                )
        labels = predict(
            trained.network,
            image,
            settings.patch_size,
            axis=axis,
            batch_size=batch_size,
            overlap=record.overlap,
            device=device,
        )
        with whole_file(path) as temporary:
            write_labels(temporary, labels, like=case.images[0])
            entry = Entry(
                **record.model_dump(),
                label_map=path.name,
                label_map_sha256=_digest(temporary),
                images=images,
            )
            # Before the label map has its name: one without a line would be taken for another's.
            append_line(path.parent / RECORD, json_line(entry.model_dump()), sync=True)
    except RWLossError as error:
        return Predicted(case.name, "failed", reason=str(error))
    except OSError as error:
        if error.errno in _FATAL:
            raise RWLossError(
                f"cannot write {str(path)!r} ({error.strerror}): what is done is kept; make room "
                "and run the same command again"
            ) from error
        return Predicted(case.name, "failed", reason=f"can't be written: {error}")
    except (RuntimeError, MemoryError) as error:  # torch, most often out of memory
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        return Predicted(case.name, "failed", reason=f"{type(error).__name__}: {reason}")
    return Predicted(case.name, "made", path, note=note)


def _channels(case: ImageCase, max_voxels: int) -> list[NDArray[np.float32]]:
    """The channels of one case, each normalised by itself."""
    channels: list[NDArray[np.float32]] = []
    for path in case.images:
        channel = data.read_image(path, max_voxels=max_voxels)
        if channels and channel.shape != channels[0].shape:
            raise RWLossError(
                f"image {str(path)!r} has shape {channel.shape}, {case.images[0].name!r} "
                f"{channels[0].shape}: channels must lie on the same voxels"
            )
        channels.append(normalized(channel))
    return channels
