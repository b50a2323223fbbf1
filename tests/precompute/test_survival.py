"""Runs that end before their end, and what the same command makes of them.

Real processes, signals and disks. What counts: the other cases are done, and in the end each byte
is as it would have been.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import rwloss
from rwloss import data
from rwloss.errors import RWLossError
from rwloss.files.atomic import TEMPORARY_PREFIX
from rwloss.precompute import precompute, task

REDUCED = os.environ.get("RWLOSS_REDUCED") == "1"
FORMATS = pytest.mark.parametrize("format", ["nifti", "zarr"])
SETTINGS = {"num_classes": 3, "spacing_mm": (1.0, 1.0, 2.0)}
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")

# rectified, but for the trouble that a folder asks for.
MAP = f"{Path(__file__).parents[1] / 'troubled_map.py'}:Troubled"

SCRIPT = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import disk_bucket
from rwloss.precompute import precompute

def main():
    source, out, expression, settings = sys.argv[1:]
    try:
        summary = precompute(source, out, expression, **json.loads(settings))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print(json.dumps(summary.counts))

if __name__ == "__main__":
    main()
"""


# --- What is run


def labels_of(number):
    """Labels (14+number 12 10) of three classes, drawn by number."""
    rng = np.random.default_rng(number)
    labels = np.zeros((14 + number, 12, 10), np.uint8)
    for label in (1, 2):
        z, y, x = (int(rng.integers(1, 5)) for _ in range(3))
        labels[z : z + 6, y : y + 5, x : x + 4] = label
    return labels


def make_cases(folder, count):
    folder.mkdir()
    for number in range(count):
        np.save(folder / f"case_{number:02}.npy", labels_of(number))
    return folder


def size_of(number):
    """What `Troubled` knows a case by."""
    return 14 + number


