"""Predict label maps for a folder of images with the network of a run, and record their origin."""

from __future__ import annotations

import hashlib
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
from rwloss.data.cases import DatasetPart, ImageCase, find_images
from rwloss.data.formats import MAX_VOXELS, suffix_of
from rwloss.data.splits import SplitPart
from rwloss.data.writing import write_labels
from rwloss.errors import RWLossError
from rwloss.files.atomic import DISK_ERRORS, TEMPORARY_PREFIX, whole_file
from rwloss.files.journal import append_line, json_line, parsed_lines, read_regular
from rwloss.training.inference import OVERLAP, check_overlap, predict_labels
from rwloss.training.normalization import normalized_channels
from rwloss.training.run_folder import RunFolder
from rwloss.training.volumes import AXIAL
from rwloss.words import some

if TYPE_CHECKING:
    from rwloss.training.network import CheckpointName, TrainedNetwork

RECORD_FILE = "predictions.jsonl"
"""The file next to the label maps with one line per label map, which records how it was made."""

PredictionState: TypeAlias = Literal["made", "kept", "failed"]


class PredictionRecord(BaseModel):
    """Everything that determines the label maps of a start, except the images.

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

    @property
    def origin(self) -> str:
        """The origin of these label maps, in words."""
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


@dataclass(frozen=True)
class PredictedCase:
    """The outcome of one case: made now, kept from an earlier start, or failed with a reason.

    note: a choice that the run does not determine, or "".
    """

    case: str
    state: PredictionState
    path: Path | None = None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """Label maps of a folder.

    out: the folder. record: what the label maps were made with. outcomes: one per case, sorted by
    name. seconds: wall-clock time.
    """

    out: str
    record: PredictionRecord
    outcomes: tuple[PredictedCase, ...] = field(repr=False)
    seconds: float = 0.0

    @property
    def made(self) -> int:
        """Number of label maps made in this start."""
        return sum(outcome.state == "made" for outcome in self.outcomes)

    @property
    def kept(self) -> int:
        """Number of label maps kept from an earlier start."""
        return sum(outcome.state == "kept" for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[PredictedCase, ...]:
        """The cases without a label map of their current images."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")


def predict_images(
    run: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    checkpoint: CheckpointName = "best",
    network: str | None = None,
    part: DatasetPart | None = None,
    split: SplitPart | None = None,
    overlap: float = OVERLAP,
    batch_size: int | None = None,
    device: str | None = None,
    overwrite: bool = False,
    max_voxels: int = MAX_VOXELS,
    progress: Callable[[PredictedCase, int], None] | None = None,
) -> Predictions:
    """Write a label map for every image of a folder, in the format and geometry of the image.

    run: folder of a run of `rwloss train`. images: a folder (CASE_0000.ext, CASE_0001.ext, ..., one
    file per channel, or CASE.ext), an nnU-Net raw folder (`part`: by default imagesTs if it
    exists), or one file. out: the folder of CASE.ext; it is created if needed.
    split: only the cases of this part of the run's own split, by name, from both parts of an
    nnU-Net raw folder.
    checkpoint: "best" on the validation cases, or "last". network: the class that the run was
    trained with, if it is the user's own; it is never taken from the run's folder.
    overlap, batch_size: see `predict_labels`. device: "cpu", "cuda", ...; by default a GPU if there
    is one.
    overwrite: replace existing label maps. Without it, those of an earlier start with the same
    weights, overlap and images are kept, those whose images have changed are predicted again, and
    any other is an error.
    progress: called after each case with its outcome and the number of cases.

    Images are normalized as in training. A case that fails does not stop the others. The folder may
    hold label maps of other runs for other cases.
    Raises RWLossError for wrong use, before any label map is made, and for a full disk.
    """
    from rwloss.training.network import load_network

    started = time.monotonic()
    check_overlap(overlap)
    used = _device(device)
    trained = load_network(run, which=checkpoint, device=used, network=network)
    source, folder, channels = RunFolder(run), Path(out), trained.task.in_channels
    record = PredictionRecord(
        rwloss=__version__,
        run=str(run),
        checkpoint=checkpoint,
        step=trained.step,
        weights_sha256=_file_digest(source.checkpoint(checkpoint)),
        overlap=overlap,
        class_names=trained.task.class_names,
    )
    if split is None:
        cases = find_images(images, channels, part=part)
    else:
        cases = _named(source.cases(split), images, channels, part)
    paths = {folder / f"{case.name}{suffix_of(case.images[0])}": case for case in cases}
    start = _Start(folder, trained, record, batch_size, used, max_voxels)
    kept = start.begin(paths, overwrite=overwrite)
    outcomes: list[PredictedCase] = []
    for path, case in paths.items():
        done = PredictedCase(case.name, "kept", path) if path in kept else None
        outcomes.append(done or start.predicted(path, case))
        if progress is not None:
            progress(outcomes[-1], len(cases))
    return Predictions(str(out), record, tuple(outcomes), time.monotonic() - started)


