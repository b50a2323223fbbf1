"""A function call in another process, for libraries that can crash on hostile input."""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rwloss.errors import RWLossError

R = TypeVar("R")


class ProcessDied(RWLossError):
    """The process of an isolated call crashed, or was stopped because it took too long."""


def run_isolated(function: Callable[..., R], *args: Any, timeout_s: float | None = None) -> R:
    """The result of `function(*args)`, called in another process. Its exceptions are raised here.

    function: of a module that can be imported. Arguments, result and exceptions are pickled.
    timeout_s: seconds after which the process is stopped; by default it may take as long as it
    likes. One process serves all calls of this one, one at a time, and is replaced when it dies.
    It works in scripts without `if __name__ == "__main__":` and in workers of a DataLoader.

    Raises ProcessDied where the process dies or takes too long.

    >>> run_isolated(divmod, 7, 2)
    (3, 1)
    """
    # By process: one that was forked must not share its parent's pipes.
    process = _processes.setdefault(os.getpid(), _IsolatedProcess())
    result: R = process.call(function, args, timeout_s)
    return result


class _IsolatedProcess:
    """A process that carries out one call after another. It starts with the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float | None
    ) -> Any:
        """Send a call and wait for its answer."""
        request = pickle.dumps((function, args))
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self.stop()  # it died between two calls
            process = self._process = self._process or _start()
            timed_out = threading.Event()

            def stop_it() -> None:
                timed_out.set()
                process.kill()

            timer = threading.Timer(timeout_s or 0.0, stop_it)
            try:
                if timeout_s is not None:
                    timer.start()
                answer = _exchanged(process, request)
            except (OSError, EOFError, pickle.UnpicklingError):
                code = process.wait()
                self.stop()
                if timed_out.is_set():
                    why = f"took longer than {timeout_s:g} s"
                elif code < 0:
                    why = f"was killed by {signal.Signals(-code).name}"
                else:
                    why = f"ended with exit code {code}"
                raise ProcessDied(f"the process that ran {function.__name__} {why}") from None
            except BaseException:  # Ctrl-C: the next call must not get the answer of this one
                self.stop()
                raise
            finally:
                timer.cancel()
        succeeded, result = pickle.loads(answer)
        if not succeeded:
            raise result
        return result

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # closes the pipes and waits
                pass


_processes: dict[int, _IsolatedProcess] = {}


@atexit.register
def _stop() -> None:
    if os.getpid() in _processes:
        _processes[os.getpid()].stop()


def _start() -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path[:] = {sys.path!r}; from rwloss.work import isolated; "
    return subprocess.Popen(
        [sys.executable, "-c", code + "isolated.serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for the process that called
    )


def _exchanged(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(request, process.stdin)
    process.stdin.flush()
    answer: bytes = pickle.load(process.stdout)
    return answer


def serve() -> None:
    """Carry out calls from standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        """When the caller ends, this process ends with it, even during a call."""
        try:
            while True:
                requests.put(pickle.load(sys.stdin.buffer))
        finally:
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        try:
            function, args = pickle.loads(requests.get())
            answer = pickle.dumps((True, function(*args)))
        except Exception as error:
            try:
                answer = pickle.dumps((False, error))
                pickle.loads(answer)
            except Exception:  # not every exception can be pickled
                answer = pickle.dumps((False, RWLossError(f"{type(error).__name__}: {error}")))
        pickle.dump(answer, answers)
        answers.flush()
