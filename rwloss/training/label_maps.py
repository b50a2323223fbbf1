"""Label maps of a folder of images, by the network of a run."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from rwloss import data
from rwloss._version import __version__
from rwloss.data.cases import Part
from rwloss.data.formats import MAX_VOXELS, suffix_of
from rwloss.data.images import ImageCase, find_images
from rwloss.data.writing import write_labels
from rwloss.errors import RWLossError
from rwloss.store.atomic import TEMPORARY_PREFIX, whole_file
from rwloss.training.run_folder import RunFolder
from rwloss.training.splits import SplitPart, some
from rwloss.training.volumes import normalized
from rwloss.training.windows import OVERLAP, check_overlap, predict

if TYPE_CHECKING:
    from rwloss.training.checkpoint import Trained, Which

State: TypeAlias = Literal["made", "kept", "failed"]

RECORD = "prediction.json"
"""The file beside the label maps that says what made them."""

# What the next case would meet too: no space, no quota, a file system that became read-only.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# A label map is written in one go.
_LEFT_AFTER_S = 3600


class Record(BaseModel):
    """What decides the label maps of a folder; written before the first of them.

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


@dataclass(frozen=True)
class Predicted:
    """What became of one case: made now, kept from an earlier start, or failed with a reason."""

    case: str
    state: State
    path: Path | None = None
    reason: str = ""


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
        """The cases that have no label map now, each with the reason."""
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
    overwrite: make label maps again that are there. Without it those of an earlier start are kept
    (each is whole: files appear with a rename), if it was with the same weights and overlap.
    progress: called after each case with what became of it and the number of cases.

    Images are normalised as in training. A case that fails does not stop the others.
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
    _begin(folder, record, cases, paths, overwrite=overwrite)
    outcomes: list[Predicted] = []
    for case, path in zip(cases, paths, strict=True):
        if not overwrite and _is_done(path, case.images):
            outcomes.append(Predicted(case.name, "kept", path))
        else:
            outcomes.append(_predicted(case, path, trained, overlap, batch_size, used, max_voxels))
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
) -> None:
    """Make the folder and its record; refuse one whose label maps are another record's."""
    if folder.resolve() in {image.parent.resolve() for case in cases for image in case.images}:
        raise RWLossError(f"{str(folder)!r} is the folder of the images: name another as OUT")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _record_in(folder)
        if before is None or not before.makes_the_same_as(record):
            there = [path for path in paths if os.path.lexists(path)]
            if there and not overwrite:
                made = "of another origin" if before is None else f"made by {before.origin}"
                raise RWLossError(
                    f"{str(folder)!r} holds {len(there)} label maps of these cases already, {made};"
                    f" now it would be {record.origin}: name another folder, or --overwrite them"
                )
            for path in there:  # a stop from here on must not leave them under the new record
                path.unlink()
            with whole_file(folder / RECORD) as new:
                new.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
            # By a start that was killed, and not by one that writes beside this one.
            if time.time() - left.stat().st_mtime > _LEFT_AFTER_S:
                left.unlink(missing_ok=True)
    except OSError as error:
        raise RWLossError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from error


def _is_done(path: Path, images: Sequence[Path]) -> bool:
    """Whether a label map is there, and not older than its images."""
    try:
        made = path.stat().st_mtime_ns
        return all(image.stat().st_mtime_ns <= made for image in images)
    except OSError:
        return False


def _record_in(folder: Path) -> Record | None:
    """The record of an earlier start; None without one that can be understood."""
    try:
        return Record.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):
        return None


def _predicted(
    case: ImageCase,
    path: Path,
    trained: Trained,
    overlap: float,
    batch_size: int | None,
    device: str,
    max_voxels: int,
) -> Predicted:
    """Predict one case and write it; a failure is an outcome, not an end."""
    if case.problem:
        return Predicted(case.name, "failed", reason=case.problem)
    settings = trained.settings
    assert settings.patch_size is not None  # run.toml holds what it became
    try:
        image = np.stack(_channels(case, max_voxels))
        if image.ndim - 1 < settings.dims:
            raise RWLossError(
                f"expected an image of {settings.dims} axes, as in training, got {image.shape[1:]}"
            )
        labels = predict(
            trained.network,
            image,
            settings.patch_size,
            axis=settings.slice_axis or 0,
            batch_size=batch_size,
            overlap=overlap,
            device=device,
        )
        with whole_file(path) as temporary:
            write_labels(temporary, labels, like=case.images[0])
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
    return Predicted(case.name, "made", path)


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
