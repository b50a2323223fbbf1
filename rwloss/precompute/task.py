"""One case of a run, with all that a worker process needs for it."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.precompute.outcome import CaseOutcome
from rwloss.regions import Regions
from rwloss.store import ManifestEntry, Writer, labels_digest

# The next case would fail too: no space, no quota, or a file system that became read-only.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


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
        """Make the map and write it; a failure is an outcome, too."""
        started = time.monotonic()
        try:
            outcome = self._make()
        except RWLossError as error:
            outcome = self._failed(str(error))
        except OSError as error:
            outcome = self._failed(f"can't be written: {error}", fatal=error.errno in _FATAL)
        except (Exception, SystemExit) as error:  # a plug-in may raise anything
            outcome = self._failed(f"{type(error).__name__}: {error}")
        return replace(outcome, seconds=time.monotonic() - started)

    def died(self) -> CaseOutcome:
        """The outcome where worker processes died over this case."""
        return self._failed(
            "the worker process died while it worked on this case, alone as well: it needs more "
            "memory than there is, or its file crashes the library that reads it"
        )

    def _failed(self, reason: str, *, fatal: bool = False) -> CaseOutcome:
        return CaseOutcome(self.case.name, "failed", reason=reason, fatal=fatal)

    def _make(self) -> CaseOutcome:
        volume = self._read()
        spacing_mm = volume.spacing_mm or (1.0,) * volume.labels.ndim
        digest = labels_digest(volume.labels, spacing_mm, volume.affine)
        kept = CaseOutcome(self.case.name, "kept", self.known, voxels=volume.labels.size)
        if self.known is not None and self.writer.is_done(self.known, digest):
            return replace(kept, stored_bytes=self.writer.size(self.known))
        if self.measure is False:
            return replace(kept, state="missing", entry=None)
        info = self.writer.info
        try:
            regions = Regions.single(volume.labels, info.num_classes, spacing_mm, info.ignore_label)
        except RWLossError as error:
            if len(info.class_names) != info.num_classes:
                raise
            raise RWLossError(f"its labels disagree with dataset.json: {error}") from error
        made = self.writer.encode(
            self.case.name,
            self.expression(regions),
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
        before = _file_state(self.case.labels)
        volume = data.read_labels(
            self.case.labels, spacing_mm=self.spacing_mm, max_voxels=self.max_voxels
        )
        if _file_state(self.case.labels) != before:
            raise RWLossError(
                f"{str(self.case.labels)!r} changed while it was read: run the same command again"
            )
        return volume


def _file_state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written."""
    try:
        found = path.stat()
    except OSError:
        return None  # reading it will say why
    return found.st_mtime_ns, found.st_size, found.st_ino
