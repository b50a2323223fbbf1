"""Workers that die, full disks, and labels that can't be read: the other cases are done."""

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from commands import (
    FORMATS,
    files_of,
    labels_of,
    made,
    no_temporary_files,
    readable_cases,
    size_of,
)

from rwloss import data
from rwloss.errors import RWLossError

# --- A worker that dies


def test_a_case_that_kills_its_worker_fails_alone(command, tmp_path):
    run = command(4)
    undisturbed = run.undisturbed()
    (tmp_path / f"kill_{size_of(1)}").touch()
    summary = run(jobs=1)
    assert (summary.made, [outcome.case for outcome in summary.failed]) == (3, ["case_01"])
    assert "worker process died" in summary.failed[0].reason
    [failure] = map(json.loads, (run.out / "failures.jsonl").read_text().splitlines())
    assert failure == {"case": "case_01", "reason": summary.failed[0].reason}
    (tmp_path / f"kill_{size_of(1)}").unlink()
    summary = run()
    assert (summary.made, summary.kept, summary.failed) == (1, 3, ())
    assert files_of(run.out) == undisturbed
    assert no_temporary_files(run.out)


def test_a_map_that_raises_anything_fails_its_case_alone(command, tmp_path):
    """Here, and in a worker process, which is killed from outside once; that costs nothing."""
    run, killed = command(5), []
    (tmp_path / "slow").touch()
    for number, kind in enumerate(("error", "exit", "memory")):
        (tmp_path / f"{kind}_{size_of(number)}").touch()

    def kill_once(outcome, total):
        if not killed and (workers := multiprocessing.active_children()):
            killed.append(workers[0])
            killed[0].kill()

    for jobs in (0, 1):
        summary = replace(run, out=tmp_path / f"out{jobs}")(jobs=jobs, progress=kill_once)
        assert summary.made == 2
        assert [(outcome.case, outcome.reason) for outcome in summary.failed] == [
            ("case_00", "ZeroDivisionError: trouble"),
            ("case_01", "SystemExit: trouble"),
            ("case_02", "MemoryError: "),
        ]
    assert killed[0].exitcode == -signal.SIGKILL
    assert files_of(tmp_path / "out0") == files_of(tmp_path / "out1")
    assert no_temporary_files(tmp_path / "out1")


# --- A full disk


@contextmanager
def small_disk(folder, size):
    """A file system of so many bytes."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a small file system: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def resize(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
@FORMATS
def test_a_full_disk(command, tmp_path, format):
    """Of each size from nothing to enough, a page at a time: every write fails once."""
    run = replace(command(2, format), expression="rectified")
    undisturbed = run.undisturbed()
    page, pages, reached = 4096, 0, set()
    with small_disk(tmp_path / "disk", page):
        run = replace(run, out=tmp_path / "disk" / "out")
        while True:
            pages += 1
            resize(tmp_path / "disk", pages * page)
            try:
                summary = run()
            except RWLossError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
                done = readable_cases(run.out) if (run.out / "map.json").exists() else {}
                reached.add(f"stopped after {len(done)}")
            else:
                reasons = [outcome.reason for outcome in summary.failed]
                if not reasons:
                    break
                assert all("No space left on device" in reason for reason in reasons)
                done = readable_cases(run.out)
                kept = {outcome.case for outcome in summary.outcomes if outcome.state == "made"}
                assert kept == done.keys()
                reached.add(f"failed after {len(done)}")
            resize(tmp_path / "disk", 1000 * page)
            assert run().kept >= len(done)
            assert files_of(run.out) == undisturbed
            assert no_temporary_files(run.out)
            shutil.rmtree(run.out)
        assert files_of(run.out) == undisturbed
    # The first write of all; maps and their lines; and the manifest in the end.
    assert reached == {"stopped after 0", "failed after 0", "failed after 1", "stopped after 2"}


# --- Labels that can't be read, or change


def test_labels_that_cannot_be_read(command, tmp_path):
    run = command(6)
    undisturbed = run.undisturbed()
    files = sorted(run.source.iterdir())
    kept = {file: file.read_bytes() for file in files[:4]}
    files[0].write_bytes(kept[files[0]][:-50])
    files[1].write_bytes(b"")
    files[2].unlink()
    files[2].symlink_to(tmp_path / "nowhere.npy")
    files[3].unlink()
    files[3].mkdir()
    summary = run()
    assert summary.made == 2
    # A folder is no label file, whatever its name.
    assert [outcome.case for outcome in summary.failed] == ["case_00", "case_01", "case_02"]
    lines = (run.out / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"case": outcome.case, "reason": outcome.reason} for outcome in summary.failed
    ]
    for outcome, file in zip(summary.failed, files, strict=False):
        assert str(file) in outcome.reason
    files[2].unlink()
    files[3].rmdir()
    for file, content in kept.items():
        file.write_bytes(content)
    summary = run()
    assert (summary.made, summary.kept, summary.failed) == (4, 2, ())
    assert not (run.out / "failures.jsonl").exists()
    assert files_of(run.out) == undisturbed


@FORMATS
def test_labels_that_change_after_their_map_was_made(command, format):
    run = command(4, format)
    run()
    for number in (1, 2):
        np.save(run.source / f"case_{number:02}.npy", labels_of(number)[:, ::-1])
    summary = run()
    states = [outcome.state for outcome in summary.outcomes]
    assert states == ["kept", "made", "made", "kept"]
    assert files_of(run.out) == run.undisturbed()


@pytest.mark.parametrize("change", ["rewritten", "replaced"])
def test_labels_that_change_while_they_are_read(command, tmp_path, monkeypatch, change):
    """A map of half the old and half the new labels is the one thing that must not come out."""
    run = command(3)
    read = data.read_labels

    def read_slowly(path, **options):
        volume = read(path, **options)
        if path.name == "case_01.npy" and not made(run.out)[1:]:
            other = path if change == "rewritten" else tmp_path / "other.npy"
            np.save(other, labels_of(1)[::-1])
            other.replace(path)
        return volume

    with monkeypatch.context() as patched:
        patched.setattr(data, "read_labels", read_slowly)
        summary = run()
    assert summary.made == 2
    assert [outcome.case for outcome in summary.failed] == ["case_01"]
    assert "changed while it was read: run the same command again" in summary.failed[0].reason
    assert run().made == 1
    assert files_of(run.out) == run.undisturbed()
