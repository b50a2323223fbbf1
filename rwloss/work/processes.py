"""Run tasks in worker processes on this machine."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import chain
from multiprocessing import connection, resource_tracker
from typing import Any, TypeVar

from rwloss.errors import RWLossError
from rwloss.work.tasks import Task

T = TypeVar("T")

# spawn: workers share no locks or threads with this process.
_CONTEXT = multiprocessing.get_context("spawn")
# Processes that die at their start, one after another, before a run is stopped.
_MAX_FAILED_STARTS = 3
# Names in malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
DIE_AT_START = (
    "worker processes die as soon as they start: in a script, call this under "
    '`if __name__ == "__main__":`; otherwise memory is short, or use jobs=0'
)
_IMPORTABLE = "define the map in a file or module that can be imported, or use jobs=0"


def in_processes(
    tasks: Iterable[Task[T]],
    jobs: int,
    ahead: int = 2,
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator[T]:
    """Results as they become ready. Each process is given `ahead` tasks, and no more are taken.

    When a process dies, another one takes its place. The task that it was working on runs once more
    at the end, alone, because the system may kill a process that needs little memory where others
    have taken it all. If that fails too, the result is `task.died()`. environments: variables of
    the processes, in turn.
    """
    places = [environments[job % len(environments)] if environments else {} for job in range(jobs)]
    lost = yield from _run(iter(tasks), places, ahead)
    lost_again = yield from _run(iter(lost), places[:1], 1)
    for task in lost_again:
        yield task.died()


def _run(
    todo: Iterator[Task[T]], environments: Sequence[Mapping[str, str]], ahead: int
) -> Generator[T, None, list[Task[T]]]:
    """Yield the results of the tasks; return the tasks whose process died."""
    lost: list[Task[T]] = []
    running: dict[Future[T], tuple[_Worker, Task[T]]] = {}  # in the order of submission
    failed_starts = 0
    with _workers(environments) as workers:
        places = deque(workers * ahead)

        def submit() -> None:
            while places and (task := next(todo, None)) is not None:
                worker = places.popleft()
                running[worker.submit(task)] = worker, task

        submit()
        while running:
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            worker, _ = running[future]
            if isinstance(future.exception(), BrokenProcessPool):
                broken = [
                    future
                    for future, (of, _) in running.items()
                    if of is worker and isinstance(future.exception(), BrokenProcessPool)
                ]
                unfinished = [running.pop(future)[1] for future in broken]
                places.extend([worker] * len(broken))
                if worker.restart():  # it died during the first of them
                    lost.append(unfinished.pop(0))
                else:
                    failed_starts += 1
                    if failed_starts == _MAX_FAILED_STARTS:
                        raise RWLossError(DIE_AT_START)
                todo = chain(unfinished, todo)
                submit()
            else:
                failed_starts = 0
                del running[future]
                places.append(worker)
                submit()
                yield future.result()
    return lost


@contextmanager
def _workers(environments: Sequence[Mapping[str, str]]) -> Iterator[list[_Worker]]:
    """One worker per environment. All end with the block, and with this process."""
    _allow_open_files(64 + 16 * len(environments))
    theirs, ours = _CONTEXT.Pipe(duplex=False)
    workers = [_Worker(theirs, each) for each in environments]
    try:
        yield workers
    finally:
        ours.close()
        for worker in workers:
            worker.pool.shutdown(cancel_futures=True)
        theirs.close()


class _Worker:
    """One process in its own pool, because a whole pool is lost when one of its processes dies."""

    def __init__(self, parent: connection.Connection, environment: Mapping[str, str]) -> None:
        self._parent, self._environment = parent, environment
        self._start()

    def _start(self) -> None:
        given = self._parent, self._environment
        self.pool = ProcessPoolExecutor(1, _CONTEXT, _begin_worker, given)
        self._started: Future[int] | None = None

    def submit(self, task: Task[T]) -> Future[T]:
        """Give the process one more task; the first one starts it."""
        try:
            packed = pickle.dumps(task)
        except Exception as error:  # pickle raises many kinds
            raise RWLossError(f"{error}: {_IMPORTABLE}") from error
        try:
            with no_interrupts():
                self._started = self._started or self.pool.submit(os.getpid)
                return self.pool.submit(_unpack_and_run, packed)
        except BrokenProcessPool as error:
            failed: Future[T] = Future()
            failed.set_exception(error)
            return failed

    def restart(self) -> bool:
        """Replace a process that died. Returns whether it had begun to work."""
        begun = self._started is not None and self._started.exception() is None
        self.pool.shutdown()
        self._start()
        return begun


def _unpack_and_run(packed: bytes) -> Any:
    try:
        task: Task[Any] = pickle.loads(packed)
    except Exception as error:
        raise RWLossError(f"a worker process can't load its work: {error}: {_IMPORTABLE}") from None
    return task()


def _begin_worker(parent: connection.Connection, environment: Mapping[str, str]) -> None:
    """Leave Ctrl-C to the parent, and end whenever the parent ends."""
    os.environ.update(environment)  # before the first work, which may look for GPUs
    # Keep the memory that a case has freed for the next one: the system clears each page that it
    # hands out, which costs a tenth of a volume's transform. Only glibc has this function.
    with suppress(OSError, AttributeError):
        change = ctypes.CDLL(None).mallopt
        change(_M_MMAP_THRESHOLD, 32 << 20)  # the most that every version allows
        change(_M_TRIM_THRESHOLD, 1 << 30)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems without signal masks

    def watch() -> None:
        connection.wait([parent])  # nothing is ever sent, so its other side was closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end_with_first_process(every_s: float = 1.0) -> None:
    """End this process soon after its parent, if it is one of several that train together.

    Otherwise it would wait for the first one, which may have been killed, for half an hour.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_s)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until after the block. Processes that start in it never receive it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _allow_open_files(count: int) -> None:
    """Raise the soft limit: on many systems it is too low for a hundred processes."""
    with suppress(ImportError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < count:
            allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
