"""Voxels of each label over all cases, against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from anatomy import anatomy
from PIL import Image

from rwloss import RWLossError, data
from rwloss.precompute.cases import LabelCount, label_counts

LIMIT = 10**6


def dataset_of(folder, **cases):
    for name, labels in cases.items():
        np.save(folder / f"{name}.npy", np.asarray(labels))
    return data.find(folder)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", ">i4", "int64", "float32", "bool"])
@pytest.mark.parametrize("order", "CF")
def test_counts_of_every_type(tmp_path, dtype, order):
    labels = anatomy(1, (9, 8, 7), 2 if dtype == "bool" else 4).astype(dtype)
    (case,) = dataset_of(tmp_path, a=np.asarray(labels, order=order)).cases
    wanted = Counter(labels.astype(int).ravel().tolist())
    assert LabelCount(case.labels, LIMIT)() == (case.labels, wanted)


@pytest.mark.parametrize("jobs", [0, 1])
def test_counts_of_all_cases_together(tmp_path, jobs):
    cases = {f"c{i}": anatomy(i, (9 + i, 8), 4).astype(np.int16) for i in range(5)}
    cases["c3"][0, 0] = -1
    cases["c4"][0, :2] = 999
    dataset = dataset_of(tmp_path, **cases)
    seen = []
    wanted = Counter(label for labels in cases.values() for label in labels.ravel().tolist())
    assert label_counts(dataset, LIMIT, seen.append, jobs=jobs) == wanted
    assert seen == [5] * 5
    assert wanted[-1] == 1
    assert wanted[999] == 2


def test_a_case_that_can_not_be_read_is_left_out(tmp_path):
    dataset = dataset_of(tmp_path, a=[[0, 1]], b=[[0.5, 1]], c=np.ones((9, 9), int))
    assert label_counts(dataset, 20, jobs=0, leave_out=True) == {0: 1, 1: 1}


def test_counts_of_some_cases_are_no_counts_of_all(tmp_path):
    dataset = dataset_of(tmp_path, a=[[0, 1]], b=[[0.5, 1]], c=np.ones((9, 9), int))
    message = r"every case, and 2 of 3 can't be read: .*b\.npy.*; fix them, remove them, or write"
    with pytest.raises(RWLossError, match=message):
        label_counts(dataset, 20, jobs=0)


def test_not_one_case_that_can_be_read(tmp_path):
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "torn.npy").write_bytes(b"torn")
    with pytest.raises(RWLossError, match=r"torn\.npy|colour\.png"):
        label_counts(data.find(tmp_path), LIMIT, jobs=0, leave_out=True)


def test_a_process_that_died_leaves_its_case_out(tmp_path, monkeypatch):
    dataset = dataset_of(tmp_path, a=[[0, 1]], b=[[2, 2]])

    def dying(tasks, **_):
        first, *others = tasks
        yield first.died()
        yield from (task() for task in others)

    monkeypatch.setattr("rwloss.precompute.cases.run_tasks", dying)
    assert label_counts(dataset, LIMIT, leave_out=True) == {2: 2}
    message = r"1 of 2.* a worker process died while it read '.*a\.npy'"
    with pytest.raises(RWLossError, match=message):
        label_counts(dataset, LIMIT)
