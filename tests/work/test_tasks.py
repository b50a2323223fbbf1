import os
import pickle

import pytest
from chores import Chore, Deadly, Faulty, Unloadable

from rwloss import distance
from rwloss.errors import RWLossError
from rwloss.work.tasks import run_tasks


def test_without_jobs_tasks_run_here_in_order():
    assert list(run_tasks([Chore(i) for i in range(3)], jobs=0)) == [
        (i, os.getpid(), distance.num_threads()) for i in range(3)
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_is_done_once_in_other_processes_of_one_thread_each(jobs):
    results = list(run_tasks([Chore(i) for i in range(20)], jobs=jobs))
    assert sorted(number for number, _, _ in results) == list(range(20))
    processes = {pid for _, pid, _ in results}
    assert 1 <= len(processes) <= jobs
    assert os.getpid() not in processes
    assert {threads for _, _, threads in results} == {1}


@pytest.mark.parametrize("jobs", [None, 0, 2])
def test_nothing_to_do_gives_nothing(jobs):
    assert list(run_tasks([], jobs=jobs)) == []


def test_fewer_jobs_than_none_are_refused():
    with pytest.raises(RWLossError, match="expected 0 jobs or more, got -1"):
        run_tasks([Chore(0)], jobs=-1)


@pytest.mark.parametrize("jobs", [0, 1])
def test_an_error_of_a_task_is_the_callers(jobs):
    with pytest.raises(ZeroDivisionError, match="chore 1"):
        list(run_tasks([Chore(0), Faulty(1)], jobs=jobs))


def test_a_task_that_cannot_travel_is_named():
    class Local(Chore):
        pass

    with pytest.raises(RWLossError, match=r"Local.*or use jobs=0"):
        list(run_tasks([Local(0)], jobs=1))
    with pytest.raises(RWLossError, match=r"can't load its work.*no number.*or use jobs=0"):
        list(run_tasks([Unloadable(0)], jobs=1))


def test_chores_can_be_pickled():
    """The tests of this room say something only if their tasks can travel."""
    for chore in (Chore(1), Deadly(2), Faulty(3)):
        assert pickle.loads(pickle.dumps(chore)) == chore
