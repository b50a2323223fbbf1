"""A precompute command in a process of its own, which may be killed, and what it leaves."""

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import rwloss
from rwloss.files.atomic import TEMPORARY_PREFIX
from rwloss.precompute import precompute

REDUCED = os.environ.get("RWLOSS_REDUCED") == "1"
FORMATS = pytest.mark.parametrize("format", ["nifti", "zarr"])
SETTINGS = {"num_classes": 3, "spacing_mm": (1.0, 1.0, 2.0)}
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes by /proc")

# rectified, but for the trouble that a folder asks for.
MAP = f"{Path(__file__).parent / 'troubled_map.py'}:Troubled"

SCRIPT = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
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
        """End it as the system does, and see that nothing of it runs on."""
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
