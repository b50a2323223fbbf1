"""Runs from files to numbers, in this process and in processes of their own."""

import dataclasses
import multiprocessing
import shutil

import pytest

from rwloss import RWLossError, data
from rwloss.precompute import precompute
from rwloss.training import Run, train_all, train_and_test


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two training volumes and one test volume of the sample, and a folder with their maps."""
    source, folder = data.sample_dir("hippocampus"), tmp_path_factory.mktemp("small")
    for part, end, count in (("train", "Tr", 2), ("test", "Ts", 1)):
        for case in data.find(source, part=part).cases[:count]:
            for kind, file in (("labels", case.labels), ("images", case.images[0])):
                (folder / (kind + end)).mkdir(exist_ok=True)
                shutil.copy(file, folder / (kind + end))
    shutil.copy(source / "dataset.json", folder)
    for text in ("boundary", "rectified"):
        precompute(folder, folder / "maps" / text, text, jobs=1)
    return folder


def settings(small, text="rectified", **changes):
    return Run(small, small / "maps" / text, **{"steps": 3, "batch_size": 4, **changes})


def without_time(result):
    return dataclasses.replace(result, seconds=0.0)


def test_result_names_what_it_is_of(small):
    seen = []
    result = train_and_test(settings(small), lambda step, loss: seen.append((step, loss)))
    assert seen == list(enumerate(result.losses, start=1))
    assert len(seen) == 3
    assert result.expression == "rectified"
    assert result.class_names == ("background", "anterior", "posterior")
    assert len(result.dice) == 3
    assert [len(each.cases) for each in result.dice] == [1, 1, 1]
    assert result.test_cases == tuple(case.name for case in data.find(small, part="test").cases)
    assert all(length % 8 == 0 for length in result.size)


def test_same_settings_same_result(small):
    first, again = (without_time(train_and_test(settings(small))) for _ in range(2))
    assert first == again
    other = without_time(train_and_test(settings(small, seed=1)))
    assert other.losses != first.losses


def test_maps_of_other_cases_are_refused(small, tmp_path):
    one = dataclasses.replace(data.find(small), cases=data.find(small).cases[:1])
    precompute(one, tmp_path / "maps", "rectified", jobs=1)
    with pytest.raises(RWLossError, match="no map of case"):
        train_and_test(dataclasses.replace(settings(small), maps=tmp_path / "maps"))


def test_runs_side_by_side_keep_their_order_and_report(small):
    seen = []
    runs = [settings(small, "boundary", steps=12), settings(small, "rectified", steps=3)]
    results = train_all(runs, jobs=2, on_step=lambda *report: seen.append(report))
    assert [result.expression for result in results] == ["boundary", "rectified"]
    expected = [
        (0, 10, results[0].losses[9]),
        (0, 12, results[0].losses[11]),
        (1, 3, results[1].losses[2]),
    ]
    assert sorted(seen) == expected


def test_a_failed_run_stops_the_others(small):
    """The long run would take minutes; the test's own time limit says whether it is stopped."""
    runs = [settings(small, steps=100_000), settings(small, "none")]
    with pytest.raises(RWLossError, match="none"):
        train_all(runs, jobs=2)


def test_a_killed_process_is_an_error_in_words(small):
    def kill(*_):
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(RWLossError, match="ended from outside"):
        train_all([settings(small, steps=100_000)], jobs=1, on_step=kill)


def test_no_runs_and_no_jobs(small):
    assert train_all([], jobs=2) == []
    with pytest.raises(RWLossError, match="1 job or more, got 0"):
        train_all([settings(small)], jobs=0)
