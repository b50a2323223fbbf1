import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import isolated_calls
import pytest

from rwloss.errors import RWLossError
from rwloss.work.isolated import ProcessDied, run_isolated


def test_another_process_answers_and_serves_the_next_call_too():
    first = run_isolated(isolated_calls.process_id)
    assert first != os.getpid()
    assert run_isolated(isolated_calls.process_id) == first
    content = bytes(range(256)) * 4096
    assert run_isolated(bytes.upper, content) == content.upper()
    assert run_isolated(isolated_calls.print_and_add, 2, 3) == 5  # what it prints is no answer


def test_a_crash_is_an_error_and_the_next_call_works():
    for function, arguments, why in (
        (os.abort, (), "SIGABRT"),
        (ctypes.string_at, (0,), "SIGSEGV"),
        (os._exit, (3,), "code 3"),
    ):
        with pytest.raises(ProcessDied, match=f"process that ran {function.__name__} .*{why}"):
            run_isolated(function, *arguments)
        assert run_isolated(divmod, 7, 2) == (3, 1)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid")
def test_a_process_that_died_between_calls_costs_nothing():
    first = run_isolated(isolated_calls.process_id)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert run_isolated(isolated_calls.process_id) != first


def test_a_call_that_takes_too_long_is_stopped():
    with pytest.raises(ProcessDied, match=r"sleep took longer than 0\.1 s"):
        run_isolated(time.sleep, 60, timeout_s=0.1)
    assert run_isolated(divmod, 7, 2, timeout_s=60) == (3, 1)


def test_exceptions_come_back():
    with pytest.raises(ZeroDivisionError):
        run_isolated(divmod, 1, 0)
    with pytest.raises(RWLossError, match="expected a number"):
        run_isolated(isolated_calls.refuse, RWLossError("expected a number"))
    with pytest.raises(RWLossError, match="Unpicklable: 7"):
        run_isolated(isolated_calls.raise_unpicklable, 7)


def test_an_interrupt_ends_the_process(monkeypatch):
    first = run_isolated(isolated_calls.process_id)

    def interrupted(process, request):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rwloss.work.isolated._exchanged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_isolated(isolated_calls.process_id)
    assert run_isolated(isolated_calls.process_id) != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_process_has_one_of_its_own():
    first = run_isolated(isolated_calls.process_id)
    with multiprocessing.get_context("fork").Pool(1) as pool:  # a daemon, as of a DataLoader
        assert pool.apply(run_isolated, (isolated_calls.process_id,)) != first
    assert run_isolated(isolated_calls.process_id) == first


SCRIPT = """
import os, time
from rwloss.work.isolated import run_isolated
print(run_isolated(os.getpid), flush=True)
run_isolated(time.sleep, 60)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_it_ends_with_a_caller_that_is_killed():
    """A script without the guard of multiprocessing."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True
    ) as caller:
        pid = int(caller.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        caller.kill()
    while os.path.exists(f"/proc/{pid}"):  # the test's own time limit ends it otherwise
        time.sleep(0.01)
