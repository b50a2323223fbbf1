import os
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from chores import Chore, Deadly, Faulty, Long, Unloadable

from rwloss.errors import RWLossError
from rwloss.work import executors
from rwloss.work.executors import here, in_processes, on_dask


def numbers(results):
    return sorted(number for number, _, _ in results)


def processes(results):
    return {pid for _, pid, _ in results}


def alive(pid):
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for(condition):
    """Until a condition holds; the test's own time limit ends it otherwise."""
    while not condition():
        time.sleep(0.01)


# --- What is done, and where


def test_here_is_this_process():
    assert list(here(Chore(i) for i in range(3))) == [
        (i, os.getpid(), executors_threads_here()) for i in range(3)
    ]


def executors_threads_here():
    from rwloss import distance

    return distance.num_threads()


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_done_once_in_other_processes_of_one_thread_each(jobs):
    results = list(in_processes((Chore(i) for i in range(20)), jobs))
    assert numbers(results) == list(range(20))
    assert 1 <= len(processes(results)) <= jobs
    assert os.getpid() not in processes(results)
    assert {threads for _, _, threads in results} == {1}


def test_nothing_to_do_starts_nothing():
    assert list(in_processes(iter([]), 2)) == []


class Pulled:
    """An endless supply of tasks that knows how many were taken."""

    def __init__(self):
        self.count = 0

    def __iter__(self):
        while True:
            self.count += 1
            yield Chore(self.count)


@pytest.mark.parametrize(
    ("runner", "ahead"),
    [(here, 1), (lambda t: in_processes(t, 2), 5), (lambda t: in_processes(t, 2, ahead=1), 3)],
)
def test_tasks_are_taken_as_they_are_done(runner, ahead):
    """Of a data set of any size, a handful is in memory."""
    supply, most = Pulled(), 0
    results = runner(supply)
    for done in range(30):
        next(results)
        most = max(most, supply.count - done)
    results.close()
    assert most <= ahead


# --- Processes that die


def test_a_deadly_task_is_given_up_and_no_other(monkeypatch):
    # Only a process that never began says that none will.
    monkeypatch.setattr(executors, "_HOPELESS", 1)
    tasks = [Deadly(i) if i == 2 else Chore(i) for i in range(12)]
    results = list(in_processes(tasks, 2))
    assert numbers(results) == list(range(12))
    assert sorted(number for number, pid, _ in results if pid is None) == [2]


def test_a_death_costs_one_process_alone(tmp_path):
    """The neighbour of a process that dies goes on with what it has."""
    (tmp_path / "once").touch()
    results = in_processes([Deadly(0, tmp_path / "once"), *map(Chore, range(1, 40))], 2)
    results = list(results)
    assert numbers(results) == list(range(40))
    assert None not in processes(results)
    # Two, one in place of the dead one, and one at the end for what that died over.
    assert len(processes(results)) <= 4
    assert results[-1][0] == 0


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from chores import Chore
from rwloss.work.executors import in_processes, on_dask
list({call})
"""


@pytest.mark.parametrize(
    "call",
    [
        "in_processes([Chore(0), Chore(1)], 2)",
        pytest.param("on_dask([Chore(0)], 'local', 1)", marks=pytest.mark.slow),
    ],
)
def test_a_script_without_its_guard_is_told_so(tmp_path, call):
    script = tmp_path / "script.py"
    tests = os.path.dirname(os.path.dirname(__file__))
    script.write_text(SCRIPT.format(tests=tests, call=call))
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 1
    assert 'call this under `if __name__ == "__main__":`' in ended.stderr.splitlines()[-1]


# --- Ends before the end


def test_the_processes_end_when_the_results_are_not_wanted_any_more(tmp_path):
    results = in_processes([Chore(0), *(Long(i, tmp_path) for i in range(1, 9))], 2)
    next(results)
    wait_for(lambda: len(os.listdir(tmp_path)) == 2)
    results.close()
    assert "done" not in os.listdir(tmp_path)
    assert not any(map(alive, os.listdir(tmp_path)))


@pytest.mark.parametrize("runner", [here, lambda tasks: in_processes(tasks, 1)])
def test_an_error_of_a_task_is_the_callers(runner):
    with pytest.raises(ZeroDivisionError, match="chore 1"):
        list(runner([Chore(0), Faulty(1)]))


def test_a_task_that_cannot_travel_is_named():
    class Local(Chore):
        pass

    with pytest.raises(RWLossError, match=r"Local.*or use jobs=0"):
        list(in_processes([Local(0)], 1))
    with pytest.raises(RWLossError, match=r"can't load its work.*no number.*or use jobs=0"):
        list(in_processes([Unloadable(0)], 1))


# --- Dask


@pytest.fixture
def quiet(monkeypatch):
    """Without the lines that Dask writes about workers that come and go."""
    import logging

    for name in ("distributed.nanny", "distributed.scheduler", "distributed.worker"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.mark.slow
def test_dask_on_this_machine(tmp_path, monkeypatch, quiet):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_AHEAD_ON_DASK", 6)
    taken = 0

    def supply():
        nonlocal taken
        for task in [Deadly(0), Deadly(1, tmp_path / "once"), *map(Chore, range(2, 40))]:
            taken += 1
            yield task

    (tmp_path / "once").touch()
    results, most = [], 0
    # One death is enough: for the task, and for the one that waits behind it on the same worker.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        for result in on_dask(supply(), "local", 2):
            most = max(most, taken - len(results))
            results.append(result)
    assert numbers(results) == list(range(40))
    assert [number for number, pid, _ in results if pid is None] == [0]
    assert {threads for _, pid, threads in results if pid is not None} == {1}
    assert most <= 6 + 1 + 4  # under way, this one, and those that wait for the end


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere", "tcp://", "bad://x:1"])
def test_a_scheduler_that_does_not_answer_is_named(address, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_PATIENCE", 1)
    with pytest.raises(RWLossError, match=r"no Dask scheduler answers at .* expected tcp://"):
        list(on_dask([Chore(0)], address, 1))


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2 whatever it says next\r\n"])
def test_another_server_is_not_taken_for_a_scheduler(greeting, monkeypatch):
    """One that says nothing, and one that says something else (Dask reads lengths in it)."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_PATIENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(greeting)
                while connection.recv(4096):
                    pass  # until the other side goes

        with ThreadPoolExecutor(1) as thread:
            answered = thread.submit(answer)
            address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(RWLossError, match=r"no Dask scheduler .* expected tcp://"):
                list(on_dask([Chore(0)], address, 1))
            answered.result()


def test_no_client_is_made_where_no_scheduler_answers(monkeypatch):
    """One that fails closes itself in some later garbage collection, and may then wait for a lock
    that its own thread holds."""
    distributed = pytest.importorskip("distributed")
    made = []
    monkeypatch.setattr(distributed, "Client", lambda *args, **_: made.append(args))
    monkeypatch.setattr(executors, "_PATIENCE", 1)
    with pytest.raises(RWLossError, match="no Dask scheduler answers"):
        list(on_dask([Chore(0)], "nowhere", 1))
    assert not made


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[dask\]'"):
        list(on_dask([Chore(0)], "local", 1))


def test_chores_can_be_pickled():
    """The tests above say something only if their tasks can travel."""
    for chore in (Chore(1), Deadly(2), Faulty(3)):
        assert pickle.loads(pickle.dumps(chore)) == chore
