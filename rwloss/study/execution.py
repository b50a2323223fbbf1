"""Carrying a plan out: each run on its own, none stopped by another's failure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.study.plan import Run
from rwloss.training import settings as run_settings
from rwloss.training.run_folder import RunFolder
from rwloss.work.tasks import run_tasks


@dataclass(frozen=True)
class RunEnd:
    """How a start of a run ended. reason: why it failed; None where it came to its end."""

    name: str
    seed: int
    reason: str | None = None


def carry_out(
    runs: Sequence[Run],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    on_end: Callable[[RunEnd], None] | None = None,
) -> list[RunEnd]:
    """Train all runs; what is done is kept, what was stopped goes on, what failed is tried again.

    jobs, scheduler: as for `rwloss.work.tasks.run_tasks`. Every training has one thread on the
    CPU, so that results are the same bit for bit wherever it runs. on_end: called as runs end, in
    any order. Returns ends in the order of runs. A failure's reason is kept beside the run's folder
    (`Run.failure`) until the run comes to its end.
    """
    ends: dict[tuple[str, int], RunEnd] = {}
    trainings = [_Training(run) for run in runs]
    # One task ahead: no run waits behind another while a process is idle.
    for end in run_tasks(trainings, jobs=jobs, scheduler=scheduler, ahead=1):
        ends[end.name, end.seed] = end
        if on_end is not None:
            on_end(end)
    return [ends[run.name, run.seed] for run in runs]


def steps_done(run: Run) -> int:
    """How far a run has come, by the last line of its log; 0 where that can't be told.

    Never raises: the run may be at work in another process, or on another machine.
    """
    try:
        lines = RunFolder(run.folder).metrics.read_bytes().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


@dataclass(frozen=True)
class _Training:
    """The work of one run, in whatever process."""

    run: Run

    def __call__(self) -> RunEnd:
        """Train, or go on; a failure is an outcome, not an end of the study."""
        from rwloss.training import train

        run = self.run
        try:
            if not _is_done(run):
                with _one_thread():
                    train(run.settings)
        except RWLossError as error:
            return self._failed(str(error))
        except Exception as error:  # memory, or the libraries on what nobody foresaw
            return self._failed(f"{type(error).__name__}: {error}")
        run.failure.unlink(missing_ok=True)
        return RunEnd(run.name, run.seed)

    def died(self) -> RunEnd:
        """The failure where a worker process ended over this run, alone as well."""
        return self._failed("the process died over it: it may need more memory")

    def _failed(self, reason: str) -> RunEnd:
        failure = self.run.failure
        with suppress(OSError):  # a full disk is said by the reason itself
            failure.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(failure) as part:
                part.write_text(reason + "\n", encoding="utf-8")
        return RunEnd(self.run.name, self.run.seed, reason)


def _is_done(run: Run) -> bool:
    """Whether the folder holds this run to its end; without reading the data, as a start would."""
    folder, now = RunFolder(run.folder), run.settings
    if not folder.is_done(now):
        return False
    before = run_settings.read(folder.settings)
    given = now.model_fields_set - {"out"}
    return not [name for name in given if getattr(before, name) != getattr(now, name)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of one thread, in one order, whatever this process does otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
