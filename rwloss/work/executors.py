"""How the tasks of a run are carried out: here, in worker processes, or by Dask."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias, TypeVar

from rwloss.errors import RWLossError

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Work(Protocol[T_co]):
    """Something to do, which says also what came of it if a process died over it."""

    def __call__(self) -> T_co:
        """Do it."""

    def died(self) -> T_co:
        """What came of it where a worker process died over it."""


Runner: TypeAlias = Callable[[Iterable[Work[T]]], Iterator[T]]
# Tasks that each worker process has, so that none waits for its next; more would only hold memory.
AHEAD = 2
# Tasks that a Dask scheduler has, whatever joins it later: enough for some hundred workers.
_AHEAD_ON_DASK = 1000
# How long a Dask scheduler may take to answer, in seconds.
_PATIENCE = 30.0
# Processes in a row that die before they can begin, after which none will.
_HOPELESS = 3
# Names of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_UNBORN = (
    "worker processes die as soon as they start: in a script, call this under "
    '`if __name__ == "__main__":`; otherwise memory is short, or use jobs=0'
)
_IMPORTABLE = "define the map in a file or module that can be imported, or use jobs=0"


def here(tasks: Iterable[Work[T]]) -> Iterator[T]:
    """One after the other in this process."""
    return (task() for task in tasks)


def in_processes(tasks: Iterable[Work[T]], jobs: int, ahead: int = AHEAD) -> Iterator[T]:
    """In worker processes. Results come as they are ready; a bounded number of tasks waits.

    ahead: tasks that each process has. 1 for tasks of minutes: none then waits behind another while
    a process is idle.

    A process that dies takes its task with it and nothing else; another takes its place. What a
    process died over is done again at the end, one at a time: the system ends processes that need
    little where others took all the memory. What dies then too is given up.
    """
    lost: list[Work[T]] = []
    yield from _carried_out(iter(tasks), jobs, ahead, lost)
    given_up: list[Work[T]] = []
    yield from _carried_out(iter(lost), 1, ahead, given_up)
    for task in given_up:
        yield task.died()


def on_dask(tasks: Iterable[Work[T]], scheduler: str, jobs: int) -> Iterator[T]:
    """By a Dask scheduler, or "local" for one on this machine with `jobs` worker processes.

    Dask gives the tasks of a dead worker to others. It gives up what was on several workers that
    died, guilty or not: that is done again at the end, one at a time, as in `in_processes`.
    """
    expect_scheduler(scheduler)
    from distributed import Client, LocalCluster

    with ExitStack() as opened:
        where: Any = scheduler
        if scheduler == "local":
            try:
                with _no_interrupts():
                    # Any free port: another cluster may run on this machine.
                    where = LocalCluster(
                        n_workers=jobs, threads_per_worker=1, dashboard_address="127.0.0.1:0"
                    )
            except RuntimeError as error:
                raise RWLossError(f"{_UNBORN} ({error})") from error
            opened.enter_context(where)
        client = opened.enter_context(Client(where, timeout=_PATIENCE))
        # Not pure: a result that another client holds says nothing of the files that are there.
        pool = client.get_executor(pure=False)
        opened.callback(pool.shutdown, wait=False)
        lost: list[Work[T]] = []
        yield from _carried_out_on_dask(pool, iter(tasks), _AHEAD_ON_DASK, lost)
        given_up: list[Work[T]] = []
        yield from _carried_out_on_dask(pool, iter(lost), 1, given_up)
        for task in given_up:
            yield task.died()


def expect_scheduler(address: str) -> None:
    """Raises RWLossError where no Dask scheduler answers, and without Dask. "local" will answer.

    A Client would say so too, but waits for ever where something else answers (the dashboard, say),
    and one that failed is not closed: it closes itself when the garbage is collected, and waits for
    a lock that its own thread holds if another Client is just starting.
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

    async def greet() -> None:
        security = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(address, timeout=_PATIENCE, **security), _PATIENCE)
        await comm.close()

    # In a thread: a notebook has a running loop in its own.
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(asyncio.run, greet()).result()
        except Exception as error:  # what is no answer of Dask's can look like anything
            reason = str(error) or f"nothing in {_PATIENCE:g} s"
            raise RWLossError(
                f"no Dask scheduler answers at {address!r} ({reason}): expected tcp://HOST:PORT, "
                "or local"
            ) from error


def _carried_out_on_dask(
    pool: Executor, todo: Iterator[Work[T]], ahead: int, lost: list[Work[T]]
) -> Iterator[T]:
    """Results of all tasks but those that Dask gives up: these are added to `lost`."""
    from distributed import KilledWorker

    flying: dict[Future[T], Work[T]] = {}
    landed: SimpleQueue[Future[T]] = SimpleQueue()

    def give(count: int) -> None:
        for task in islice(todo, count):
            future = pool.submit(_call, task)
            flying[future] = task
            future.add_done_callback(landed.put)

    give(ahead)
    while flying:
        future = landed.get()
        task = flying.pop(future)
        give(1)
        try:
            result = future.result()
        except KilledWorker:
            lost.append(task)
            continue
        except CancelledError as error:
            raise RWLossError(
                "the Dask scheduler is gone, or gave this run up: what was done is kept; run the "
                "same command again"
            ) from error
        except Exception as error:
            raise RWLossError(
                f"a Dask worker can't do this work: {type(error).__name__}: {error}; workers need "
                "the same packages as this process, and the same versions"
            ) from error
        yield result


