"""One case: made, kept or only measured; and every way in which it can fail alone."""

from __future__ import annotations

import errno
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from stored import FORMATS, content, info

from rwloss import RWLossError, RWMap, data, maps
from rwloss.precompute.cases import MapTask
from rwloss.store import Writer
from rwloss.store.place import place

LABELS = np.array([[0, 1, 1], [0, 2, 1]], np.uint8)


@pytest.fixture(params=FORMATS)
def writer(request, tmp_path):
    with Writer.open(place(tmp_path / "out"), info(format=request.param)) as writer:
        yield writer


def task_of(writer, folder, labels=LABELS, **changes):
    """The task of one case of three classes."""
    file = folder / "case.npy"
    np.save(file, labels)
    case = data.Case("case", file)
    return MapTask(
        **{
            "writer": writer,
            "case": case,
            "expression": maps.get("rectified"),
            "spacing_mm": None,
            "max_voxels": 10**6,
        }
        | changes
    )


def files(writer):
    return content(writer.place.path, without=(".rwloss-lock", "map.json"))


# --- Made, kept, measured


def test_a_case_is_made_and_then_kept(writer, tmp_path):
    task = task_of(writer, tmp_path)
    made = task()
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


def test_a_spacing_makes_another_case(writer, tmp_path):
    made = task_of(writer, tmp_path)()
    other = task_of(writer, tmp_path, known=made.entry, spacing_mm=(1.0, 2.0))()
    assert other.state == "made"
    assert other.entry.spacing_mm == (1.0, 2.0)
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


def test_a_task_goes_to_another_process(writer, tmp_path):
    made = pickle.loads(pickle.dumps(task_of(writer, tmp_path)))()
    assert made.state == "made"
    assert task_of(writer, tmp_path, known=made.entry)().state == "kept"


# --- Failed


@dataclass(frozen=True)
class Raises(maps.Expression):
    """A plug-in that does not do what it should."""

    error: BaseException | type[BaseException]

    is_static = True

    def make(self, regions, probs):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason", "fatal"),
    [
        (RWLossError("expected this, got that"), "expected this, got that", False),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", False),
        (MemoryError("much"), "MemoryError: much", False),
        (RecursionError("deep"), "RecursionError: deep", False),
        (SystemExit(3), "SystemExit: 3", False),
        (AssertionError, "AssertionError: ", False),
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            "can't be written: .*denied",
            False,
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "File name too long", False),
        (OSError(errno.ENOSPC, "No space left on device"), "can't be written: .*No space", True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota", True),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only", True),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_failure_is_an_outcome(tmp_path, error, reason, fatal):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        outcome = task_of(writer, tmp_path, expression=Raises(error))()
        assert (outcome.case, outcome.state, outcome.fatal) == ("case", "failed", fatal)
        assert outcome.entry is None
        assert (outcome.voxels, outcome.stored_bytes) == (0, 0)
        assert reason.rpartition(".*")[-1] in outcome.reason
        assert outcome.reason.startswith(reason.partition(".*")[0]) or reason in outcome.reason
        assert files(writer) == {}


def test_ctrl_c_is_no_failure_of_a_case(tmp_path):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        task = task_of(writer, tmp_path, expression=Raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            task()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0, 3]], "label 3 found, but num_classes=3"),
        ([[0, -1]], "-1"),
        ([[0.5, 1.0]], "expected whole numbers, got 0.5"),
        (np.zeros((1, 2, 3, 4), int), "expected 2 or 3 axes, got 4"),
    ],
    ids=["large", "negative", "fraction", "axes"],
)
def test_labels_that_are_no_classes(tmp_path, labels, words):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        outcome = task_of(writer, tmp_path, labels=labels)()
        assert outcome.state == "failed"
        assert words in outcome.reason
        assert "dataset.json" not in outcome.reason


def test_labels_that_dataset_json_does_not_know(tmp_path):
    described = info(class_names=("background", "liver", "tumour"))
    with Writer.open(place(tmp_path / "out"), described) as writer:
        outcome = task_of(writer, tmp_path, labels=[[0, 3]])()
        assert outcome.reason.startswith("its labels disagree with dataset.json: label 3 found")


def test_a_missing_file_says_so(tmp_path):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        task = task_of(writer, tmp_path)
        task.case.labels.unlink()
        assert "there is no such file" in task().reason


def test_the_limit_of_voxels(tmp_path):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        assert task_of(writer, tmp_path, max_voxels=LABELS.size)().state == "made"
        assert "max_voxels" in task_of(writer, tmp_path, max_voxels=LABELS.size - 1)().reason


def test_a_process_that_died(tmp_path):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        outcome = task_of(writer, tmp_path).died()
        assert (outcome.case, outcome.state, outcome.fatal) == ("case", "failed", False)
        assert "memory" in outcome.reason


@dataclass(frozen=True)
class Endless(maps.Expression):
    """A map that no file can hold."""

    is_static = True

    def make(self, regions, probs):
        true = np.full(regions.labels.shape, 1e300)
        true[..., 0] = 0.0
        return RWMap.compact(regions.labels, regions.num_classes, true, np.zeros_like(true))


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_beyond_float32_are_refused(tmp_path):
    with Writer.open(place(tmp_path / "out"), info()) as writer:
        outcome = task_of(writer, tmp_path, expression=Endless())()
        assert outcome.state == "failed"
        assert files(writer) == {}
