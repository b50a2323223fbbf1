"""Running a study in its folder: each run on its own, none stopped by the failure of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.files.atomic import write_text
from rwloss.files.journal import read_regular
from rwloss.files.lock import hold
from rwloss.study import indicators, plan, results
from rwloss.study.plan import Run, Study
from rwloss.study.results import Results
from rwloss.training.environment import fabric_of
from rwloss.training.preparation import test_cases
from rwloss.training.run_folder import RunFolder
from rwloss.training.settings import RunSettings
from rwloss.words import count_of
from rwloss.work.tasks import run_tasks


@dataclass(frozen=True)
class RunEnd:
    """How a run ended. reason: why it failed; None where it reached its end."""

    name: str
    seed: int
    reason: str | None = None


Watch: TypeAlias = Callable[[Sequence[Run]], AbstractContextManager[Callable[[RunEnd], None]]]
"""What surrounds the training: it is entered with the runs, and gives what is told of each end."""


def conduct(
    study: Study,
    folder: Path,
    watch: Watch,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Results:
    """Run a study in its folder, or what is left of it, and write its results there.

    jobs, scheduler, timeout_s: as for `rwloss.work.tasks.run_tasks`. note: told what is worth
    knowing before the training. What is wrong with settings, data and devices is found before the
    first run, and leaves the folder as it was. Raises RWLossError for it, and where another process
    works in the folder, whose runs would look like failed ones.
    """
    study = plan.placed(study, folder)
    first = next(plan.runs(study, folder)).settings
    file = folder / "study.toml"
    if file.exists() and (before := Study.read(file).steps) != study.steps:
        # Every run takes longer, the finished ones too.
        note(f"steps grow from {before:,} to {study.steps:,}, in every run of the study")
    if scheduler is not None:
        from rwloss.work.dask import expect_scheduler

        expect_scheduler(scheduler, timeout_s)
    if scheduler in {None, "local"}:  # other machines may have what this one lacks
        fabric_of(first)
    cases = len(data.find(study.data).cases) + len(test_cases(first) or ())
    note(f"reading {count_of(cases, 'case')} ...")
    found = indicators.indicators(study, folder, note)
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        if plan.placed(study, folder) != study:
            raise RWLossError(f"the study in {str(folder)!r} has just been changed: start again")
        study.write(file)
        runs = list(plan.runs(study, folder))
        with watch(runs) as on_end:
            carry_out(runs, jobs=jobs, scheduler=scheduler, timeout_s=timeout_s, on_end=on_end)
        collected = results.collect(study, folder, found)
        results.write(collected, folder)
    return collected


def carry_out(
    runs: Sequence[Run],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    on_end: Callable[[RunEnd], None] | None = None,
) -> list[RunEnd]:
    """Train all runs: skip those that are done, resume interrupted ones, retry failed ones.

    jobs, scheduler, timeout_s: as for `rwloss.work.tasks.run_tasks`. Each run uses one thread on
    the CPU, so its results are the same bit for bit wherever it runs. on_end: called as runs end,
    in any order.
    Returns the ends in the order of runs. The reason of a failure is kept beside the folder of the
    run (`Run.failure`) until the run reaches its end.
    """
    ends: dict[tuple[str, int], RunEnd] = {}
    tasks = [_TrainRun(run) for run in runs]
    # One task ahead: no run waits behind another while a process is idle.
    for end in run_tasks(tasks, jobs=jobs, scheduler=scheduler, timeout_s=timeout_s, ahead=1):
        ends[end.name, end.seed] = end
        if on_end is not None:
            on_end(end)
    return [ends[run.name, run.seed] for run in runs]


def steps_done(run: Run) -> int:
    """Steps that a run has done, by the last line of its log; 0 where that can't be read.

    Never raises, because another process or machine may be writing to the log.
    """
    try:
        lines = read_regular(RunFolder(run.folder).metrics).split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


@dataclass(frozen=True)
class _TrainRun:
    """The task of one run, in any process."""

    run: Run

    def __call__(self) -> RunEnd:
        """Train or resume. A failure is returned, so that the study continues."""
        import torch

        from rwloss.training import train

        run, threads = self.run, torch.get_num_threads()
        torch.set_num_threads(1)  # sums in one order
        try:
            if not _is_done(run):
                train(run.settings)
        except Exception as error:  # out of memory, or an unforeseen error of a library
            known = isinstance(error, RWLossError)
            return self._failed(str(error) if known else f"{type(error).__name__}: {error}")
        finally:
            torch.set_num_threads(threads)
        run.failure.unlink(missing_ok=True)
        return RunEnd(run.name, run.seed)

    def died(self) -> RunEnd:
        """The failure where a worker process died in this run, with a retry alone too."""
        return self._failed("the process died in this run: it may need more memory")

    def _failed(self, reason: str) -> RunEnd:
        failure = self.run.failure
        with suppress(OSError, RWLossError):  # a full disk is the reason itself
            failure.parent.mkdir(parents=True, exist_ok=True)
            write_text(failure, f"{reason}\n")
        return RunEnd(self.run.name, self.run.seed, reason)


def _is_done(run: Run) -> bool:
    """Whether the folder holds this run, done. Unlike a start, this does not read the data."""
    folder, now = RunFolder(run.folder), run.settings
    if not folder.is_done(now):
        return False
    before = RunSettings.read(folder.settings)
    given = now.model_fields_set - {"out"}
    return not [name for name in given if getattr(before, name) != getattr(now, name)]