def _carried_out(
    todo: Iterator[Work[T]], jobs: int, ahead: int, lost: list[Work[T]]
) -> Iterator[T]:
    """Results of all tasks but those that a process died over: these are added to `lost`."""
    flying: dict[Future[T], tuple[int, Work[T]]] = {}  # in the order in which they were given
    landed: SimpleQueue[Future[T]] = SimpleQueue()
    returned: deque[Work[T]] = deque()
    stillborn = 0
    with _Crew(jobs).at_work() as crew:

        def give(member: int) -> None:
            task = returned.popleft() if returned else next(todo, None)
            if task is None:
                return
            try:
                future = crew.submit(member, task)
            except BrokenProcessPool:
                returned.append(task)
                bury(member)
            else:
                flying[future] = member, task
                future.add_done_callback(landed.put)

        def bury(member: int) -> None:
            nonlocal stillborn
            begun = crew.replace(member)
            broken = [
                future
                for future, (of, _) in flying.items()
                if of == member and isinstance(future.exception(), BrokenProcessPool)
            ]
            unfinished = [flying.pop(future)[1] for future in broken]
            if begun:  # it died over the first of them, if any
                lost.extend(unfinished[:1])
                del unfinished[:1]
            else:
                stillborn += 1
            if stillborn >= _HOPELESS:
                raise RWLossError(_UNBORN)
            returned.extend(unfinished)
            for _ in range(ahead - sum(of == member for of, _ in flying.values())):
                give(member)

        for _ in range(ahead):
            for member in range(jobs):
                give(member)
        while flying:
            future = landed.get()
            if future not in flying:
                continue  # its worker was buried
            member, _ = flying[future]
            if isinstance(future.exception(), BrokenProcessPool):
                bury(member)
                continue
            stillborn = 0
            del flying[future]
            give(member)
            yield future.result()


class _Crew:
    """Worker processes by number. Each is a pool of its own: a pool with a dead process is lost."""

    def __init__(self, jobs: int) -> None:
        # spawn: workers that share no locks or threads with this process.
        self._context = multiprocessing.get_context("spawn")
        # Workers say here that they have begun, and end when this side is closed.
        self._ours, self._theirs = self._context.Pipe()
        self._begun: set[int] = set()
        _allow_open_files(64 + 16 * jobs)
        self._pools = [self._pool(member) for member in range(jobs)]

    def _pool(self, member: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1,
            mp_context=self._context,
            initializer=_begin_worker,
            initargs=(self._theirs, member),
        )

    @contextmanager
    def at_work(self) -> Iterator[_Crew]:
        """All processes end with the block, whatever they are doing."""
        try:
            yield self
        finally:
            self._ours.close()
            for pool in self._pools:
                pool.shutdown(cancel_futures=True)
            self._theirs.close()

    def submit(self, member: int, task: Work[T]) -> Future[T]:
        """Give a task to a worker. Raises BrokenProcessPool if it died."""
        packed = _packed(task)
        with _no_interrupts():
            return self._pools[member].submit(_unpacked_and_done, packed)

    def replace(self, member: int) -> bool:
        """Another worker in place of one that died. Whether that one had begun."""
        while self._ours.poll():
            self._begun.add(self._ours.recv())
        begun = member in self._begun
        self._begun.discard(member)
        self._pools[member].shutdown()
        self._pools[member] = self._pool(member)
        return begun


def _call(task: Work[T]) -> T:
    return task()


def _packed(task: Work[Any]) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:  # pickle raises many kinds
        raise RWLossError(f"{error}: {_IMPORTABLE}") from error


def _unpacked_and_done(packed: bytes) -> Any:
    try:
        task: Work[Any] = pickle.loads(packed)
    except Exception as error:
        raise RWLossError(f"a worker process can't load its work: {error}: {_IMPORTABLE}") from None
    return task()


def _keep_memory() -> None:
    """Let this process keep the memory that a case has freed, for the next one.

    The system clears each page that it hands out: for arrays of a volume's size that costs a tenth
    of the transform. Where the C library is another than glibc, nothing changes.
    """
    with suppress(OSError, AttributeError):
        change = ctypes.CDLL(None).mallopt
        change(_M_MMAP_THRESHOLD, 32 << 20)  # the most that every version allows
        change(_M_TRIM_THRESHOLD, 1 << 30)


def _begin_worker(parent: Connection, member: int) -> None:
    """A worker ends with its parent, however that ends, and leaves Ctrl-C to it."""
    _keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems that don't know `_no_interrupts`

    def watch() -> None:
        wait([parent])  # nothing is ever sent: it was closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with suppress(OSError):
        parent.send(member)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C comes after the block; processes that start in it are spared from their beginning."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _allow_open_files(count: int) -> None:
    """Raise the soft limit, which is low for a hundred processes on many systems."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
