import os

import pytest
from chores import Chore, Faulty, Unloadable

from rwloss import distance
from rwloss.errors import RWLossError
from rwloss.work.tasks import run_tasks


def test_without_jobs_tasks_run_here_in_order():
    assert list(run_tasks([Chore(i) for i in range(3)], jobs=0)) == [
        (i, os.getpid(), distance.num_threads()) for i in range(3)
    ]
    for jobs in (None, 0, 2):
        assert list(run_tasks([], jobs=jobs)) == []
    with pytest.raises(RWLossError, match="expected 0 jobs or more, got -1"):
        run_tasks([Chore(0)], jobs=-1)


def test_every_task_is_done_once_in_other_processes_of_one_thread_each():
    results = list(run_tasks([Chore(i) for i in range(20)], jobs=2))
    assert sorted(number for number, _, _ in results) == list(range(20))
    processes = {pid for _, pid, _ in results}
    assert 1 <= len(processes) <= 2
    assert os.getpid() not in processes
    assert {threads for _, _, threads in results} == {1}


@pytest.mark.parametrize("jobs", [0, 1])
def test_an_error_of_a_task_is_the_callers(jobs):
    with pytest.raises(ZeroDivisionError, match="chore 1"):
        list(run_tasks([Chore(0), Faulty(1)], jobs=jobs))


def test_a_task_that_cannot_travel_is_named():
    class Local(Chore):
        pass

    for task, message in (
        (Local(0), r"Local.*or use jobs=0"),
        (Unloadable(0), r"can't load its work.*no number.*or use jobs=0"),
    ):
        with pytest.raises(RWLossError, match=message):
            list(run_tasks([task], jobs=1))