def _named(
    names: Sequence[str], images: str | Path, num_channels: int, part: DatasetPart | None
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


@dataclass(frozen=True)
class _Start:
    """The shared state of all cases of one start."""

    folder: Path
    trained: TrainedNetwork
    record: PredictionRecord
    batch_size: int | None
    device: str
    max_voxels: int

    def begin(self, paths: Mapping[Path, ImageCase], *, overwrite: bool) -> set[Path]:
        """Create the folder and its record; return the label maps to keep.

        Raises RWLossError if the folder holds other label maps of these cases. With overwrite,
        removes them, so that none is left if a case fails, or if this start is interrupted.
        """
        folder, here = self.folder, self.folder.resolve()
        if any(image.parent.resolve() == here for case in paths.values() for image in case.images):
            raise RWLossError(f"{str(folder)!r} is the folder of the images: name another as OUT")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept, others = self._compared(paths)
            if others and not overwrite:
                path, origin = next(iter(others.items()))
                raise RWLossError(
                    f"{str(folder)!r} holds {len(others)} label maps of these cases already, such "
                    f"as {path.name!r}, {origin}; this start would make them by "
                    f"{self.record.origin}: name another folder, or --overwrite them"
                )
            append_line(folder / RECORD_FILE, b"")  # if nothing can be written, nothing is removed
            for path in others:
                path.unlink()
            for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
                # Left by a start that was killed at least an hour ago, not by a running one.
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise RWLossError(
                f"cannot write to {str(folder)!r}: {error.strerror or error}"
            ) from error
        return set() if overwrite else kept

    def _compared(self, paths: Mapping[Path, ImageCase]) -> tuple[set[Path], dict[Path, str]]:
        """The label maps that this start would reproduce, and the origin of others.

        Neither includes label maps that do not exist, or whose images have changed.
        """
        entries = {}  # the newest of several
        with suppress(FileNotFoundError):
            for fields in parsed_lines(read_regular(self.folder / RECORD_FILE)):
                with suppress(ValueError):
                    entry = PredictionEntry.model_validate(fields)
                    entries[entry.label_map, entry.label_map_sha256] = entry
        own = self.record.weights_sha256, self.record.overlap
        kept: set[Path] = set()
        others: dict[Path, str] = {}
        for path, case in paths.items():
            if not os.path.lexists(path):
                continue
            before = entries.get((path.name, _file_digest(path)))
            if before is None:
                others[path] = "of unknown origin, or changed since it was made"
            elif (before.weights_sha256, before.overlap) != own:
                others[path] = f"made by {before.origin}"
            else:
                images = _image_digests(case.images)
                digests = [*images.values()]  # the same images may lie elsewhere now
                if "" not in digests and digests == [*before.images.values()]:
                    kept.add(path)
                elif before.images.keys() != images.keys() and not case.problem:
                    others[path] = f"made from other images ({', '.join(before.images)})"
        return kept, others

    def predicted(self, path: Path, case: ImageCase) -> PredictedCase:
        """Predict one case and write it; a failure is an outcome too."""
        try:
            return PredictedCase(case.name, "made", path, note=self._make(path, case))
        except RWLossError as error:
            reason = str(error)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise RWLossError(
                    f"cannot write {str(path)!r} ({error.strerror}): finished label maps are kept; "
                    "free some space and rerun the same command"
                ) from error
            reason = f"can't be written: {error}"
        except (RuntimeError, MemoryError) as error:  # torch, most often out of memory
            [first, *_] = [*str(error).splitlines(), "out of memory"]
            reason = f"{type(error).__name__}: {first}"
        return PredictedCase(case.name, "failed", reason=reason)

    def _make(self, path: Path, case: ImageCase) -> str:
        """Write the label map of a case and its line of the record. Returns a note, or ""."""
        if case.problem:
            raise RWLossError(case.problem)
        size = self.trained.settings.patch_size
        assert size is not None  # run.toml holds the value it took
        images = _image_digests(case.images)  # before they are read: a later change is found then
        channels = self.trained.task.in_channels
        placed = data.read_channels(case.images, channels, max_voxels=self.max_voxels)
        image = normalized_channels([each.values for each in placed], self.trained.settings)
        axis, note = self._slice_axis(image, suffix_of(case.images[0]))
        labels = predict_labels(
            self.trained.network,
            image,
            size,
            axis=axis,
            batch_size=self.batch_size,
            overlap=self.record.overlap,
            device=self.device,
        )
        with whole_file(path) as temporary:
            write_labels(temporary, labels, like=case.images[0])
            entry = PredictionEntry(
                **self.record.model_dump(),
                label_map=path.name,
                label_map_sha256=_file_digest(temporary),
                images=images,
            )
            # Before the label map gets its name: without this line, its origin would be unknown.
            append_line(self.folder / RECORD_FILE, json_line(entry.model_dump()), sync=True)
        return note

    def _slice_axis(self, image: NDArray[np.float32], suffix: str) -> tuple[int, str]:
        """The axis perpendicular to the slices of an image (c *s); a note if the run does not
        determine it.

        Raises RWLossError for an image with fewer axes than the network needs.
        """
        dims, chosen = self.trained.settings.dims, self.trained.settings.slice_axis
        if image.ndim - 1 < dims:
            raise RWLossError(
                f"expected an image of {dims} axes, as in training, got {image.shape[1:]}"
            )
        if chosen is not None:
            return chosen, ""
        axis = 0 if suffix in {".tif", ".tiff"} else AXIAL  # pages come first
        if 1 in image.shape[1:]:  # one slice
            axis = [n for n, length in enumerate(image.shape[1:]) if length == 1][-1]
        if image.ndim - 1 == dims:
            return axis, ""
        return axis, (
            f"the run was trained on 2-D images: volumes ({suffix}) are predicted slice by slice, "
            f"across axis {axis}"
        )


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; "" if it can't be read."""
    with suppress(OSError):
        if path.is_file():  # reading a pipe would block
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _image_digests(images: Sequence[Path]) -> dict[str, str]:
    """Path and SHA-256 of each channel, in order."""
    return {os.path.realpath(image): _file_digest(image) for image in images}
