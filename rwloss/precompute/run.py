"""Compute the maps of all cases of a dataset, in a store that survives interrupted runs."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rwloss import data, distance, maps
from rwloss._version import versions_of
from rwloss.data.formats import MAX_VOXELS, check_max_voxels
from rwloss.errors import RWLossError
from rwloss.losses.label_sets import LabelSets
from rwloss.precompute.cases import CaseOutcome, MapTask, Summary, label_counts
from rwloss.store import DType, Format, ManifestEntry, MapInfo, Writer
from rwloss.store.encoding import gzip_name
from rwloss.store.manifest import all_entries, log, terms_of, write_entries, write_failures
from rwloss.store.place import StorePlace, place
from rwloss.store.store import check_format
from rwloss.work.tasks import run_tasks


@dataclass(frozen=True)
class PrecomputeSettings:
    """Settings of precompute. Those that describe the labels, `format` and `dtype` change the maps.

    num_classes: by default that of dataset.json, else the largest label of all cases + 1.
    spacing_mm: for formats without one. ignore_label: by default that of dataset.json.
    label_sets: labels that mean one of several classes, {3: (1, 2)}; set i is class K + i of a map.
    max_voxels: label files that announce more are refused.
    format: "nifti" (one file per array) or "zarr" (chunks, so that patches can be read separately).
    dtype: "auto" is 16 bits where that is within 3e-4 of each value, else float32; or "float32",
    "int16" (NIfTI), "float16" (zarr).
    jobs: worker processes, by default one per core; 0 uses only this process. scheduler: the
    address of a Dask scheduler to use instead, or "local". timeout_s: how long it may have no
    workers.
    """

    num_classes: int | None = None
    spacing_mm: Sequence[float] | None = None
    ignore_label: int | None = None
    label_sets: Mapping[Any, Sequence[int]] | None = None
    max_voxels: int = MAX_VOXELS
    format: Format = "nifti"
    dtype: DType = "auto"
    jobs: int | None = None
    scheduler: str | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.jobs is not None and self.jobs < 0:
            raise RWLossError(f"expected 0 jobs or more, got {self.jobs}")
        check_max_voxels(self.max_voxels)


def precompute(
    source: str | Path | data.Dataset,
    out: str | Path,
    expression: str | maps.Expression,
    *,
    progress: Callable[[CaseOutcome, int], None] | None = None,
    counting: Callable[[int], None] | None = None,
    **settings: Any,
) -> Summary:
    """Compute the map of every case of a dataset, in a store at `out`.

    source: an nnU-Net raw folder, a folder or glob of label files, or a Dataset.
    out: a folder, or an fsspec address such as s3://bucket/maps for the format zarr.
    expression: its static part is stored, without links and schedules; the dynamic terms are
    computed in training. Class weights that follow from the whole dataset become numbers. Maps that
    use the image get the gray values of its files, (1 c *s), not normalized.
    progress: called after each case with its outcome and the number of cases.
    counting: called with the number of cases after each case that is read before the first map is
    made; that happens for the number of classes without a dataset.json, and for weights of the
    whole dataset.
    settings: the fields of `PrecomputeSettings`.

    Complete maps of the same labels are kept. A case that fails does not stop the others: it is in
    the summary. The maps are the same, byte for byte, whatever the number of jobs. Raises
    RWLossError for wrong use, before any map is made.
    """
    started = time.monotonic()
    run = _Run.prepare(source, place(out), expression, PrecomputeSettings(**settings), counting)
    outcomes: dict[str, CaseOutcome] = {}
    with Writer.open(run.place, run.info) as writer:
        log(
            run.place,
            "start",
            pid=os.getpid(),
            host=socket.gethostname(),
            source=run.source,
            cases=len(run.dataset.cases),
            versions=_versions(),
            scheduler=run.settings.scheduler,
            jobs=run.settings.jobs,
        )
        known = writer.entries()
        tasks, reason = run.tasks(writer, known), ""
        for result in run.results(tasks):
            outcome = _recorded(writer, known, result)
            outcomes[outcome.case] = outcome
            if progress is not None:
                progress(outcome, len(tasks))
            if outcome.fatal:
                reason = f"not tried, because a case {outcome.reason}"
                break
        for case in run.dataset.cases:
            outcomes.setdefault(case.name, CaseOutcome(case.name, "failed", reason=reason))
        summary = run.summary(outcomes.values(), started)
        _finish(writer, known, summary)
    return summary


def plan(
    source: str | Path | data.Dataset,
    out: str | Path,
    expression: str | maps.Expression,
    *,
    progress: Callable[[CaseOutcome, int], None] | None = None,
    counting: Callable[[int], None] | None = None,
    **settings: Any,
) -> Summary:
    """Plan of `precompute`, without writing anything: cases to make, and their size.

    The size of the maps is estimated from a few of them, made in memory.

    source, out, expression, progress, settings: as for `precompute`. counting: called after each
    case with the number of cases.
    """
    started = time.monotonic()
    run = _Run.prepare(source, place(out), expression, PrecomputeSettings(**settings), counting)
    try:
        writer = Writer.look(run.place, run.info)
        known = all_entries(run.place)
    except OSError as error:
        raise RWLossError(f"{run.place} can't be read: {error}") from error
    tasks = run.tasks(writer, known)
    new = [task for task in tasks if task.known is None] or tasks
    measured = {task.case.name for task in new[:: max(1, len(new) // 3)]}
    tasks = [replace(task, measure=task.case.name in measured) for task in tasks]
    outcomes = []
    for outcome in run.results(tasks):
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
    return run.summary(estimated, started)


@dataclass(frozen=True)
class _Run:
    """A run whose number of classes and class weights are known.

    source: the dataset, as it can be found from any working folder; None for a Dataset object.
    """

    source: str | None
    place: StorePlace
    dataset: data.Dataset
    asked: maps.Expression
    static: maps.Expression
    info: MapInfo
    settings: PrecomputeSettings
    doubts: str

    @classmethod
    def prepare(
        cls,
        source: str | Path | data.Dataset,
        where: StorePlace,
        expression: str | maps.Expression,
        settings: PrecomputeSettings,
        counting: Callable[[int], None] | None,
    ) -> _Run:
        """Check everything that can be checked before a label is read; then read labels if
        needed."""
        check_format(where, settings.format, settings.dtype)
        asked = maps.parse(expression) if isinstance(expression, str) else expression
        static = asked.static_part
        if static is None:
            raise RWLossError(
                f"{asked} depends on the prediction, so there is no map to precompute: "
                "the loss computes it in training; precompute its static terms if you add some"
            )
        if isinstance(source, data.Dataset):
            dataset, found_at = source, None
        else:
            found_at = os.path.abspath(source)
            # Workers of Dask may work in another folder.
            dataset = data.find(found_at if settings.scheduler else source)
        sets = LabelSets.of(settings.label_sets) if settings.label_sets else None
        dataset = data.without_label_sets(dataset, sets)
        ignore_label, num_classes = settings.ignore_label, settings.num_classes
        ignore_label = dataset.ignore_label if ignore_label is None else ignore_label
        seen = None
        is_known = num_classes is not None or dataset.num_classes is not None
        if static.needs_class_counts or not is_known:
            # From all labels before any map is made: never K or weights of a single case.
            seen = label_counts(
                dataset,
                settings.max_voxels,
                counting,
                jobs=settings.jobs,
                scheduler=settings.scheduler,
                timeout_s=settings.timeout_s,
                leave_out=not static.needs_class_counts,
            )
        doubts = dataset.doubts
        if num_classes is not None:  # the user insists
            doubts = "\n".join(
                filter(None, (doubts, data.one_class_left(dataset, ignore_label, seen)))
            )
        of_sets = [] if sets is None else [(seen or {}).pop(label, 0) for label in sets.labels]
        if sets is not None and seen is not None:
            seen |= {k: seen.get(k, 0) for k in sets.members}
        num_classes = data.count_classes(
            dataset, num_classes, ignore_label=ignore_label, labels=seen
        )
        class_names = dataset.class_names
        if sets is not None:
            sets.check_fit(num_classes, ignore_label)
            class_names = class_names and (*class_names[:num_classes], *sets.names(class_names))
        if seen is not None:
            if ignore_label is not None:
                seen.pop(ignore_label, 0)  # its voxels have no class, even if it is below K
            counts = [seen.get(k, 0) for k in range(num_classes)]
            static = static.resolved([*counts, *of_sets])
        spacing_mm = settings.spacing_mm
        info = MapInfo(
            format=settings.format,
            dtype=settings.dtype,
            expression=str(static),
            terms=terms_of(static),
            num_classes=num_classes + len(of_sets),
            class_names=class_names,
            ignore_label=ignore_label,
            label_sets={} if sets is None else sets.as_table(),
            spacing_mm=None if spacing_mm is None else tuple(map(float, spacing_mm)),
            uses_image=static.uses_image,
            engine=distance.engine_name(),
            versions=_versions(),
        )
        return cls(found_at, where, dataset, asked, static, info, settings, doubts)

    def tasks(self, writer: Writer, known: dict[str, ManifestEntry]) -> list[MapTask]:
        """One task per case."""
        return [
            MapTask(
                writer,
                case,
                self.static,
                self.settings.spacing_mm,
                self.settings.max_voxels,
                known.get(case.name),
            )
            for case in self.dataset.cases
        ]

    def results(self, tasks: Sequence[MapTask]) -> Iterator[CaseOutcome]:
        """The outcomes of all tasks, in any order."""
        settings = self.settings
        return run_tasks(
            tasks,
            jobs=settings.jobs,
            scheduler=settings.scheduler,
            timeout_s=settings.timeout_s,
        )

    def summary(self, outcomes: Iterable[CaseOutcome], started: float) -> Summary:
        """The outcomes sorted by case. started: by the monotonic clock, in seconds."""
        return Summary(
            store=str(self.place),
            asked=str(self.asked),
            expression=self.info.expression,
            num_classes=self.info.num_classes,
            outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.case)),
            seconds=time.monotonic() - started,
            doubts=self.doubts,
        )


def _recorded(writer: Writer, known: dict[str, ManifestEntry], outcome: CaseOutcome) -> CaseOutcome:
    """The outcome, after it is recorded in manifest and log."""
    try:
        if outcome.state == "made" and outcome.entry is not None:
            if (old := known.get(outcome.case)) is not None:
                # Parts that the new map does not have. Before its line is written, so that a run
                # that is killed in between leaves an incomplete case.
                for name in old.files - outcome.entry.files:
                    writer.place.remove(name)
            writer.record(outcome.entry)
            known[outcome.case] = outcome.entry
        fields = {"reason": outcome.reason} if outcome.reason else {}
        seconds = round(outcome.seconds, 4)
        log(writer.place, outcome.state, case=outcome.case, seconds=seconds, **fields)
    except OSError as error:
        return replace(outcome, state="failed", reason=f"can't be written: {error}", fatal=True)
    return outcome


def _finish(writer: Writer, known: dict[str, ManifestEntry], summary: Summary) -> None:
    """Write the store's own files in their final form; on a full disk they stay unchanged."""
    failures = [(outcome.case, outcome.reason) for outcome in summary.failed]
    for step in (
        partial(write_entries, writer.place, known.values()),
        partial(write_failures, writer.place, failures),
        partial(log, writer.place, "end", seconds=round(summary.seconds, 4), **summary.counts),
    ):
        try:
            step()
        except OSError:
            # Lines that were appended remain, and the next run resumes from them.
            if not any(outcome.fatal for outcome in summary.outcomes):
                raise


def _versions() -> dict[str, str]:
    """Versions of everything that determines the bytes of a map."""
    return versions_of() | {"gzip": gzip_name()} | versions_of("numpy", "scipy", "edt", "zarr")
