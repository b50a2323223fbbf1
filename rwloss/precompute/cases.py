"""The work for one case in a worker process, and its outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.files.atomic import DISK_ERRORS
from rwloss.losses.label_sets import LabelSets
from rwloss.regions import IGNORED, Regions
from rwloss.store import ManifestEntry, Writer, labels_digest
from rwloss.work.tasks import run_tasks

CaseState: TypeAlias = Literal["made", "kept", "failed", "missing"]


@dataclass(frozen=True)
class CaseOutcome:
    """One case: made now, kept from an earlier run, or failed with a reason.

    In a plan, "missing" is a case that a run would make; its bytes are an estimate. seconds: time
    of the worker. stored_bytes: compressed size. fatal: every other case would fail as well.
    in_voxels: no spacing is known.

    state: "made", "kept", "failed" or "missing". reason: of a failure. voxels: of the labels.
    """

    case: str
    state: CaseState
    entry: ManifestEntry | None = None
    reason: str = ""
    seconds: float = 0.0
    voxels: int = 0
    stored_bytes: int = 0
    fatal: bool = False
    in_voxels: bool = False


@dataclass(frozen=True)
class Summary:
    """A finished run: where the store is, the outcomes, and the wall-clock time in seconds.

    asked: the given expression. expression: that of the store, which is the static part with all
    numbers resolved. voxels and stored_bytes: of all finished cases, or those that a plan would do.
    dense_bytes: of the same maps as dense float32. doubts: notes about the dataset, or "".
    outcomes: one per case. seconds: wall-clock time.
    """

    store: str
    asked: str
    expression: str
    num_classes: int
    outcomes: tuple[CaseOutcome, ...] = field(repr=False)
    seconds: float = 0.0
    doubts: str = ""

    @cached_property
    def counts(self) -> dict[CaseState, int]:
        """Number of cases in each state."""
        states = [outcome.state for outcome in self.outcomes]
        return {state: states.count(state) for state in get_args(CaseState)}

    @property
    def made(self) -> int:
        """Number of maps made in this run."""
        return self.counts["made"]

    @property
    def kept(self) -> int:
        """Number of maps that an earlier run made and that are still valid."""
        return self.counts["kept"]

    @property
    def failed(self) -> tuple[CaseOutcome, ...]:
        """The cases that failed, each with its reason."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    @cached_property
    def voxels(self) -> int:
        """Voxels of all cases."""
        return sum(outcome.voxels for outcome in self.outcomes)

    @cached_property
    def stored_bytes(self) -> int:
        """Bytes of their maps."""
        return sum(outcome.stored_bytes for outcome in self.outcomes)

    @property
    def dense_bytes(self) -> int:
        """Bytes that their maps would have as dense float32."""
        return 4 * self.num_classes * self.voxels


