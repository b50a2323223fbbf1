import os
import subprocess
import sys
import time

import pytest
from chores import Chore, Deadly, Long, Variable, numbers, run_script

from rwloss.work import processes
from rwloss.work.processes import in_processes


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


class Pulled:
    """An endless supply of tasks that knows how many were taken."""

    def __init__(self):
        self.count = 0

    def __iter__(self):
        while True:
            self.count += 1
            yield Chore(self.count)


@pytest.mark.parametrize(("ahead", "in_memory"), [(2, 5), (1, 3)])
def test_tasks_are_taken_as_they_are_done(ahead, in_memory):
    """Of a dataset of any size, a handful is in memory."""
    supply, most = Pulled(), 0
    results = in_processes(supply, 2, ahead)
    for done in range(30):
        next(results)
        most = max(most, supply.count - done)
    results.close()
    assert most <= in_memory


def test_each_process_has_its_environment():
    tasks = [Variable(number, "CUDA_VISIBLE_DEVICES") for number in range(6)]
    gpus = [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert {*in_processes(tasks, 2, 1, gpus)} == {"4", "7"}


def test_a_deadly_task_is_given_up_after_one_retry_and_no_other(tmp_path, monkeypatch):
    """The neighbor of a process that dies keeps its tasks."""
    # Only a process that never began says that none will.
    monkeypatch.setattr(processes, "_MAX_FAILED_STARTS", 1)
    (tmp_path / "once").touch()
    deadly = [Deadly(0, tmp_path / "once"), Deadly(1, log=tmp_path / "deaths")]
    results = list(in_processes([*deadly, *map(Chore, range(2, 40))], 2))
    assert numbers(results) == list(range(40))
    assert [number for number, pid, _ in results if pid is None] == [1]
    assert (tmp_path / "deaths").read_text() == "1\n1\n"
    # Two, two in place of the dead ones, and two at the end for the tasks that they died over.
    assert len({pid for _, pid, _ in results}) <= 6
    assert {number for number, _, _ in results[-2:]} == {0, 1}


def test_a_script_without_its_guard_is_told_so(tmp_path):
    assert 'call this under `if __name__ == "__main__":`' in run_script(tmp_path, "jobs=2")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_the_processes_end_when_the_results_are_not_wanted_any_more(tmp_path):
    results = in_processes([Chore(0), *(Long(i, tmp_path) for i in range(1, 9))], 2)
    next(results)
    wait_for(lambda: len(os.listdir(tmp_path)) == 2)
    results.close()
    assert "done" not in os.listdir(tmp_path)
    assert not any(map(alive, os.listdir(tmp_path)))


CHILD = """
import os, time
from rwloss.work.processes import end_with_first_process
end_with_first_process(0.02)
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")
def test_a_process_ends_with_the_one_that_started_it():
    command, env = [sys.executable, "-c", PARENT, CHILD], {**os.environ, "LOCAL_RANK": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    wait_for(lambda: not alive(child))
