import logging
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from chores import Chore, Deadly, numbers, run_script

from rwloss.errors import RWLossError
from rwloss.work import dask as work_dask
from rwloss.work.dask import on_dask


@pytest.fixture
def quiet(monkeypatch):
    """Without the lines that Dask writes about workers that come and go."""
    for name in ("distributed.nanny", "distributed.scheduler", "distributed.worker"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.mark.slow
def test_dask_on_this_machine(tmp_path, monkeypatch, quiet):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    monkeypatch.setattr(work_dask, "_AHEAD", 6)
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


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    """No client is made: one that fails closes itself in some later garbage collection, and may
    then wait for a lock that its own thread holds."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(work_dask, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: pytest.fail("a client was made"))
    for address in ("tcp://127.0.0.1:1", "nowhere", "tcp://", "bad://x:1"):
        with pytest.raises(RWLossError, match=r"no Dask scheduler answers at .* expected tcp://"):
            list(on_dask([Chore(0)], address, 1))


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2 whatever it says next\r\n"])
def test_another_server_is_not_taken_for_a_scheduler(greeting, monkeypatch):
    """One that says nothing, and one that says something else (Dask reads lengths in it)."""
    pytest.importorskip("distributed")
    monkeypatch.setattr(work_dask, "_TIMEOUT_S", 0.3)
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


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[dask\]'"):
        list(on_dask([Chore(0)], "local", 1))


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so(tmp_path):
    pytest.importorskip("distributed")
    line = run_script(tmp_path, "jobs=1, scheduler='local'")
    assert 'call this under `if __name__ == "__main__":`' in line


def test_a_scheduler_without_workers_is_said_and_ends_after_the_timeout(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(work_dask, "_LOOK_S", 0.05)
    told: list[str] = []
    monkeypatch.setattr(logging.getLogger("rwloss"), "warning", lambda said, *_: told.append(said))
    options = {"n_workers": 0, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(RWLossError, match=r"has had no worker for .* s: finished cases"):
            list(on_dask([Chore(0)], address, 1, timeout_s=0.2))
    [said] = told
    assert "has no worker: waiting for one (--timeout limits the wait)" in said
