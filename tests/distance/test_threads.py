"""How many threads one distance transform may use, and who decides."""

import multiprocessing
import os

import pytest

from rwloss.distance import num_threads, set_num_threads


@pytest.fixture(autouse=True)
def no_setting(monkeypatch):
    monkeypatch.delenv("RWLOSS_NUM_THREADS", raising=False)
    set_num_threads(None)
    yield
    set_num_threads(None)


def test_all_cores_of_this_process_by_default():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert num_threads() == cores


def test_environment_variable(monkeypatch):
    monkeypatch.setenv("RWLOSS_NUM_THREADS", " 3 ")
    assert num_threads() == 3


def test_empty_environment_variable_says_nothing(monkeypatch):
    usual = num_threads()
    monkeypatch.setenv("RWLOSS_NUM_THREADS", "")
    assert num_threads() == usual


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "²"])
def test_environment_variable_that_is_no_number(monkeypatch, text):
    monkeypatch.setenv("RWLOSS_NUM_THREADS", text)
    with pytest.raises(ValueError, match="RWLOSS_NUM_THREADS to be a whole number of 1 or more"):
        num_threads()


def test_setting_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("RWLOSS_NUM_THREADS", "3")
    set_num_threads(5)
    assert num_threads() == 5
    set_num_threads(None)
    assert num_threads() == 3


@pytest.mark.parametrize("count", [0, -2, 1.5, True])
def test_setting_that_is_no_number_of_threads(count):
    with pytest.raises(ValueError, match="expected a number of threads of 1 or more"):
        set_num_threads(count)


def test_one_thread_inside_a_worker_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(num_threads) == 1


def test_environment_reaches_a_worker_process(monkeypatch):
    monkeypatch.setenv("RWLOSS_NUM_THREADS", "2")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(num_threads) == 2
