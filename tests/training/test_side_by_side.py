"""Runs in processes of their own."""

import multiprocessing

import pytest

from rwloss import RWLossError
from rwloss.training import train_all


@pytest.fixture
def run(squares, settings_of, tmp_path):
    """Settings of a run of this map, in a folder named after it."""
    return lambda text, **changes: settings_of(
        squares, map=text, out=str(tmp_path / text), **{"record_every": 1, **changes}
    )


def test_runs_side_by_side_keep_their_order_and_report(run):
    seen = []
    runs = [run("boundary", steps=12), run("rectified", steps=3)]
    results = train_all(runs, jobs=2, on_step=lambda *report: seen.append(report))
    assert [result.settings.map for result in results] == ["boundary", "rectified"]
    expected = [
        (0, 10, results[0].losses[9]),
        (0, 12, results[0].losses[11]),
        (1, 3, results[1].losses[2]),
    ]
    assert sorted(seen) == expected


def test_a_failed_run_stops_the_others(run):
    """The long run would take hours; the test's own time limit says whether it is stopped."""
    with pytest.raises(RWLossError, match="'none'"):
        train_all([run("rectified", steps=10**6), run("none")], jobs=2)


def test_a_killed_process_is_an_error_in_words(run):
    def kill(*_):
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(RWLossError, match="ended from outside"):
        train_all([run("rectified", steps=10**6)], jobs=1, on_step=kill)


def test_no_runs_and_no_jobs(run):
    assert train_all([], jobs=2) == []
    with pytest.raises(RWLossError, match="1 job or more, got 0"):
        train_all([run("rectified")], jobs=0)
