"""Run tasks on a Dask cluster."""

from __future__ import annotations

import asyncio
import logging
import operator
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from rwloss.errors import RWLossError
from rwloss.work.processes import DIE_AT_START, no_interrupts
from rwloss.work.tasks import Task

T = TypeVar("T")

_AHEAD = 1000  # tasks given in advance: enough for some hundred workers, as more may join
_LOOK_S = 2.0  # between two looks for workers
_TIMEOUT_S = 30.0  # how long a scheduler may take to answer


def on_dask(
    tasks: Iterable[Task[T]], scheduler: str, jobs: int, timeout_s: float | None = None
) -> Iterator[T]:
    """Results as they become ready, from the scheduler at an address.

    scheduler: "local" starts one on this machine with `jobs` worker processes. Dask gives the tasks
    of a dead worker to others, and gives up a task after several workers died, whether it killed
    them or only waited there. Such a task runs once more at the end, alone; if that fails too, the
    result is `task.died()`. timeout_s: as for `run_tasks`.
    """
    expect_scheduler(scheduler, timeout_s)
    from distributed import Client, LocalCluster

    with ExitStack() as opened:
        where: Any = scheduler
        if scheduler == "local":
            try:
                with no_interrupts():
                    # Any free port: another cluster may run on this machine.
                    where = LocalCluster(
                        n_workers=jobs, threads_per_worker=1, dashboard_address="127.0.0.1:0"
                    )
            except RuntimeError as error:
                raise RWLossError(f"{DIE_AT_START} ({error})") from error
            opened.enter_context(where)
        client = opened.enter_context(Client(where, timeout=_answer_s(timeout_s)))
        # Not pure: a result that another client holds says nothing about the files on disk.
        pool = client.get_executor(pure=False)
        opened.callback(pool.shutdown, wait=False)
        wait = partial(_next, client, scheduler, timeout_s)
        lost = yield from _run(pool, iter(tasks), _AHEAD, wait)
        lost_again = yield from _run(pool, iter(lost), 1, wait)
        for task in lost_again:
            yield task.died()


def _answer_s(timeout_s: float | None) -> float:
    """How long a scheduler may take to answer: at most --timeout, but at least a second."""
    return _TIMEOUT_S if timeout_s is None else min(max(timeout_s, 1.0), _TIMEOUT_S)


def expect_scheduler(address: str, timeout_s: float | None = None) -> None:
    """Raise RWLossError if Dask is not installed or no scheduler answers. "local" is always valid.

    A Client would say so too. But it waits forever where something else answers, such as the
    dashboard; and one that failed closes itself when it is garbage-collected, and may then wait for
    a lock that its own thread holds.
    """
    try:
        from distributed import Security
        from distributed.comm import connect
    except ImportError as error:
        raise RWLossError(
            "a scheduler needs Dask: pip install 'rwloss[dask]', or leave it out"
        ) from error
    if address == "local":
        return

    answer_s = _answer_s(timeout_s)

    async def greet() -> None:
        security = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(address, timeout=answer_s, **security), answer_s)
        await comm.close()

    # In a thread, because a notebook already runs a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(asyncio.run, greet()).result()
        except Exception as error:  # an answer that is not Dask's can look like anything
            reason = str(error) or f"nothing in {answer_s:g} s"
            raise RWLossError(
                f"no Dask scheduler answers at {address!r} ({reason}): expected tcp://HOST:PORT, "
                "or local"
            ) from error


def _next(client: Any, scheduler: str, timeout_s: float | None, finished: SimpleQueue[T]) -> T:
    """The next finished task. Warns if no worker is left, and raises after a while."""
    since: float | None = None
    told = False
    while True:
        with suppress(Empty):
            return finished.get(timeout=_LOOK_S)
        try:
            has_workers = client.status != "running" or client.scheduler_info()["workers"]
        except OSError:  # the scheduler is gone: its futures are canceled soon
            continue
        if has_workers:
            since, told = None, False
            continue
        since = since or time.monotonic()
        waited_s = time.monotonic() - since
        if timeout_s is not None and waited_s >= timeout_s:
            raise RWLossError(
                f"the Dask scheduler at {scheduler!r} has had no worker for {waited_s:.0f} s: "
                "finished cases are kept; start workers and run the same command again"
            )
        if not told and waited_s >= min(_TIMEOUT_S, timeout_s or _TIMEOUT_S) / 2:
            logging.getLogger("rwloss").warning(
                "the Dask scheduler at %r has no worker: waiting for one (--timeout limits the "
                "wait)",
                scheduler,
            )
            told = True


def _run(
    pool: Executor,
    todo: Iterator[Task[T]],
    ahead: int,
    wait: Callable[[SimpleQueue[Future[T]]], Future[T]],
) -> Generator[T, None, list[Task[T]]]:
    """Yield the results of the tasks; return the tasks that Dask abandoned."""
    from distributed import KilledWorker

    lost: list[Task[T]] = []
    running: dict[Future[T], Task[T]] = {}
    finished: SimpleQueue[Future[T]] = SimpleQueue()

    def submit(count: int) -> None:
        for task in islice(todo, count):
            future = pool.submit(operator.call, task)
            running[future] = task
            future.add_done_callback(finished.put)

    submit(ahead)
    while running:
        future = wait(finished)
        task = running.pop(future)
        submit(1)
        try:
            result = future.result()
        except KilledWorker:
            lost.append(task)
            continue
        except CancelledError as error:
            raise RWLossError(
                "the Dask scheduler is gone, or canceled this run: finished cases are kept; run "
                "the same command again"
            ) from error
        except Exception as error:
            raise RWLossError(
                f"a Dask worker can't do this work: {type(error).__name__}: {error}; workers need "
                "the same packages as this process, and the same versions"
            ) from error
        yield result
    return lost
