"""One case: counted, made, kept or only measured; and every way in which it can fail alone."""

import errno
import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from anatomy import anatomy
from label_files import saved
from PIL import Image
from stored import FORMATS, content, info

from rwloss import RWLossError, RWMap, data, maps
from rwloss.precompute import CaseOutcome, Summary
from rwloss.precompute.cases import LabelCount, MapTask, label_counts
from rwloss.store import Writer
from rwloss.store.place import place

LABELS = np.array([[0, 1, 1], [0, 2, 1]], np.uint8)
LIMIT = 10**6


@pytest.fixture(params=FORMATS)
def writer(request, tmp_path):
    with Writer.open(place(tmp_path / "out"), info(format=request.param)) as writer:
        yield writer


@pytest.fixture
def nifti_writer(tmp_path):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        yield writer


def task_of(writer, folder, labels=LABELS, expression=None, **changes):
    """The task of one case of three classes."""
    file = folder / "case.npy"
    np.save(file, labels)
    fields = {"spacing_mm": None, "max_voxels": LIMIT} | changes
    case = data.Case("case", file)
    return MapTask(writer, case, expression or maps.get("rectified"), **fields)


def files(writer):
    return content(writer.place.path, without=(".rwloss-lock", "map.json"))


# --- Made, kept, measured


def test_a_case_is_made_and_then_kept(writer, tmp_path):
    """Also by a task that went to another process."""
    made = pickle.loads(pickle.dumps(task_of(writer, tmp_path)))()
    assert (made.case, made.state, made.reason) == ("case", "made", "")
    assert made.voxels == LABELS.size
    assert made.stored_bytes == sum(map(len, files(writer).values()))
    assert made.seconds > 0
    assert made.entry.shape == LABELS.shape
    assert made.entry.spacing_mm == (1.0, 1.0)  # none in the file, none given
    before = files(writer)
    kept = task_of(writer, tmp_path, known=made.entry)()
    assert (kept.state, kept.entry) == ("kept", made.entry)
    assert (kept.voxels, kept.stored_bytes) == (made.voxels, made.stored_bytes)
    assert files(writer) == before
    other = task_of(writer, tmp_path, known=made.entry, spacing_mm=(1.0, 2.0))()
    assert (other.state, other.entry.spacing_mm) == ("made", (1.0, 2.0))
    assert other.entry.labels_sha256 != made.entry.labels_sha256


@pytest.mark.parametrize("measure", [False, True])
def test_to_measure_writes_nothing(writer, tmp_path, measure):
    outcome = task_of(writer, tmp_path, measure=measure)()
    assert (outcome.state, outcome.entry, outcome.voxels) == ("missing", None, LABELS.size)
    assert files(writer) == {}
    made = task_of(writer, tmp_path)()
    assert outcome.stored_bytes == (made.stored_bytes if measure else 0)
    kept = task_of(writer, tmp_path, known=made.entry, measure=measure)()
    assert (kept.state, kept.stored_bytes) == ("kept", made.stored_bytes)


# --- Failed


@dataclass(frozen=True)
class Raises(maps.Expression):
    """A plug-in that does not do what it should."""

    error: BaseException | type[BaseException]

    is_static = True

    def make(self, regions, probs):
        raise self.error


@dataclass(frozen=True)
class Endless(maps.Expression):
    """A map that no file can hold."""

    is_static = True

    def make(self, regions, probs):
        true = np.full(regions.labels.shape, 1e300)
        true[..., 0] = 0.0
        return RWMap.compact(regions.labels, regions.num_classes, true, np.zeros_like(true))


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_failure_is_an_outcome(nifti_writer, tmp_path):
    for error, reasons, fatal in (
        (RWLossError("expected this, got that"), ["expected this, got that"], False),
        (ZeroDivisionError("by zero"), ["ZeroDivisionError: by zero"], False),
        (MemoryError("much"), ["MemoryError: much"], False),
        (RecursionError("deep"), ["RecursionError: deep"], False),
        (SystemExit(3), ["SystemExit: 3"], False),
        (AssertionError, ["AssertionError: "], False),
        (PermissionError(errno.EACCES, "denied", "x"), ["can't be written: ", "denied"], False),
        (OSError(errno.ENAMETOOLONG, "File name too long"), ["File name too long"], False),
        (OSError(errno.ENOSPC, "No space left"), ["can't be written: ", "No space"], True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ["quota"], True),
        (OSError(errno.EROFS, "Read-only file system"), ["Read-only"], True),
    ):
        outcome = task_of(nifti_writer, tmp_path, expression=Raises(error))()
        assert (outcome.case, outcome.state, outcome.fatal) == ("case", "failed", fatal), error
        assert outcome.entry is None
        assert (outcome.voxels, outcome.stored_bytes) == (0, 0)
        assert all(part in outcome.reason for part in reasons), error
    assert task_of(nifti_writer, tmp_path, expression=Endless())().state == "failed"
    died = task_of(nifti_writer, tmp_path).died()
    assert (died.case, died.state, died.fatal) == ("case", "failed", False)
    assert "memory" in died.reason
    assert files(nifti_writer) == {}
    with pytest.raises(KeyboardInterrupt):  # no failure of a case
        task_of(nifti_writer, tmp_path, expression=Raises(KeyboardInterrupt))()


