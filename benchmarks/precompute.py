"""The precompute command: what it adds to the transform, how it grows, how large its maps are."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.measure import Row, report
from benchmarks.workloads import B, D, Workload
from rwloss import Regions, distance, maps
from rwloss.precompute import Summary, precompute

OVERHEAD_VOLUMES = 16
GROWTH = (16, 64, 256)

# One run of its own, and what the system says of it and of its worker processes.
_RUN = """
import json, resource, sys, time
from rwloss.precompute import precompute
if __name__ == "__main__":
    source, out, kind, jobs = sys.argv[1:]
    began = time.perf_counter()
    summary = precompute(source, out, "rectified", num_classes=4, format=kind, jobs=int(jobs))
    wall = time.perf_counter() - began
    here, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF,
                                                          resource.RUSAGE_CHILDREN))
    print(json.dumps({
        "made": summary.made, "wall": wall, "bytes": summary.stored_bytes,
        "cpu": sum(u.ru_utime + u.ru_stime for u in (here, workers)),
        "peak_here": here.ru_maxrss / 1024, "peak_worker": workers.ru_maxrss / 1024,
    }))
"""


def main() -> None:
    """Measure all of it on workloads b and d, disk included."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [*_overhead(Path(folder)), *_growth(Path(folder)), *_sizes(Path(folder))]
    report("precompute", rows)


def _labels(folder: Path, workload: Workload, count: int) -> Path:
    """A folder with this many label files of a workload."""
    source = folder / f"labels_{workload.name}_{count}"
    source.mkdir(exist_ok=True)
    first = source / "case_000.nii.gz"
    affine = np.diag([*workload.spacing_mm, 1.0])
    nibabel.save(nibabel.Nifti1Image(workload.labels()[0], affine), first)
    for number in range(1, count):
        shutil.copy(first, source / f"case_{number:03}.nii.gz")
    return source


def _overhead(folder: Path) -> list[Row]:
    """A case in a worker process, from its label file to its files in the store, and the map alone.

    In turns; both with one thread. The start of the worker process is left out.
    """
    source = _labels(folder, B, OVERHEAD_VOLUMES)
    times: dict[str, list[float]] = {"the map alone": [], "nifti": [], "zarr": []}
    distance.set_num_threads(1)
    for turn in range(4):
        for _ in range(OVERHEAD_VOLUMES):
            began = time.perf_counter()
            maps.get("rectified")(Regions(B.labels(), B.num_classes, B.spacing_mm))
            times["the map alone"].append(time.perf_counter() - began)
        for kind in ("nifti", "zarr"):
            out = folder / f"maps_{kind}_{turn}"
            summary = precompute(source, out, "rectified", num_classes=4, format=kind, jobs=1)
            _require_all(summary)
            times[kind] += [outcome.seconds for outcome in summary.outcomes]
            shutil.rmtree(out)
    took = {name: statistics.median(found) for name, found in times.items()}
    alone = took["the map alone"]
    return [
        Row(
            "one volume of b, one thread",
            name if name == "the map alone" else f"rwloss precompute, {name}",
            value,
            "s",
            value / alone,
            "" if value == alone else "≤ 1.25×",
        )
        for name, value in took.items()
    ]


def _growth(folder: Path) -> list[Row]:
    """More cases: volumes a second, CPU, bytes and memory; two processes against one."""
    rows = []
    rates: dict[tuple[int, int], float] = {}
    for count in GROWTH:
        source = _labels(folder, B, count)
        for jobs in (1, 2) if count == GROWTH[1] else (2,):
            out = folder / f"maps_{count}_{jobs}"
            done = subprocess.run(
                [sys.executable, "-c", _RUN, source, out, "nifti", str(jobs)],
                env={**os.environ, "RWLOSS_NUM_THREADS": "1"},
                check=True,
                capture_output=True,
                text=True,
            )
            found = json.loads(done.stdout)
            if found["made"] != count:
                raise RuntimeError(f"{found['made']} of {count} maps were made")
            shutil.rmtree(out)
            rates[count, jobs] = count / found["wall"]
            what = f"{count} volumes of b, {jobs} worker process{'es' if jobs > 1 else ''}"
            rows += [
                Row(what, "volumes a second, start included", rates[count, jobs], "/s"),
                Row(what, "CPU use", found["cpu"] / found["wall"], "cores"),
                Row(what, "written", found["bytes"] / 2**20, "MiB"),
                Row(what, "peak memory of the command", found["peak_here"], "MiB"),
                Row(what, "peak memory of a worker", found["peak_worker"], "MiB"),
            ]
    speedup = rates[GROWTH[1], 2] / rates[GROWTH[1], 1]
    rate = rates[GROWTH[1], 2]
    rows.append(
        Row(f"{GROWTH[1]} volumes of b", "two processes against one", rate, "/s", speedup, "≥ 1.8×")
    )
    return rows


def _sizes(folder: Path) -> list[Row]:
    """Stored maps against dense float32, and how exact they are."""
    goals = {("nifti", "b"): 12, ("nifti", "d"): 8, ("zarr", "b"): 15, ("zarr", "d"): 15}
    rows = []
    for workload in (B, D):
        source = _labels(folder, workload, 1)
        for kind in ("nifti", "zarr"):
            out = folder / f"size_{workload.name}_{kind}"
            k = workload.num_classes
            summary = precompute(source, out, "rectified", num_classes=k, format=kind, jobs=0)
            _require_all(summary)
            entry = summary.outcomes[0].entry
            assert entry is not None
            rows += [
                Row(
                    workload.words,
                    f"{kind}: dense float32 against stored",
                    summary.stored_bytes / 2**20,
                    "MiB",
                    summary.dense_bytes / summary.stored_bytes,
                    f"≥ {goals[kind, workload.name]}×",
                ),
                Row(
                    workload.words,
                    f"{kind}: largest error",
                    max(part.max_error for part in entry.parts.values()),
                    "",
                    goal="≤ 3e-4" if kind == "nifti" else "≤ 2.5e-4",
                ),
            ]
    return rows


def _require_all(summary: Summary) -> None:
    if summary.failed:
        raise RuntimeError(f"{summary.failed[0].case} failed: {summary.failed[0].reason}")
