"""The run folder: what it refuses, and its log."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rwloss import RWLossError
from rwloss.data.splits import Split
from rwloss.training import RunFolder

SPLIT = Split(("a", "b"), ("c",), ("d",), "by hand")


@pytest.fixture
def begun(settings_of):
    settings = settings_of("in")
    folder = RunFolder(Path(settings.out))
    folder.check(settings, SPLIT, checkpoint_bytes=1)
    folder.begin(settings, SPLIT, 0)
    return folder, settings


def test_the_same_run_and_a_longer_one_go_on(begun):
    folder, settings = begun
    folder.check(settings, SPLIT, checkpoint_bytes=1)
    folder.check(settings.model_copy(update={"steps": 9}), SPLIT, checkpoint_bytes=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"holds a run with other settings: seed 0 \(now 4\)"),
        ({"steps": 3}, "of 4 steps, asked for are 3: steps may grow, not shrink"),
    ],
)
def test_another_run_is_refused(begun, change, message):
    folder, settings = begun
    with pytest.raises(RWLossError, match=message):
        folder.check(settings.model_copy(update=change), SPLIT, checkpoint_bytes=1)


def test_other_cases_are_refused(begun):
    folder, settings = begun
    other = Split(("a", "b", "new"), ("c",), ("d",), "by hand")
    with pytest.raises(RWLossError, match="holds a run on other cases than those now in 'in'"):
        folder.check(settings, other, checkpoint_bytes=1)


def test_changed_cases_are_refused_and_named(settings_of, tmp_path):
    """Half a training on each of two data sets would be described as one."""
    settings, folder = settings_of("in"), RunFolder(tmp_path / "run")
    first = replace(SPLIT, digests={"a": "1", "b": "2", "c": "3", "d": "4"})
    folder.path.mkdir()
    folder.begin(settings, first, 0)
    moved = settings.model_copy(update={"data": "elsewhere/in"})
    folder.check(moved, first, checkpoint_bytes=1)
    changed = replace(first, digests={**first.digests, "b": "5", "d": "6"})
    with pytest.raises(
        RWLossError, match=r"in 'elsewhere/in' have changed .*case 'b', 'd'; restore them"
    ):
        folder.check(moved, changed, checkpoint_bytes=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"test\.json' is not the test of a run .*: delete it and rerun the command"),
        ("[]", r"test\.json' is not the test of a run"),
        ('{"steps": null}', r"test\.json' is not the test of a run"),
        ("x", r"cannot read '.*test\.json'"),
    ],
)
def test_a_damaged_test_is_named(begun, content, message):
    folder, settings = begun
    folder.test.write_text(content)
    with pytest.raises(RWLossError, match=message):
        folder.check(settings, SPLIT, checkpoint_bytes=1)


def test_a_folder_with_something_else_is_refused(settings_of):
    settings = settings_of("in")
    folder = RunFolder(Path(settings.out))
    folder.path.mkdir()
    (folder.path / "thesis.tex").write_text("")
    with pytest.raises(RWLossError, match=r"neither empty nor a run folder \(it has no run.toml\)"):
        folder.check(settings, SPLIT, checkpoint_bytes=1)


def test_what_a_start_leaves_that_was_killed_early_is_no_obstacle(settings_of):
    settings = settings_of("in")
    folder = RunFolder(Path(settings.out))
    folder.check(settings, SPLIT, checkpoint_bytes=1)
    (folder.path / ".rwloss-part-0123.toml").write_text("da")
    folder.check(settings, SPLIT, checkpoint_bytes=1)


def test_no_place(settings_of, monkeypatch, tmp_path):
    settings = settings_of("in")
    folder = RunFolder(Path(settings.out))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 2**20))
    with pytest.raises(RWLossError, match="2 MiB left on its disk, and its checkpoints may take 3"):
        folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    folder.check(settings, SPLIT, checkpoint_bytes=2**19)


def test_checkpoints_that_are_there_take_no_more_room(begun, monkeypatch, tmp_path):
    folder, settings = begun
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 2**20))
    folder.last.write_bytes(bytes(2**20))
    folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    folder.last.write_bytes(bytes(2**20 - 1))
    with pytest.raises(RWLossError, match="its checkpoints may take 2 more"):
        folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    folder.write_test({"steps": 4})  # done: there is nothing to write
    folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    other = settings.model_copy(update={"seed": 1})
    with pytest.raises(RWLossError, match="other settings: seed 0"):
        folder.check(other, SPLIT, checkpoint_bytes=2**20)


def test_cases_of_each_part(begun):
    folder, settings = begun
    assert [folder.cases(part) for part in ("train", "validation", "test")] == [
        ("a", "b"), ("c",), ("d",),
    ]  # fmt: skip
    folder.begin(settings, Split(("a",), (), ("d",), "by hand"), 0)
    with pytest.raises(RWLossError, match=r"has no validation cases \(by hand\)"):
        folder.cases("validation")


def test_a_folder_that_cannot_be_made(settings_of, tmp_path):
    (tmp_path / "file").write_text("")
    settings = settings_of("in", out=str(tmp_path / "file" / "run"))
    with pytest.raises(RWLossError, match=r"cannot write to .*: name another folder with --out"):
        RunFolder(Path(settings.out)).check(settings, SPLIT, checkpoint_bytes=1)


def test_the_log_is_rewound_to_a_step(begun):
    folder, settings = begun
    assert list(folder.lines()) == []
    for step in (1, 2, 3, 4):
        folder.log("record", step, loss=step / 8)
    folder.log("validation", 3, dice={"a": None})
    before = folder.metrics.read_text().splitlines()
    folder.begin(settings, SPLIT, 3)
    assert folder.metrics.read_text().splitlines() == [*before[:3], before[4]]
    assert [line["step"] for line in folder.lines()] == [1, 2, 3, 3]


@pytest.mark.parametrize("torn", range(1, 40, 3))
def test_a_torn_last_line_is_no_line(begun, torn):
    folder, settings = begun
    folder.log("record", 1, loss=0.5)
    whole = folder.metrics.read_text()
    line = json.dumps({"kind": "record", "step": 2, "loss": 0.25})
    folder.metrics.write_text(whole + line[:torn])
    assert [each["step"] for each in folder.lines()] == [1]
    folder.begin(settings, SPLIT, 2)
    assert folder.metrics.read_text() == whole


def test_a_full_disk_is_said_in_words(begun, monkeypatch):
    folder, _ = begun

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RWLossError, match=r"metrics\.jsonl' \(No space left"):
        folder.log("record", 1)


def test_a_run_that_has_not_ended_has_no_result(begun):
    with pytest.raises(RWLossError, match="the run has not ended yet"):
        RunFolder(begun[0].path).read_result()
