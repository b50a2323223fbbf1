"""Several trainings at once, each in a process of its own on one thread."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from queue import Empty
from typing import TYPE_CHECKING, TypeAlias

from rwloss.errors import RWLossError
from rwloss.training.progress import Progress
from rwloss.training.run import RunResult, train
from rwloss.training.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

Report: TypeAlias = tuple[int, int, float]
"""Index of the run, number of its step, loss of that step."""

_IMPORTED = [
    "rwloss.training.run",
    "lightning_fabric",
    "monai.networks.nets.unet",
    "monai.inferers.utils",
]
_REPORT_EVERY_STEPS = 10
_LOOK_EVERY_S = 0.2

# Set in worker processes: where they report to, and whether they should give up.
_line: tuple[Queue[Report], Event] | None = None


def train_all(
    runs: Sequence[Settings],
    *,
    jobs: int,
    on_step: Callable[[int, int, float], None] | None = None,
) -> list[RunResult]:
    """The results of all runs, in their order; up to `jobs` processes at once.

    Small networks gain more from a process a core than from threads. Every run has one thread
    whatever the number of jobs, so the results are the same bit for bit.
    on_step: called here, every few steps of each run and at its last, with the run's index, the
    number of the step and its loss.

    Raises what a run raises, and RWLossError where a process was killed; the other runs stop then.
    """
    if jobs < 1:
        raise RWLossError(f"expected 1 job or more, got {jobs}")
    if not runs:
        return []
    context = worker_context()
    reports: Queue[Report] = context.Queue()
    stop = context.Event()
    with ProcessPoolExecutor(
        min(jobs, len(runs)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(reports, stop),
    ) as pool:
        futures = [pool.submit(_work, index, run) for index, run in enumerate(runs)]
        try:
            _follow(futures, reports, on_step)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise RWLossError(
                "a training process was ended from outside (out of memory?): try --jobs 1"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def worker_context() -> BaseContext:
    """How worker processes begin: as copies of a server that has imported what they need.

    The imports take longer than a short training. torch's threads would not survive a plain fork,
    and the server has none. Where there is no such thing, each process imports for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _follow(
    futures: Sequence[Future[RunResult]],
    reports: Queue[Report],
    on_step: Callable[[int, int, float], None] | None,
) -> None:
    """Hand reports on until all runs have ended; raise what a run raises, as soon as it does."""
    running = True
    while running:
        done, waiting = wait(futures, timeout=_LOOK_EVERY_S)
        for future in done:
            future.result()
        running = bool(waiting)
        while True:
            try:
                report = reports.get_nowait()
            except Empty:
                break
            if on_step is not None:
                on_step(*report)


def _start_worker(reports: Queue[Report], stop: Event) -> None:
    import torch

    global _line  # noqa: PLW0603  # an initializer has no other way to leave something behind
    _line = reports, stop
    reports.cancel_join_thread()  # a report that nobody reads must not keep the process alive
    torch.set_num_threads(1)


def _work(index: int, run: Settings) -> RunResult:
    assert _line is not None
    return train(run, _Reporting(index, run.steps, *_line))


class _Reporting(Progress):
    """Sends every few steps to the process that started this one; stops where it asks for it."""

    def __init__(self, index: int, steps: int, reports: Queue[Report], stop: Event) -> None:
        self.index, self.steps, self.reports, self.stop = index, steps, reports, stop

    def step(self, step: int, loss: float) -> None:
        if self.stop.is_set():
            raise RWLossError("stopped, because another training failed")
        if step % _REPORT_EVERY_STEPS == 0 or step == self.steps:
            self.reports.put((self.index, step, loss))
