"""Timing peers in one run, and writing what was seen: medians, ratios, memory, machine."""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rwloss.work.tasks import available_cores

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("rwloss", "torch", "numpy", "scipy", "edt", "monai", "SimpleITK", "triton")
PACKAGES += ("cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True)
class Row:
    """One measurement. ratio: reference over this (speed-up) or this over reference (cost)."""

    what: str
    method: str
    value: float
    unit: str
    ratio: float | None = None
    goal: str = ""


def seconds(
    methods: Mapping[str, Callable[[], Any]],
    *,
    repeats: int = 5,
    enough: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each method.

    In turns, so that a disturbance hits all alike, after one call each to warm up (which counts
    where a single call takes longer than `enough` seconds: then it is the only one).
    """
    times: dict[str, list[float]] = {name: [] for name in methods}
    slow = set()
    for turn in range(repeats + 1):
        for name, call in methods.items():
            if name in slow:
                continue
            synchronize()
            began = clock()
            call()
            synchronize()
            took = clock() - began
            if turn or took > enough:
                times[name].append(took)
            if sum(times[name]) > enough:
                slow.add(name)
    return {name: statistics.median(found) for name, found in times.items()}


def seconds_on_a_gpu(
    methods: Mapping[str, Callable[[], Any]], *, calls: int = 20, slow: Mapping[str, int] = {}
) -> dict[str, float]:
    """Median seconds of one call of each method, of several that follow each other.

    As in training, the host does not wait between calls: it counts only where it is the slower.

    calls: how many follow each other. slow: how many of the methods that take too long for that.
    """

    def many(call: Callable[[], Any], number: int) -> None:
        for _ in range(number):
            call()

    numbers = {name: slow.get(name, calls) for name in methods}
    took = seconds(
        {name: partial(many, call, numbers[name]) for name, call in methods.items()}, repeats=9
    )
    return {name: value / numbers[name] for name, value in took.items()}


def kernel_seconds(call: Callable[[], Any], *, calls: int = 10) -> float:
    """Seconds that the kernels of one call take on the GPU, without what lies between them."""
    from torch.profiler import ProfilerActivity, profile

    call()
    synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(calls):
            call()
        synchronize()
    return float(sum(e.self_device_time_total for e in found.key_averages()) / calls / 1e6)


def synchronize() -> None:
    """Wait for a GPU, where torch has been imported and sees one."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mib(make: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Largest growth of resident memory in MiB while the call that `make(*arguments)` gives runs.

    In a process of its own, because resident memory never tells two methods apart afterwards.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return float(pool.apply(_peak, (make, arguments)))


def _peak(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> float:
    call = make(*arguments)
    with open("/proc/self/clear_refs", "w") as clear:  # resets the peak of this process
        clear.write("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A number in kB of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> str:
    """The machine in general words."""
    import torch

    words = f"{available_cores()} CPU cores ({platform.machine()})"
    if torch.cuda.is_available():
        words += f", one {torch.cuda.get_device_name().removeprefix('NVIDIA ')}"
    return words


def report(name: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Path:
    """Print the table and write it as JSON; the file's path."""
    import torch

    print(table(rows))
    for note in notes:
        print(f"\n{note}")
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    path = RESULTS / f"{name}-{kind}.json"
    content = {
        "benchmark": name,
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
        "notes": list(notes),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = ["| what | method | median | ratio | goal |", "|---|---|---:|---:|---:|"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}×"
        lines.append(f"| {row.what} | {row.method} | {_number(row)} | {ratio} | {row.goal} |")
    return "\n".join(lines)


def _number(row: Row) -> str:
    if row.unit == "s":
        return f"{row.value * 1e3:.3g} ms" if row.value < 1 else f"{row.value:.3g} s"
    return f"{row.value:.3g} {row.unit}"


def versions() -> dict[str, str]:
    """Versions of what takes part in a measurement, where installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
