"""All that is measured on a GPU, the most important first: each row is kept once it is known."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, Row, table, versions

LINES = RESULTS / "gpu.jsonl"
NO_DEVICE = (
    "torch sees no CUDA device here, so nothing can be measured: install a CUDA build of torch on "
    "a machine with an NVIDIA GPU (docs/gpu.md), or run the other benchmarks on this CPU"
)
SMI = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,mig.mode.current"


def main(minutes: float, names: Sequence[str] = ()) -> int:
    """Run the parts of these names in turn (all if none); the number of those that failed.

    Each has a process of its own. A part that is still running when the time is up is ended: what
    it has found so far is kept.
    """
    facts = {
        "started": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions(),
    }
    parts = {name: PARTS[name] for name in names or PARTS}
    return run(parts, LINES, facts, 60 * minutes)


def run(
    parts: Mapping[str, Callable[[], Iterator[Row]]],
    path: Path,
    facts: Mapping[str, Any],
    seconds: float,
) -> int:
    """Append the rows of each part to a file of JSON lines; the number of parts that failed."""
    ends, failed = time.monotonic() + seconds, 0
    spawn = multiprocessing.get_context("spawn")
    for name, rows in parts.items():
        left = ends - time.monotonic()
        if left < 1:
            append(path, {**facts, "part": name, "problem": "not run: the time was up"})
            continue
        # Of its own, because after an error on the device nothing else runs in a process.
        process = spawn.Process(target=_measure, args=(name, rows, path, facts))
        process.start()
        process.join(left)
        if process.is_alive():
            process.kill()
            process.join()
            append(path, {**facts, "part": name, "problem": "ended: the time was up"})
            continue
        failed += process.exitcode not in {0, None}
        if process.exitcode not in {0, 1, None}:  # 1 is an exception, which is noted already
            append(path, {**facts, "part": name, "problem": f"exit code {process.exitcode}"})
    return failed


def _measure(
    name: str, rows: Callable[[], Iterator[Row]], path: Path, facts: Mapping[str, Any]
) -> None:
    try:
        for row in rows():
            append(path, {**facts, "part": name, "card": card(), "row": asdict(row)})
            print(table([row]).splitlines()[-1], flush=True)
    except Exception as error:
        append(path, {**facts, "part": name, "problem": f"{type(error).__name__}: {error}"})
        raise


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a JSON line, which stays if the machine is taken away."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def card() -> dict[str, str]:
    """Name, driver and clocks of the first card as they are now; empty where they aren't known."""
    command = ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader", "--id=0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(SMI.split(","), map(str.strip, told.stdout.split(",")), strict=False))


# --- Parts


def _tests() -> Iterator[Row]:
    """The tests that need a GPU."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--tb=short"]
    command += ["-p", "no:benchmark"]  # pytest-benchmark, where installed, warns beside xdist
    if importlib.util.find_spec("xdist") is not None:  # minutes fewer; a dozen fit on one GPU
        command += ["--numprocesses", str(min(os.cpu_count() or 1, 12))]
    places = [
        "tests/distance",
        "tests/losses",
        "tests/maps",
        "tests/test_regions.py",
        "tests/training",
    ]
    with subprocess.Popen(
        [*command, *places], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as tests:
        assert tests.stdout is not None
        yield from rows_of_tests(tests.stdout)
    if tests.returncode not in {0, 1}:
        raise RuntimeError(f"pytest ended with exit code {tests.returncode}")


def rows_of_tests(lines: Iterable[str]) -> Iterator[Row]:
    """The tests that fail, each as soon as pytest -v says so, then how many did and did not.

    The lines are printed too: the reasons of failures are in the last of them.
    """
    failed, last = set[str](), ""
    for line in lines:
        print(line, end="", flush=True)
        last = line
        # One form is that of xdist's workers and of the summary, the other that of one process.
        told = re.search(r"(?:^|\] )(?:FAILED|ERROR) (tests/.+?)(?: - |\s*$)", line) or re.match(
            r"(tests/.+?) (?:FAILED|ERROR) ", line
        )
        if told and told[1] not in failed:
            failed.add(told[1])
            yield Row("GPU tests", f"failed: {told[1]}", 1, "tests")
    for number, outcome in re.findall(r"(\d+) (passed|failed|errors?)\b", last):
        yield Row("GPU tests", outcome, int(number), "tests")


def _distance(names: str) -> Iterator[Row]:
    from benchmarks.distance import on_a_gpu
    from benchmarks.workloads import ALL

    for workload in ALL:
        if workload.name in names:
            yield from on_a_gpu(workload)


def _loss() -> Iterator[Row]:
    from benchmarks.loss import on_a_gpu

    yield from on_a_gpu()


def _step() -> Iterator[Row]:
    from benchmarks.step import on_a_gpu

    yield from on_a_gpu()


def _study(seeds: int) -> Iterator[Row]:
    from benchmarks.study import rows

    yield from rows(steps=500, ways=[(1, "1", 1), (seeds, "auto", 1)], device="gpu")


def _study_in_3d() -> Iterator[Row]:
    from benchmarks.study import in_3d

    yield from in_3d(steps=40, device="gpu")


def _convolutions() -> Iterator[Row]:
    from benchmarks.study import convolutions

    for members in (32, 128):
        yield from convolutions("cuda", members)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "tests": _tests,
    "distance b": partial(_distance, "b"),
    "loss": _loss,
    "distance a, c, d": partial(_distance, "acd"),
    "study": partial(_study, 32),
    "step": _step,
    "study in 3-D": _study_in_3d,
    "convolutions": _convolutions,
}
"""The most important first."""
