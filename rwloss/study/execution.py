"""Run a study in its folder: every run is independent, and a failure does not stop the others."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.files.atomic import write_text
from rwloss.files.lock import hold
from rwloss.study import indicators, plan, results
from rwloss.study.plan import Run, Study
from rwloss.study.results import Results
from rwloss.study.stacking import RunsTogether, described, planned
from rwloss.training.environment import fabric_of
from rwloss.training.preparation import test_cases
from rwloss.words import count_of
from rwloss.work.tasks import run_tasks


@dataclass(frozen=True)
class RunEnd:
    """How a run ended. reason: why it failed; None if it finished."""

    name: str
    seed: int
    reason: str | None = None


Watch: TypeAlias = Callable[[Sequence[Run]], AbstractContextManager[Callable[[RunEnd], None]]]
"""Context around the training: called with the runs, yields the function that is called at each
end."""


def conduct(
    study: Study,
    folder: Path,
    watch: Watch,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    together: RunsTogether = "auto",
    note: Callable[[str], None] = lambda text: None,
) -> Results:
    """Run a study in its folder, or the unfinished part of it, and write its results there.

    jobs, scheduler, timeout_s, together: as for `carry_out`. note: called with notes before the
    training. Invalid settings, data and devices are found before the first run, and leave the
    folder unchanged. Raises RWLossError for them, and if another process works in the folder,
    because its runs would look like failed ones.
    """
    study = plan.placed(study, folder)
    first = next(plan.runs(study, folder)).settings
    file = folder / "study.toml"
    if file.exists() and (before := Study.read(file).steps) != study.steps:
        # Every run becomes longer, including finished ones.
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
            raise RWLossError(
                f"the study in {str(folder)!r} was just changed by another process: start again"
            )
        study.write(file)
        runs = list(plan.runs(study, folder))
        with watch(runs) as on_end:
            carry_out(
                runs,
                jobs=jobs,
                scheduler=scheduler,
                timeout_s=timeout_s,
                together=together,
                on_end=on_end,
            )
        collected = results.collect(study, folder, found)
        results.write(collected, folder)
    return collected


def rehearsed(
    study: Study,
    folder: Path,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    together: RunsTogether = "auto",
) -> Iterator[str]:
    """Describe in sentences how a study would be run. Writes nothing.

    Raises RWLossError for invalid settings, data and devices.
    """
    study = plan.placed(study, folder)
    runs = list(plan.runs(study, folder))
    if scheduler is None:
        fabric_of(runs[0].settings)
    yield from described(planned(runs, jobs=jobs, scheduler=scheduler, together=together))


def carry_out(
    runs: Sequence[Run],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    together: RunsTogether = "auto",
    on_end: Callable[[RunEnd], None] | None = None,
) -> list[RunEnd]:
    """Train all runs: skip those that are done, resume interrupted ones, retry failed ones.

    jobs, scheduler, timeout_s: as for `rwloss.work.tasks.run_tasks`; jobs is by default one per
    GPU, or one per core. together: see `stacking.planned`. Each process uses one thread on the CPU,
    so the results of a single run are the same bit for bit in any process. on_end: called as runs
    end, in any order.
    Returns the ends in the order of runs. The reason of a failure is kept next to the folder of the
    run (`Run.failure`) until the run finishes.
    """
    ends: dict[tuple[str, int], RunEnd] = {}

    def ended(end: RunEnd) -> None:
        ends[end.name, end.seed] = end
        if on_end is not None:
            on_end(end)

    stacks = planned(runs, jobs=jobs, scheduler=scheduler, together=together)
    for run in stacks.done:
        ended(_end(run, None))
    # Only one task ahead, so that no stack waits behind another while a process is idle.
    for some in run_tasks(
        [_TrainRuns(stack) for stack in stacks.stacks],
        jobs=stacks.jobs,
        scheduler=scheduler,
        timeout_s=timeout_s,
        ahead=1,
        environments=stacks.environments,
    ):
        for end in some:
            ended(end)
    return [ends[run.name, run.seed] for run in runs]


@dataclass(frozen=True)
class _TrainRuns:
    """The task that trains the runs of one stack, in any process."""

    runs: tuple[Run, ...]

    def __call__(self) -> list[RunEnd]:
        """Train or resume. Failures are returned, so that the study continues."""
        import torch

        from rwloss.training import train
        from rwloss.training.together import train_together

        # Errors and callbacks refer to each other, and to all that the runs before had on a GPU.
        gc.collect()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in one order
        failures: list[Exception | None] = [None] * len(self.runs)
        try:
            if len(self.runs) == 1:
                train(self.runs[0].settings)
            else:
                failures = train_together([run.settings for run in self.runs])
        except Exception as error:  # out of memory, or an unforeseen error of a library
            failures = [error] * len(self.runs)
        finally:
            torch.set_num_threads(threads)
        return [_end(run, error) for run, error in zip(self.runs, failures, strict=True)]

    def died(self) -> list[RunEnd]:
        """The failures if a worker process died in these runs, and in a retry too."""
        alone = "the process died in this run: it may need more memory"
        several = f"the process died with {len(self.runs)} runs together: try fewer with --together"
        return [_failed(run, alone if len(self.runs) == 1 else several) for run in self.runs]


def _end(run: Run, error: Exception | None) -> RunEnd:
    if error is not None:
        known = isinstance(error, RWLossError)
        return _failed(run, str(error) if known else f"{type(error).__name__}: {error}")
    run.failure.unlink(missing_ok=True)
    return RunEnd(run.name, run.seed)


def _failed(run: Run, reason: str) -> RunEnd:
    with suppress(OSError, RWLossError):  # a full disk is the reason itself
        run.failure.parent.mkdir(parents=True, exist_ok=True)
        write_text(run.failure, f"{reason}\n")
    return RunEnd(run.name, run.seed, reason)
