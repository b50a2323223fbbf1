"""Runs that end before their end, and what the same command makes of them.

Real processes, signals and disks. What counts: the other cases are done, and in the end each byte
is as it would have been.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from commands import (
    FORMATS,
    REDUCED,
    SETTINGS,
    Process,
    events,
    files_of,
    labels_of,
    made,
    needs_proc,
    no_temporary_files,
)

from rwloss.errors import RWLossError

# --- kill -9


@needs_proc
def test_a_killed_run_is_finished_by_the_same_command(command, tmp_path):
    """No other run writes to its store while it lives."""
    run = command(jobs=0)
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    killed = run.start()
    killed.wait_for(lambda: len(made(run.out)) >= 2)
    with pytest.raises(RWLossError, match=f"process {killed.process.pid} on .*, since 20"):
        run()
    killed.kill()
    done = made(run.out)
    assert 2 <= len(done) < 6
    summary = run()
    assert summary.made + summary.kept == 6
    assert summary.kept >= len(done)
    assert len(set(made(run.out))) == len(made(run.out))
    assert files_of(run.out) == undisturbed
    assert no_temporary_files(run.out)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(("format", "address"), [("nifti", ""), ("zarr", "file://")])
def test_runs_killed_at_random(command, tmp_path, format, address):
    """Again and again at any moment, from start-up to the last byte; each resumes from there."""
    drawn = random.Random(format)
    run, kills = command(16, format), 3 if REDUCED else 25
    undisturbed = run.undisturbed()
    out, run = run.out, replace(run, out=f"{address}{run.out}")
    started = time.monotonic()
    assert run.start().finish()["made"] == 16
    whole = time.monotonic() - started
    while kills:
        shutil.rmtree(out)
        for _ in range(min(5, kills)):
            process, before = run.start(), len(events(out))
            if drawn.random() < 0.5:  # anywhere
                time.sleep(drawn.uniform(0, whole))
            else:  # while files are written
                process.wait_for(lambda: len(events(out)) > before + 1)  # noqa: B023
                time.sleep(drawn.uniform(0, 0.2))
            kills -= process.process.poll() is None
            process.kill()
        counts = run.start().finish()
        assert counts["made"] + counts["kept"] == 16
        assert len(set(made(out))) == len(made(out))
        assert files_of(out) == undisturbed
        assert no_temporary_files(out)


CRASHES = '''
import io, json, os, shutil, signal, sys
from types import ModuleType
from pathlib import Path
from rwloss.precompute import precompute

source, out, expression, settings, points = sys.argv[1:]
settings, out, points = json.loads(settings), Path(out), int(points)
OF_SYSTEM = {"fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "flock"}
OF_FILES = {"write", "flush", "truncate", "close"}
FILES = (io.FileIO, io.BufferedWriter, io.TextIOWrapper)


def changes_files(function):
    name, of = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    return name in OF_SYSTEM and isinstance(of, ModuleType) or (
        name in OF_FILES and isinstance(of, FILES)
    )


def files():
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in out.rglob("*") if file.is_file() and file.name != "log.jsonl"
    }


def in_a_process(crash_at):
    """Run in a process that ends before or after its call number `crash_at` of those that change
    files; gives the number of calls, or None if it was killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        calls = 0

        def count(frame, event, function):
            nonlocal calls
            if event in {"c_call", "c_return"} and changes_files(function):
                calls += 1
                if calls == crash_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        precompute(source, out, expression, **settings)
        sys.setprofile(None)
        os.write(writer, str(calls).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as calls:
        text = calls.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or status == 0, f"crash {crash_at}: ended with {status}"
    return int(text) if text else None


def stale():
    """What an earlier run left of other labels."""
    shutil.rmtree(out, ignore_errors=True)
    if old.exists():
        shutil.copytree(old, out)


old = out.with_name("old")
precompute(source, out.with_name("warm"), expression, **settings)  # imports all that is needed
stale()
total = in_a_process(0)
undisturbed = files()
crashed = 0
for point in range(1, total + 1, max(1, total // points)):
    stale()
    assert in_a_process(point) is None
    in_a_process(0)
    found = files()
    assert found == undisturbed, (point, sorted(found.items() ^ undisturbed.items())[:2])
    crashed += 1
print(json.dumps({"total": total, "crashed": crashed}))
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
@FORMATS
@pytest.mark.parametrize("stale", [False, True])
def test_a_run_killed_at_each_change_of_a_file(command, tmp_path, format, stale):
    """Before and after each call that writes, renames, removes or locks.

    stale: the store has maps of other labels already, all of them.
    """
    run, points = replace(command(2, format), expression="rectified"), 6 if REDUCED else 100
    if stale:
        replace(run, out=tmp_path / "old")()
        for number in range(2):
            np.save(run.source / f"case_{number:02}.npy", labels_of(number)[::-1])
    script = tmp_path / "crashes.py"
    script.write_text(CRASHES)
    settings = json.dumps({**SETTINGS, **run.settings, "jobs": 0})
    ended = subprocess.run(
        [sys.executable, script, run.source, run.out, run.expression, settings, str(points)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    assert counts["crashed"] >= min(points, counts["total"])
    assert counts["total"] > 50


@FORMATS
def test_lines_that_a_killed_run_left_half_written(command, format):
    run = command(3, format)
    undisturbed = run.undisturbed()
    run()
    *whole, last = undisturbed["manifest.jsonl"].splitlines(keepends=True)
    for length in (0, 1, len(last) // 2, len(last) - 1):
        (run.out / "manifest.jsonl").write_bytes(b"".join(whole) + last[:length])
        with (run.out / "log.jsonl").open("ab") as log:
            log.write(b'{"event": "ma')
        ends = len(events(run.out))
        assert run().failed == ()
        assert files_of(run.out) == undisturbed
        assert [event["event"] for event in events(run.out)[ends:]][::4] == ["start", "end"]


# --- Ctrl-C


def interrupted_after(process, seconds):
    time.sleep(seconds)
    os.killpg(process.process.pid, signal.SIGINT)  # as a terminal does: to all of its group
    errors = process.process.communicate()[1]
    while process.family():  # the test's own time limit ends it otherwise
        time.sleep(0.01)
    return errors


@needs_proc
@pytest.mark.parametrize(
    "moments", [1, pytest.param(2 if REDUCED else 10, marks=pytest.mark.slow)], ids=str
)
def test_ctrl_c(command, tmp_path, moments):
    """One line says so, of one process; nothing runs on; the same command resumes."""
    drawn = random.Random(moments)
    run = command(8)
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    for _ in range(moments):
        shutil.rmtree(run.out, ignore_errors=True)
        process = run.start()
        process.wait_for(lambda: events(run.out))  # from here on it would say "interrupted"
        if moments == 1:
            process.wait_for(lambda: made(run.out))
        errors = interrupted_after(process, drawn.uniform(0, 0.9) if moments > 1 else 0)
        if process.process.returncode:  # else it was just done
            assert (process.process.returncode, errors) == (1, "interrupted\n")
            assert len(made(run.out)) < 8
        assert no_temporary_files(run.out)
        done = made(run.out)
        summary = run()
        assert summary.made + summary.kept == 8
        assert summary.kept >= len(done)
        assert files_of(run.out) == undisturbed
        assert no_temporary_files(run.out)


@needs_proc
@pytest.mark.slow
def test_ctrl_c_with_dask(command, tmp_path):
    """Dask's workers do not complain about it either, beyond a line of their log."""
    pytest.importorskip("distributed")
    run = command(60, scheduler="local")
    (tmp_path / "slow").touch()
    process = run.start()
    process.wait_for(lambda: len(made(run.out)) > 2)
    errors = interrupted_after(process, 0)
    assert (process.process.returncode, errors.splitlines()[-1]) == (1, "interrupted")
    assert "Traceback" not in errors
    assert 2 < len(made(run.out)) < 60
    assert no_temporary_files(run.out)


# --- Object stores


@needs_proc
@pytest.mark.slow
def test_a_killed_run_to_a_bucket(command, tmp_path):
    """Objects are put whole, but there are no locks and no lines to add."""
    pytest.importorskip("fsspec")
    run = command(6, "zarr")
    undisturbed, on_disk = run.undisturbed(), run.out
    (tmp_path / "slow").touch()
    run = replace(run, out=f"bucket://{on_disk}")
    killed = run.start()
    killed.wait_for(lambda: len(list(on_disk.glob("*/zarr.json"))) >= 2)
    killed.kill()
    assert 2 <= len(list(on_disk.glob("*/zarr.json"))) < 6
    summary = run.start().finish()
    assert summary["made"] + summary["kept"] == 6
    assert summary["kept"] >= 2
    assert files_of(on_disk) == undisturbed


# --- Dask

CLUSTER = """
import sys
from distributed import LocalCluster

if __name__ == "__main__":
    free = "127.0.0.1:0"
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=free) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextmanager
def dask_cluster(folder):
    """A cluster in a process that works in another folder: its address, and it as a `Process`."""
    folder.mkdir()
    (folder / "cluster.py").write_text(CLUSTER)
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=folder,
        env={**os.environ, "RWLOSS_TEST_MARK": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    cluster = Process(process, mark)
    try:
        yield process.stdout.readline().strip(), cluster
    finally:
        cluster.kill()


@pytest.fixture
def on_dask(command, tmp_path):
    """A run on a cluster with some cases done: the run, its process, the cluster, what will be."""
    pytest.importorskip("distributed")
    run = command(20)
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    with dask_cluster(tmp_path / "elsewhere") as (address, cluster):
        process = replace(run, settings={**run.settings, "scheduler": address}).start()
        process.wait_for(lambda: len(made(run.out)) > 4)
        yield run, process, cluster, undisturbed


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "scheduler"])
def test_dask_with_a_process_killed(on_dask, victim):
    run, process, cluster, undisturbed = on_dask
    if victim == "worker":
        os.kill(cluster.workers()[0], signal.SIGKILL)
        assert process.finish() == {"made": 20, "kept": 0, "failed": 0, "missing": 0}
        assert no_temporary_files(run.out)
    else:
        cluster.kill()
        errors = process.process.communicate()[1]
        assert process.process.returncode == 1
        assert "run the same command again" in errors
        assert 4 < run().kept < 20
    assert files_of(run.out) == undisturbed
