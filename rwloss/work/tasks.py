"""Run tasks in this process, in worker processes, or on a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from rwloss.errors import RWLossError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def available_cores() -> int:
    """Number of cores that this process may use: in a container, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Task(Protocol[T_co]):
    """A call without arguments, with a result in case a worker process dies on it."""

    def __call__(self) -> T_co:
        """Do the work."""

    def died(self) -> T_co:
        """The result if worker processes died during this task."""


def run_tasks(
    tasks: Collection[Task[T]],
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    ahead: int = 2,
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator[T]:
    """The results of all tasks, in the order in which they become ready.

    jobs: worker processes, by default one per core; 0 works in this process, in order.
    scheduler: address of a Dask scheduler to use instead, or "local" for one on this machine with
    that many workers. timeout_s: how long to wait while the scheduler has no workers; by default
    forever, with a warning of the logger "rwloss". ahead: tasks that each worker process is given
    in advance, so that it never waits for the next one; 1 for tasks of minutes, so that none waits
    behind another. environments: variables of each worker process here, in turn, so that each can
    have a GPU of its own.

    An exception of a task is raised here and ends the others. A task whose process dies runs once
    more at the end, alone; if its process dies again, the result is `task.died()`.

    Raises RWLossError for a negative number of jobs, for tasks that can't be pickled, where worker
    processes die as soon as they start, and where no scheduler or no worker answers.
    """
    if jobs is not None and jobs < 0:
        raise RWLossError(f"expected 0 jobs or more, got {jobs}")
    jobs = available_cores() if jobs is None else jobs
    if scheduler is not None:
        from rwloss.work.dask import on_dask

        return on_dask(tasks, scheduler, max(jobs, 1), timeout_s)
    if not (jobs := min(jobs, len(tasks))):
        return (task() for task in tasks)
    from rwloss.work.processes import in_processes

    return in_processes(tasks, jobs, ahead, environments)
