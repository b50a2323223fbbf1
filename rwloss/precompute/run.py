"""The precompute command: every case of a data set, into a store that survives what happens."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rwloss import data, distance, maps
from rwloss._version import __version__
from rwloss.data.formats import MAX_VOXELS
from rwloss.errors import RWLossError
from rwloss.precompute import survey
from rwloss.precompute.outcome import Outcome, Summary
from rwloss.precompute.task import Task
from rwloss.store import DType, Entry, Format, MapInfo, Term, Writer
from rwloss.store.journal import log, log_start, write_failures
from rwloss.store.manifest import find_unlisted, read_entries
from rwloss.store.nifti import gzip_name
from rwloss.store.place import Place, place
from rwloss.store.writing import check_format, files_of
from rwloss.work.tasks import run_tasks

Progress = Callable[[Outcome, int], None]
Counting = Callable[[int], None]
# Maps that a plan makes to say how large all of them will be.
_MEASURED = 3


@dataclass(frozen=True)
class Settings:
    """How a run is done; nothing here but format and dtype changes what is stored.

    num_classes: by default that of dataset.json, else the largest label of all cases + 1.
    spacing_mm: for formats that carry none. max_voxels: label files that announce more are refused.
    format: "nifti" (a file an array) or "zarr" (chunks, so that patches can be read alone).
    dtype: "auto" is 16 bits where that is within 3e-4 of each value, else float32; or "float32",
    "int16" (NIfTI), "float16" (zarr).
    jobs: worker processes, by default one a core; 0 works in this process. scheduler: a Dask
    scheduler's address in place of them, or "local".
    """

    num_classes: int | None = None
    spacing_mm: Sequence[float] | None = None
    ignore_label: int | None = None
    max_voxels: int = MAX_VOXELS
    format: Format = "nifti"
    dtype: DType = "auto"
    jobs: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.jobs is not None and self.jobs < 0:
            raise RWLossError(f"expected 0 jobs or more, got {self.jobs}")
        if self.max_voxels < 1:
            raise RWLossError(f"expected max_voxels of 1 or more, got {self.max_voxels}")


def precompute(
    source: str | Path | data.Dataset,
    out: str | Path,
    expression: str | maps.Expression,
    *,
    progress: Progress | None = None,
    counting: Counting | None = None,
    **settings: Any,
) -> Summary:
    """Make the map of every case of a data set, into a store at `out`.

    source: an nnU-Net raw folder, a folder or glob of label files, or a Dataset.
    out: a folder, or an fsspec address such as s3://bucket/maps for the format zarr.
    expression: what is stored is its static part, without links and schedules; the dynamic terms
    are computed in training. Class weights that follow from the whole data set become numbers.
    progress: called after each case with its outcome and the number of cases.
    counting: where all labels have to be read before any map is made (for the number of classes
    without a dataset.json, or weights of the whole data set): called after each case with the
    number of cases.
    settings: the fields of `Settings`.

    Cases whose maps are there already, of the same labels and whole, are kept. A case that can't
    be done does not stop the others: it is in the summary. Same maps, byte for byte, whatever the
    number of jobs. Raises RWLossError for wrong use, before any map is made.
    """
    started = time.monotonic()
    where, chosen = place(out), Settings(**settings)
    prepared = _prepare(source, where, expression, chosen, counting)
    outcomes: dict[str, Outcome] = {}
    with Writer.open(where, prepared.info) as writer:
        log_start(
            writer.place,
            source=prepared.source,
            cases=len(prepared.dataset.cases),
            versions=_versions(),
            scheduler=chosen.scheduler,
            jobs=chosen.jobs,
        )
        known = writer.entries()
        tasks = prepared.tasks(writer, known)
        for outcome in _recorded(
            writer, known, run_tasks(tasks, jobs=chosen.jobs, scheduler=chosen.scheduler)
        ):
            outcomes[outcome.case] = outcome
            if progress is not None:
                progress(outcome, len(tasks))
            if outcome.fatal:
                break
        reason = next((outcome.reason for outcome in outcomes.values() if outcome.fatal), "")
        for task in tasks:
            name = task.case.name
            outcomes.setdefault(
                name, Outcome(name, "failed", reason=f"not tried, because a case {reason}")
            )
        summary = prepared.summary(writer.place, outcomes.values(), started)
        _finish(writer, known, summary)
    return summary


def plan(
    source: str | Path | data.Dataset,
    out: str | Path,
    expression: str | maps.Expression,
    *,
    progress: Progress | None = None,
    counting: Counting | None = None,
    **settings: Any,
) -> Summary:
    """What `precompute` would do, without writing anything: cases to make, and their size.

    The size of the maps is estimated from a few of them, made in memory.
    """
    started = time.monotonic()
    where, chosen = place(out), Settings(**settings)
    prepared = _prepare(source, where, expression, chosen, counting)
    try:
        writer = Writer.look(where, prepared.info)
        known = read_entries(where)
        known |= find_unlisted(where, known)
    except OSError as error:
        raise RWLossError(f"{where} can't be read: {error}") from error
    tasks = prepared.tasks(writer, known)
    new = [task for task in tasks if task.known is None] or tasks
    measured = {task.case.name for task in new[:: max(1, len(new) // _MEASURED)]}
    tasks = [replace(task, measure=task.case.name in measured) for task in tasks]
    outcomes = []
    for outcome in run_tasks(tasks, jobs=chosen.jobs, scheduler=chosen.scheduler):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome, len(tasks))
    sized = [outcome for outcome in outcomes if outcome.stored_bytes]
    voxels = sum(outcome.voxels for outcome in sized)
    per_voxel = sum(outcome.stored_bytes for outcome in sized) / voxels if voxels else 0.0
    estimated = (
        replace(outcome, stored_bytes=round(per_voxel * outcome.voxels))
        if outcome.state == "missing" and not outcome.stored_bytes
        else outcome
        for outcome in outcomes
    )
    return prepared.summary(writer.place, estimated, started)


@dataclass(frozen=True)
class _Prepared:
    """A run whose numbers are known: number of classes and class weights.

    source: the data set as it can be found again from any working folder; None for a Dataset.
    """

    source: str | None
    dataset: data.Dataset
    asked: maps.Expression
    static: maps.Expression
    info: MapInfo
    settings: Settings

    def tasks(self, writer: Writer, known: dict[str, Entry]) -> list[Task]:
        """A task for each case."""
        return [
            Task(
                writer,
                case,
                self.static,
                self.settings.spacing_mm,
                self.settings.max_voxels,
                known.get(case.name),
            )
            for case in self.dataset.cases
        ]

    def summary(self, where: Place, outcomes: Iterable[Outcome], started: float) -> Summary:
        """The outcomes by case name, and the rest of the story."""
        return Summary(
            store=str(where),
            asked=str(self.asked),
            expression=self.info.expression,
            num_classes=self.info.num_classes,
            outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.case)),
            seconds=time.monotonic() - started,
        )


def _prepare(
    source: str | Path | data.Dataset,
    where: Place,
    expression: str | maps.Expression,
    chosen: Settings,
    counting: Counting | None,
) -> _Prepared:
    """Everything that can be refused before a label is read, then what follows from all labels."""
    check_format(where, chosen.format, chosen.dtype)
    asked = maps.parse(expression) if isinstance(expression, str) else expression
    static = asked.static_part
    if static is None:
        raise RWLossError(
            f"{asked} depends on the prediction, so there is no map to precompute: "
            "the loss computes it in training; precompute its static terms if you add some"
        )
    if isinstance(source, data.Dataset):
        dataset = source
    else:  # Dask's workers may work in another folder
        dataset = data.find(os.path.abspath(source) if chosen.scheduler else source)
    ignore_label = dataset.ignore_label if chosen.ignore_label is None else chosen.ignore_label
    num_classes = dataset.num_classes if chosen.num_classes is None else chosen.num_classes
    if num_classes is None or static.needs_class_counts:
        # One pass over all labels, before any map is made: never K or weights of a case.
        seen = survey.label_counts(
            dataset,
            chosen.max_voxels,
            counting,
            jobs=chosen.jobs,
            scheduler=chosen.scheduler,
            leave_out=not static.needs_class_counts,
        )
        num_classes = data.count_classes(
            dataset, num_classes, ignore_label=ignore_label, labels=seen
        )
        if ignore_label is not None:
            seen.pop(ignore_label, 0)  # its voxels are of no class, though it may be below K
        static = static.resolved([seen.get(k, 0) for k in range(num_classes)])
    info = MapInfo(
        format=chosen.format,
        dtype=chosen.dtype,
        expression=str(static),
        terms=tuple(_terms(static)),
        num_classes=data.count_classes(dataset, num_classes),
        class_names=dataset.class_names,
        ignore_label=ignore_label,
        spacing_mm=None if chosen.spacing_mm is None else tuple(map(float, chosen.spacing_mm)),
        engine=distance.engine_name(),
        versions=_versions(),
    )
    found_at = None if isinstance(source, data.Dataset) else os.path.abspath(source)
    return _Prepared(found_at, dataset, asked, static, info, chosen)


def _recorded(
    writer: Writer, known: dict[str, Entry], outcomes: Iterator[Outcome]
) -> Iterator[Outcome]:
    """The outcomes, each written down before the next."""
    for outcome in outcomes:
        try:
            if outcome.state == "made" and outcome.entry is not None:
                if (old := known.get(outcome.case)) is not None:
                    # A part that the new map does not have; before its line, so that a run that
                    # is killed in between leaves a case that is not whole.
                    for name in files_of(old) - files_of(outcome.entry):
                        writer.place.remove(name)
                writer.record(outcome.entry)
                known[outcome.case] = outcome.entry
            fields = {"reason": outcome.reason} if outcome.reason else {}
            seconds = round(outcome.seconds, 4)
            log(writer.place, outcome.state, case=outcome.case, seconds=seconds, **fields)
        except OSError as error:
            yield replace(outcome, state="failed", reason=f"can't be written: {error}", fatal=True)
        else:
            yield outcome


def _finish(writer: Writer, known: dict[str, Entry], summary: Summary) -> None:
    """Bring the store's files to their final form; on a full disk they stay as they are."""
    failures = [(outcome.case, outcome.reason) for outcome in summary.failed]
    for step in (
        partial(writer.finish, known.values()),
        partial(write_failures, writer.place, failures),
        partial(log, writer.place, "end", seconds=round(summary.seconds, 4), **summary.counts),
    ):
        try:
            step()
        except OSError:
            # What is appended stands, and the next run goes on from there.
            if not any(outcome.fatal for outcome in summary.outcomes):
                raise


def _terms(static: maps.Expression) -> Iterator[Term]:
    """The generators inside, with all their parameters, defaults too."""
    if isinstance(static, maps.MapGenerator):
        fields = dataclasses.fields(static)
        values = {field.name: getattr(static, field.name) for field in fields}
        yield Term(
            name=static.name,
            revision=maps.revision(type(static)),
            parameters=json.loads(json.dumps(values, default=str)),
        )
    elif isinstance(static, maps.Stabilized):
        yield from _terms(static.inner)
    else:
        for leaf in static.leaves():
            yield from _terms(leaf.term)


def _versions() -> dict[str, str]:
    """Versions of all that decides the bytes of a map."""
    found = {"rwloss": __version__, "gzip": gzip_name()}
    for package in ("numpy", "scipy", "edt", "zarr"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