def test_labels_that_are_no_classes(nifti_writer, tmp_path):
    for labels, words in (
        ([[0, 3]], "label 3 found, but num_classes=3"),
        ([[0, -1]], "-1"),
        ([[0.5, 1.0]], "expected whole numbers, got 0.5"),
        (np.zeros((1, 2, 3, 4), int), "expected 2 or 3 axes, got 4"),
    ):
        outcome = task_of(nifti_writer, tmp_path, labels=labels)()
        assert outcome.state == "failed"
        assert words in outcome.reason
        assert "dataset.json" not in outcome.reason
    task = task_of(nifti_writer, tmp_path, max_voxels=LABELS.size)
    assert task().state == "made"
    assert "max_voxels" in task_of(nifti_writer, tmp_path, max_voxels=LABELS.size - 1)().reason
    task.case.labels.unlink()
    assert "there is no such file" in task().reason


def test_labels_that_dataset_json_does_not_know(tmp_path):
    described = info(class_names=("background", "liver", "tumour"))
    with Writer.open(place(tmp_path / "out"), described) as writer:
        outcome = task_of(writer, tmp_path, labels=[[0, 3]])()
        assert outcome.reason.startswith("its labels disagree with dataset.json: label 3 found")


# --- Summaries


def test_a_summary_adds_up():
    outcomes = (
        CaseOutcome("a", "made", voxels=10, stored_bytes=7),
        CaseOutcome("b", "kept", voxels=20, stored_bytes=9),
        CaseOutcome("c", "failed", reason="it is empty"),
        CaseOutcome("d", "made", voxels=30, stored_bytes=1),
        CaseOutcome("e", "missing", voxels=5, stored_bytes=2),
    )
    summary = Summary("out", "rectified + dice", "rectified", 3, outcomes, 1.5)
    assert summary.counts == {"made": 2, "kept": 1, "failed": 1, "missing": 1}
    assert (summary.made, summary.kept, summary.failed) == (2, 1, (outcomes[2],))
    assert (summary.voxels, summary.stored_bytes, summary.dense_bytes) == (65, 19, 4 * 3 * 65)
    assert "it is empty" not in repr(summary)  # of ten thousand cases
    empty = Summary("out", "rectified", "rectified", 2, ())
    assert empty.counts == {"made": 0, "kept": 0, "failed": 0, "missing": 0}
    assert (empty.voxels, empty.stored_bytes, empty.dense_bytes, empty.failed) == (0, 0, 0, ())


# --- Voxels of each label, against counting by hand


def counted(labels):
    return Counter(np.asarray(labels).astype(int).ravel().tolist())


def test_counts_of_every_type(tmp_path):
    for dtype in ("uint8", "int8", "uint16", ">i4", "int64", "float32", "bool"):
        labels = anatomy(1, (9, 8, 7), 2 if dtype == "bool" else 4).astype(dtype)
        for order in "CF":
            np.save(tmp_path / "a.npy", np.asarray(labels, order=order))
            wanted = (tmp_path / "a.npy", counted(labels))
            assert LabelCount(tmp_path / "a.npy", LIMIT)() == wanted, (dtype, order)


@pytest.mark.parametrize("jobs", [0, 1])
def test_counts_of_all_cases_together(tmp_path, jobs):
    cases = {f"c{i}": anatomy(i, (9 + i, 8), 4).astype(np.int16) for i in range(5)}
    cases["c3"][0, 0] = -1
    cases["c4"][0, :2] = 999
    dataset, seen = data.find(saved(tmp_path / "labels", **cases)), []
    wanted = sum(map(counted, cases.values()), Counter())
    assert (wanted[-1], wanted[999]) == (1, 2)
    assert label_counts(dataset, LIMIT, seen.append, jobs=jobs) == wanted
    assert seen == [5] * 5


def test_cases_that_can_not_be_read(tmp_path, monkeypatch):
    """They are left out where asked for; counts of some cases are no counts of all."""
    source = saved(tmp_path / "labels", a=[[0, 1]], b=[[2, 2]], c=np.ones((9, 9), int))
    np.save(source / "b.npy", [[0.5, 1]])
    dataset = data.find(source)
    assert label_counts(dataset, 20, jobs=0, leave_out=True) == {0: 1, 1: 1}
    message = r"every case, and 2 of 3 can't be read: .*b\.npy.*; fix them, remove them, or write"
    with pytest.raises(RWLossError, match=message):
        label_counts(dataset, 20, jobs=0)

    def dying(tasks, **_):
        first, *others = tasks
        yield first.died()
        yield from (task() for task in others)

    monkeypatch.setattr("rwloss.precompute.cases.run_tasks", dying)
    assert label_counts(dataset, LIMIT, leave_out=True) == {1: 81}
    with pytest.raises(RWLossError, match=r"2 of 3.* a worker process died while .*a\.npy'"):
        label_counts(dataset, LIMIT)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "torn.npy").write_bytes(b"torn")
    with pytest.raises(RWLossError, match=r"torn\.npy|colour\.png|died"):  # not one can be read
        label_counts(data.find(tmp_path), LIMIT, leave_out=True)
