"""Maps for a whole data set: cases, a generator and a pool of processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rwloss import data, distance, maps
from rwloss._version import __version__
from rwloss.cores import available_cores
from rwloss.errors import RWLossError
from rwloss.regions import Regions
from rwloss.store import Entry, MapInfo, Writer, labels_digest


@dataclass(frozen=True)
class Outcome:
    """What became of one case: made now, kept from an earlier run, or failed with a reason."""

    case: str
    state: Literal["made", "kept", "failed"]
    entry: Entry | None = None
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    """A finished run: the store's folder, the outcomes, and the wall-clock time in seconds.

    asked: the expression that was given; expression: its static part, which the store holds.
    """

    folder: Path
    asked: str
    expression: str
    outcomes: tuple[Outcome, ...] = field(repr=False)
    seconds: float = 0.0

    @property
    def made(self) -> int:
        """Number of maps made in this run."""
        return sum(outcome.state == "made" for outcome in self.outcomes)

    @property
    def kept(self) -> int:
        """Number of maps that an earlier run had made and that are still right."""
        return sum(outcome.state == "kept" for outcome in self.outcomes)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The cases that could not be done, with the reason of each."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")


def precompute(
    source: str | Path | data.Dataset,
    out: str | Path,
    expression: str | maps.Expression,
    *,
    num_classes: int | None = None,
    spacing_mm: Sequence[float] | None = None,
    ignore_label: int | None = None,
    jobs: int | None = None,
    progress: Callable[[Outcome, int], None] | None = None,
) -> Summary:
    """Make the map of every case of a data set, into a store at `out`.

    expression: what is stored is its static part, without links and schedules; the dynamic terms
    are computed in training.
    source: an nnU-Net raw folder, a folder or glob of label files, or a Dataset.
    num_classes: by default that of dataset.json, else the largest label of all cases + 1.
    spacing_mm: for formats that carry none. jobs: worker processes, by default one a core; 1 works
    in this process. progress: called after each case with its outcome and the number of cases.

    Cases whose maps are there already, of the same labels and whole, are kept. A case that can't
    be done does not stop the others: it is in the summary. Same maps, byte for byte, whatever the
    number of jobs. Raises RWLossError for wrong use, before any map is made.
    """
    started = time.monotonic()
    asked = maps.parse(expression) if isinstance(expression, str) else expression
    static = asked.static_part
    if static is None:
        raise RWLossError(
            f"{asked} depends on the prediction, so there is no map to precompute: "
            "the loss computes it in training; precompute its static terms if you add some"
        )
    dataset = source if isinstance(source, data.Dataset) else data.find(source)
    if jobs is not None and jobs < 1:
        raise RWLossError(f"expected 1 job or more, got {jobs}")
    ignore_label = dataset.ignore_label if ignore_label is None else ignore_label
    info = MapInfo(
        expression=str(static),
        num_classes=data.count_classes(dataset, num_classes, ignore_label=ignore_label),
        class_names=dataset.class_names,
        ignore_label=ignore_label,
        engine=distance.engine_name(),
        versions=_versions(),
    )
    writer = Writer.start(Path(out), info)
    known = writer.entries()
    tasks = [
        _Task(writer, case, static, spacing_mm, known.get(case.name)) for case in dataset.cases
    ]
    outcomes = []
    for outcome in _run(tasks, available_cores() if jobs is None else jobs):
        outcomes.append(outcome)
        if outcome.state == "made" and outcome.entry is not None:
            writer.record(outcome.entry)
            known[outcome.case] = outcome.entry
        if progress is not None:
            progress(outcome, len(tasks))
    writer.finish(known.values())
    outcomes.sort(key=lambda outcome: outcome.case)
    return Summary(
        writer.folder, str(asked), info.expression, tuple(outcomes), time.monotonic() - started
    )


@dataclass(frozen=True)
class _Task:
    """One case, with all that a worker process needs for it."""

    writer: Writer
    case: data.Case
    expression: maps.Expression
    spacing_mm: Sequence[float] | None
    known: Entry | None

    def __call__(self) -> Outcome:
        """Make the map and write it; a failure is an outcome, not an end."""
        try:
            return self._make()
        except RWLossError as error:
            return Outcome(self.case.name, "failed", reason=str(error))
        except Exception as error:  # a plug-in may raise anything; the other cases go on
            reason = f"{type(error).__name__}: {error}"
            return Outcome(self.case.name, "failed", reason=reason)

    def _make(self) -> Outcome:
        volume = data.read_labels(self.case.labels, spacing_mm=self.spacing_mm)
        spacing_mm = volume.spacing_mm or (1.0,) * volume.labels.ndim
        digest = labels_digest(volume.labels, spacing_mm)
        if self.writer.is_done(self.known, digest):
            return Outcome(self.case.name, "kept", self.known)
        info = self.writer.info
        regions = Regions.single(volume.labels, info.num_classes, spacing_mm, info.ignore_label)
        entry = self.writer.add(
            self.case.name,
            self.expression(regions),
            labels_sha256=digest,
            spacing_mm=spacing_mm,
            affine=volume.affine,
        )
        return Outcome(self.case.name, "made", entry)


def _run(tasks: Sequence[_Task], jobs: int) -> Iterator[Outcome]:
    if jobs == 1 or len(tasks) < 2:
        yield from (task() for task in tasks)
        return
    # spawn: workers that share no locks or threads with this process.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
        try:
            yield from _run_in(pool, tasks, 2 * jobs)
        except BrokenProcessPool as error:
            raise RWLossError(
                "a worker process died (out of memory?): the maps made so far are kept; run the "
                "same command again, with fewer --jobs if memory is short"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _run_in(pool: Executor, tasks: Sequence[_Task], ahead: int) -> Iterator[Outcome]:
    """Outcomes as they come; never more than `ahead` tasks wait, whatever the number of cases."""
    waiting: set[Future[Outcome]] = set()
    for task in tasks:
        waiting.add(pool.submit(task))
        if len(waiting) >= ahead:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _versions() -> dict[str, str]:
    """Versions of all that decides the values of a map."""
    found = {"rwloss": __version__}
    for package in ("numpy", "scipy", "edt"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
