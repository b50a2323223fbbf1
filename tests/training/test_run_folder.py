"""The run folder: what it refuses, and its log."""

import errno
import json
import math
import os
import shutil
from contextlib import nullcontext
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


def test_the_same_run_and_a_longer_one_go_on_and_no_other(begun):
    folder, settings = begun
    for change, split, message in (
        ({}, SPLIT, None),
        ({"steps": 9}, SPLIT, None),
        ({"seed": 4}, SPLIT, r"holds a run with other settings: seed 0 \(now 4\)"),
        ({"steps": 3}, SPLIT, "of 4 steps, and you asked for 3: steps may grow, not shrink"),
        (
            {},
            Split(("a", "b", "new"), ("c",), ("d",), "by hand"),
            "holds a run on other cases than those now in 'in'",
        ),
    ):
        changed = settings.model_copy(update=change)
        with nullcontext() if message is None else pytest.raises(RWLossError, match=message):
            folder.check(changed, split, checkpoint_bytes=1)


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


def test_a_damaged_test_is_named(begun):
    folder, settings = begun
    for content, message in (
        ("{}", r"test\.json' is not the test of a run .*: delete it and rerun the command"),
        ("[]", r"test\.json' is not the test of a run"),
        ('{"steps": null}', r"test\.json' is not the test of a run"),
        ("x", r"cannot read '.*test\.json'"),
    ):
        folder.test.write_text(content)
        with pytest.raises(RWLossError, match=message):
            folder.check(settings, SPLIT, checkpoint_bytes=1)


def test_a_folder_with_something_else_is_refused(settings_of, tmp_path):
    """But not what a start left that was killed early."""
    settings = settings_of("in")
    folder = RunFolder(Path(settings.out))
    folder.check(settings, SPLIT, checkpoint_bytes=1)
    (folder.path / ".rwloss-part-0123.toml").write_text("da")
    folder.check(settings, SPLIT, checkpoint_bytes=1)
    (folder.path / "thesis.tex").write_text("")
    with pytest.raises(RWLossError, match=r"neither empty nor a run folder \(it has no run.toml\)"):
        folder.check(settings, SPLIT, checkpoint_bytes=1)
    with pytest.raises(RWLossError, match=r"cannot write to .*: name another folder with --out"):
        RunFolder(folder.path / "thesis.tex" / "run").check(settings, SPLIT, checkpoint_bytes=1)


def test_no_place(begun, monkeypatch, tmp_path):
    """Checkpoints that are there take no more room; a finished run needs none."""
    folder, settings = begun
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 * 2**20))
    with pytest.raises(RWLossError, match="2 MiB left on its disk, and its checkpoints may take 3"):
        folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    folder.check(settings, SPLIT, checkpoint_bytes=2**19)
    folder.last.write_bytes(bytes(2**20))
    folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    folder.last.write_bytes(bytes(2**20 - 1))
    with pytest.raises(RWLossError, match="its checkpoints may take 2 more"):
        folder.check(settings, SPLIT, checkpoint_bytes=2**20)
    folder.write_test({"steps": 4})
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


def test_a_torn_last_line_is_no_line(begun):
    folder, settings = begun
    folder.log("record", 1, loss=0.5)
    whole = folder.metrics.read_text()
    line = json.dumps({"kind": "record", "step": 2, "loss": 0.25})
    for torn in range(1, len(line), 7):
        folder.metrics.write_text(whole + line[:torn])
        assert [each["step"] for each in folder.lines()] == [1]
        folder.begin(settings, SPLIT, 2)
        assert folder.metrics.read_text() == whole


def test_a_log_that_can_not_be_written(begun, monkeypatch, tmp_path):
    folder, _ = begun
    (tmp_path / "precious").write_text("mine")
    folder.metrics.unlink()
    folder.metrics.symlink_to(tmp_path / "precious")
    with pytest.raises(RWLossError, match=r"metrics\.jsonl is a link, which is not followed"):
        folder.log("record", 1)
    assert (tmp_path / "precious").read_text() == "mine"
    if hasattr(os, "mkfifo"):
        for path in (folder.metrics, folder.settings, folder.test, folder.splits):
            path.unlink(missing_ok=True)
            os.mkfifo(path)
        for read in (folder.read_settings, folder.read_test, lambda: list(folder.lines())):
            with pytest.raises(RWLossError):
                read()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rwloss.training.run_folder.append_line", full)
    with pytest.raises(RWLossError, match=r"metrics\.jsonl' \(No space left"):
        folder.log("record", 1)


def test_the_log_is_json_whatever_the_numbers(begun):
    folder, _ = begun
    folder.log("record", 1, losses=[float("inf")], gradient_norm=float("nan"))
    line = json.loads(folder.metrics.read_text(), parse_constant=pytest.fail)
    assert (line["losses"], line["gradient_norm"]) == ([None], None)
    ends = {"cases": [], "class_names": ["a", "b"], "num_items": 3, "parameters": 1, "seconds": 1}
    folder.write_test({"steps": 1, "step": 1, **ends})
    assert math.isnan(folder.read_result().losses[0])


def test_a_copied_run_says_where_it_is(begun, tmp_path):
    folder, settings = begun
    copied = RunFolder(shutil.copytree(folder.path, tmp_path / "copy"))
    assert copied.read_settings() == settings.model_copy(update={"out": str(tmp_path / "copy")})


def test_a_run_without_a_result(begun):
    folder = begun[0]
    with pytest.raises(RWLossError, match="the run has not ended yet"):
        folder.read_result()
    test = {"steps": 4, "step": 4, "cases": [], "class_names": ["a", "b"], "seconds": 1}
    for change in ({}, {"num_items": "many", "parameters": 1}, {"cases": [{"name": 3}]}):
        folder.write_test({**test, **change})
        with pytest.raises(RWLossError, match="is not a valid file of a run"):
            folder.read_result()