@dataclass(frozen=True)
class Command:
    """A precompute command, as a process of its own or in this one."""

    source: Path
    out: Path
    expression: str
    settings: dict = field(default_factory=dict)

    def __call__(self, **changed):
        """Here; a case at a time unless told otherwise."""
        settings = {**SETTINGS, **self.settings, "jobs": 0, **changed}
        return precompute(self.source, self.out, self.expression, **settings)

    def start(self):
        """In a process group of its own, which nothing but its mark in the environment outlives."""
        script = self.source.parent / "script.py"
        script.write_text(SCRIPT)
        mark = uuid.uuid4().hex
        settings = json.dumps({**SETTINGS, **self.settings})
        process = subprocess.Popen(
            [sys.executable, script, self.source, self.out, self.expression, settings],
            env={**os.environ, "RWLOSS_TEST_MARK": mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Process(process, mark)

    def undisturbed(self):
        """The files that it makes where nothing comes in between."""
        calm = replace(self, out=self.out.with_name(f"{self.out.name}_undisturbed"))
        assert not calm().failed
        return files_of(calm.out)


@dataclass(frozen=True)
class Process:
    """A command under way."""

    process: subprocess.Popen
    mark: str

    def family(self):
        """Processes of this command that run, by id, with their command lines; orphans too."""
        found = {}
        for entry in filter(str.isdecimal, os.listdir("/proc")):
            folder = Path("/proc", entry)
            try:
                if f"RWLOSS_TEST_MARK={self.mark}".encode() not in folder.joinpath(
                    "environ"
                ).read_bytes().split(b"\0"):
                    continue
                found[int(entry)] = folder.joinpath("cmdline").read_bytes().decode()
            except OSError:
                continue  # it has just ended, or is not ours
        return found

    def workers(self):
        return [pid for pid, line in self.family().items() if "spawn_main" in line]

    def wait_for(self, condition):
        """Until a condition holds, or the command ends by itself."""
        while not condition() and self.process.poll() is None:
            time.sleep(0.005)

    def kill(self):
        """End it as the system does, and see that nothing of it goes on."""
        self.process.kill()
        output = self.process.communicate()
        while self.family():  # the test's own time limit ends it otherwise
            time.sleep(0.01)
        return output

    def finish(self):
        """Wait for its end; gives the counts that it reports."""
        output, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        return json.loads(output)


def files_of(out):
    """Bytes of all files but log.jsonl, by path."""
    return {
        file.relative_to(out).as_posix(): file.read_bytes()
        for file in out.rglob("*")
        if file.is_file() and file.name != "log.jsonl"
    }


def events(out):
    """Lines of log.jsonl; half a line is what a killed run may leave."""
    found = []
    try:
        lines = (out / "log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def made(out):
    return [event["case"] for event in events(out) if event["event"] == "made"]


def no_temporary_files(out):
    return not [name for name in os.listdir(out) if name.startswith((TEMPORARY_PREFIX, ".rwloss"))]


def readable_cases(out):
    """Cases of a store as it is, each map read."""
    store = rwloss.store.open(out)
    return {case: store[case] for case in store}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A command for so many cases, in a format; its map makes trouble when it is asked to."""
    monkeypatch.setenv("RWLOSS_TEST_TROUBLE", str(tmp_path))

    def made(count=6, format="nifti", jobs=2, **settings):
        source, settings = tmp_path / "labels", {"format": format, "jobs": jobs, **settings}
        return Command(make_cases(source, count), tmp_path / "out", MAP, settings)

    return made


# --- kill -9


@needs_proc
def test_a_killed_run_is_finished_by_the_same_command(command, tmp_path):
    run = command(jobs=1)
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    killed = run.start()
    killed.wait_for(lambda: len(made(run.out)) >= 2)
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
    """Again and again at any moment, from start-up to the last byte; each goes on from there."""
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
@pytest.mark.parametrize(
    ("format", "stale", "points"),
    [
        ("nifti", False, 5),
        ("zarr", True, 5),
        *(
            pytest.param(format, stale, 6 if REDUCED else 100, marks=pytest.mark.slow)
            for format in ("nifti", "zarr")
            for stale in (False, True)
        ),
    ],
)
def test_a_run_killed_at_each_change_of_a_file(command, tmp_path, format, stale, points):
    """Before and after each call that writes, renames, removes or locks.

    stale: the store has maps of other labels already, all of them.
    """
    run = replace(command(2, format), expression="rectified")
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


# --- A worker that dies


def test_a_case_that_kills_its_worker_fails_alone(command, tmp_path):
    run = command()
    undisturbed = run.undisturbed()
    (tmp_path / f"kill_{size_of(1)}").touch()
    summary = run(jobs=2)
    assert (summary.made, [outcome.case for outcome in summary.failed]) == (5, ["case_01"])
    assert "worker process died" in summary.failed[0].reason
    [failure] = map(json.loads, (run.out / "failures.jsonl").read_text().splitlines())
    assert failure == {"case": "case_01", "reason": summary.failed[0].reason}
    (tmp_path / f"kill_{size_of(1)}").unlink()
    summary = run()
    assert (summary.made, summary.kept, summary.failed) == (1, 5, ())
    assert files_of(run.out) == undisturbed
    assert no_temporary_files(run.out)


def test_a_worker_killed_from_outside_costs_nothing(command, tmp_path):
    run = command()
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    killed = []

    def kill_once(outcome, total):
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    assert run(jobs=2, progress=kill_once).made == 6
    assert killed[0].exitcode == -signal.SIGKILL
    assert files_of(run.out) == undisturbed
    assert no_temporary_files(run.out)


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_map_that_raises_anything_fails_its_case_alone(command, tmp_path, jobs):
    run = command(5)
    for number, kind in enumerate(("error", "exit", "memory")):
        (tmp_path / f"{kind}_{size_of(number)}").touch()
    summary = run(jobs=jobs)
    assert summary.made == 2
    assert [(outcome.case, outcome.reason) for outcome in summary.failed] == [
        ("case_00", "ZeroDivisionError: trouble"),
        ("case_01", "SystemExit: trouble"),
        ("case_02", "MemoryError: "),
    ]


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
    assert [outcome.case for outcome in summary.outcomes if outcome.state == "made"] == [
        "case_01",
        "case_02",
    ]
    assert summary.kept == 2
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
        patched.setattr(task.data, "read_labels", read_slowly)
        summary = run()
    assert summary.made == 2
    assert [outcome.case for outcome in summary.failed] == ["case_01"]
    assert "changed while it was read: run the same command again" in summary.failed[0].reason
    assert run().made == 1
    assert files_of(run.out) == run.undisturbed()


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
    """One line says so, of one process; nothing runs on; the same command goes on."""
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


# --- Two at once


def test_two_runs_on_one_store(command, tmp_path):
    run = command(6, jobs=0)
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    first = run.start()
    first.wait_for(lambda: events(run.out))
    with pytest.raises(RWLossError, match=f"process {first.process.pid} on .*, since 20"):
        run()
    assert first.finish()["made"] == 6
    assert files_of(run.out) == undisturbed


# --- Object stores


@needs_proc
@pytest.mark.slow
def test_a_killed_run_to_a_bucket(command, tmp_path):
    """Objects are put whole, but there are no locks and no lines to add."""
    pytest.importorskip("fsspec")
    run = command(6, "zarr")
    undisturbed = run.undisturbed()
    (tmp_path / "slow").touch()
    on_disk = run.out
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
def test_dask_with_a_worker_killed(on_dask):
    run, process, cluster, undisturbed = on_dask
    os.kill(cluster.workers()[0], signal.SIGKILL)
    assert process.finish() == {"made": 20, "kept": 0, "failed": 0, "missing": 0}
    assert files_of(run.out) == undisturbed
    assert no_temporary_files(run.out)


@needs_proc
@pytest.mark.slow
def test_dask_with_its_scheduler_killed(on_dask):
    run, process, cluster, undisturbed = on_dask
    cluster.kill()
    errors = process.process.communicate()[1]
    assert process.process.returncode == 1
    assert "run the same command again" in errors
    assert 4 < run().kept < 20
    assert files_of(run.out) == undisturbed
