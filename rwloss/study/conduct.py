"""A study from its plan to its results, in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

from rwloss import data
from rwloss.errors import RWLossError
from rwloss.files.lock import hold
from rwloss.study import indicators, plan, results, results_file
from rwloss.study.execution import RunEnd, carry_out
from rwloss.study.plan import Run, Study
from rwloss.study.results import Results
from rwloss.training.environment import fabric_of
from rwloss.training.preparation import test_cases
from rwloss.words import count_of

Watch: TypeAlias = Callable[[Sequence[Run]], AbstractContextManager[Callable[[RunEnd], None]]]
"""What surrounds the training: it is entered with the runs, and gives what is told of each end."""


def conduct(
    study: Study,
    folder: Path,
    watch: Watch,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Results:
    """Run a study in its folder, or what is left of it, and write its results there.

    jobs, scheduler: as for `rwloss.work.tasks.run_tasks`. note: told what is worth knowing before
    the training. Everything that can be wrong with settings, data and devices is found before the
    first run, and leaves the folder as it was.

    Raises RWLossError for what is wrong, and where another process works in the folder, whose runs
    would look like failed ones.
    """
    study = plan.placed(study, folder)
    first = next(plan.runs(study, folder)).settings
    before = plan.steps_before(study, folder)
    if before != study.steps:  # every run takes longer, the finished ones too
        note(f"steps grow from {before:,} to {study.steps:,}, in every run of the study")
    if scheduler is not None:
        from rwloss.work.dask import expect_scheduler

        expect_scheduler(scheduler)
    if scheduler in {None, "local"}:  # other machines may have what this one lacks
        fabric_of(first)
    cases = len(data.find(study.data).cases) + len(test_cases(first) or ())
    note(f"reading {count_of(cases, 'case')} ...")
    found = indicators.indicators(study, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        if plan.placed(study, folder) != study:
            raise RWLossError(f"the study in {str(folder)!r} has just been changed: start again")
        plan.write(study, folder / "study.toml")
        runs = list(plan.runs(study, folder))
        with watch(runs) as on_end:
            carry_out(runs, jobs=jobs, scheduler=scheduler, on_end=on_end)
        collected = results.collect(study, folder, found)
        results_file.write(collected, folder)
    return collected