@dataclass(frozen=True)
class MapTask:
    """Makes the map of one case. known: its line in the manifest, if it has one.

    measure: for a plan. None makes the map, False only tells whether it exists, True also tells how
    large it would be.
    """

    writer: Writer
    case: data.Case
    expression: maps.Expression
    spacing_mm: Sequence[float] | None
    max_voxels: int
    known: ManifestEntry | None = None
    measure: bool | None = None

    def __call__(self) -> CaseOutcome:
        """Compute the map and write it; a failure is also returned as an outcome."""
        started = time.monotonic()
        try:
            outcome = self._make()
        except RWLossError as error:
            outcome = self._failed(str(error))
        except OSError as error:
            outcome = self._failed(f"can't be written: {error}", fatal=error.errno in DISK_ERRORS)
        except (Exception, SystemExit) as error:  # a plug-in may raise anything
            outcome = self._failed(f"{type(error).__name__}: {error}")
        return replace(outcome, seconds=time.monotonic() - started)

    def died(self) -> CaseOutcome:
        """The outcome if worker processes died on this case."""
        return self._failed(
            "the worker process died while it worked on this case, also alone: it needs more "
            "memory than there is, or its file crashes the library that reads it"
        )

    def _failed(self, reason: str, *, fatal: bool = False) -> CaseOutcome:
        return CaseOutcome(self.case.name, "failed", reason=reason, fatal=fatal)

    def _make(self) -> CaseOutcome:
        if "\\" in self.case.name:
            raise RWLossError(
                "its name holds a backslash, which is a folder on other systems: rename its files"
            )
        volume = self._read()
        spacing_mm = volume.spacing_mm or (1.0,) * volume.labels.ndim
        image = None
        if self.writer.info.uses_image:
            image = data.read_case_image(self.case, volume.labels.shape)
        digest = labels_digest(volume.labels, spacing_mm, volume.affine, image)
        kept = CaseOutcome(
            self.case.name,
            "kept",
            self.known,
            voxels=volume.labels.size,
            in_voxels=volume.spacing_mm is None,
        )
        if self.known is not None and self.writer.is_done(self.known, digest):
            return replace(kept, stored_bytes=self.writer.size(self.known))
        if self.measure is False:
            return replace(kept, state="missing", entry=None)
        info, labels = self.writer.info, volume.labels
        ignored = info.ignore_label
        if info.label_sets:
            sets = LabelSets.of(info.label_sets)
            labels = sets.renumbered(labels, info.num_classes - len(sets), ignored)
            ignored = None if ignored is None else IGNORED
        try:
            regions = Regions.single(labels, info.num_classes, spacing_mm, ignored, image)
        except RWLossError as error:
            if len(info.class_names) != info.num_classes:
                raise
            raise RWLossError(f"its labels disagree with dataset.json: {error}") from error
        rwmap = self.expression(regions)
        if info.label_sets and not rwmap.is_compact:
            raise RWLossError(
                f"{self.expression} has a dense map, which can't take label_sets: add "
                ".stabilized(), whose map is compact"
            )
        made = self.writer.encode(
            self.case.name,
            rwmap,
            labels_sha256=digest,
            spacing_mm=spacing_mm,
            affine=volume.affine,
        )
        if self.measure:
            return replace(kept, state="missing", entry=None, stored_bytes=made.size)
        self.writer.put(made)
        return replace(kept, state="made", entry=made.entry, stored_bytes=made.size)

    def _read(self) -> data.LabelVolume:
        """The labels. Raises RWLossError if their file changes while it is read."""
        path = self.case.labels
        before = _file_state(path)
        volume = data.read_labels(path, spacing_mm=self.spacing_mm, max_voxels=self.max_voxels)
        if _file_state(path) != before:
            raise RWLossError(
                f"{str(path)!r} changed while it was read: run the same command again"
            )
        return volume


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """The state of a file, which changes when it is written."""
    try:
        found = path.stat()
    except OSError:
        return None  # reading it will say why
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True)
class LabelCount:
    """Counts the voxels of each label in a file. The result names the file."""

    path: Path
    max_voxels: int

    def __call__(self) -> tuple[Path, dict[int, int] | RWLossError]:
        """Voxels by label, or why the file can't be read."""
        try:
            labels = data.read_labels(self.path, max_voxels=self.max_voxels).labels
        except RWLossError as error:
            return self.path, error
        if labels.dtype == np.uint8:  # a tenth of the time of a sort
            counts = np.bincount(labels.ravel("K"))
            return self.path, {int(k): int(counts[k]) for k in np.flatnonzero(counts)}
        values, numbers = np.unique(labels, return_counts=True)
        return self.path, dict(zip(values.tolist(), numbers.tolist(), strict=True))

    def died(self) -> tuple[Path, RWLossError]:
        """The error if a worker process died on this file."""
        return self.path, RWLossError(f"a worker process died while it read {str(self.path)!r}")


def label_counts(
    dataset: data.Dataset,
    max_voxels: int,
    counting: Callable[[int], None] | None = None,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    leave_out: bool = False,
) -> dict[int, int]:
    """Voxels of each label in all cases together, including negative and ignored labels.

    counting: called after each case with the number of cases. jobs, scheduler, timeout_s: as for
    `run_tasks`.
    leave_out: leave out cases that can't be read: they will fail later, and the others can be done.
    Raises RWLossError where a case can't be read; with leave_out, where none can.
    """
    total: Counter[int] = Counter()
    unread: list[RWLossError] = []
    tasks = [LabelCount(case.labels, max_voxels) for case in dataset.cases]
    for _, counts in run_tasks(tasks, jobs=jobs, scheduler=scheduler, timeout_s=timeout_s):
        if counting is not None:
            counting(len(tasks))
        if isinstance(counts, RWLossError):
            unread.append(counts)
        else:
            total.update(counts)
    if unread and leave_out and not total:
        raise unread[-1]
    if unread and not leave_out:
        raise RWLossError(
            f"weights of the whole dataset need the voxels of every case, and {len(unread)} of "
            f"{len(tasks)} can't be read: {unread[0]}; fix them, remove them, or write the weights "
            "as numbers"
        )
    return dict(total)
