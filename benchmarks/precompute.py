"""The precompute command: volumes a second, and what it adds to the transform alone."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.measure import Row, report, seconds
from benchmarks.workloads import B
from rwloss import Regions, distance, maps
from rwloss.precompute import precompute

VOLUMES = 16


def main() -> None:
    """Measure 16 volumes of workload b, one process and two, disk included."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(Path(folder))
    report("precompute", rows)


def _measure(folder: Path) -> list[Row]:
    source = folder / "labels"
    source.mkdir()
    image = nibabel.Nifti1Image(B.labels()[0], np.eye(4))
    for number in range(VOLUMES):
        nibabel.save(image, source / f"case_{number:02}.nii.gz")

    def run(jobs: int) -> None:
        out = folder / f"maps_{jobs}"
        shutil.rmtree(out, ignore_errors=True)
        summary = precompute(source, out, "rectified", num_classes=B.num_classes, jobs=jobs)
        if summary.made != VOLUMES:
            raise RuntimeError(f"{summary.failed[0].case} failed: {summary.failed[0].reason}")

    def transform() -> None:
        for _ in range(VOLUMES):
            maps.get("rectified")(Regions(B.labels(), B.num_classes, B.spacing_mm))

    distance.set_num_threads(1)
    methods = {f"rwloss precompute --jobs {jobs}": partial(run, jobs) for jobs in (1, 2)}
    took = seconds({"the maps alone, 1 thread": transform, **methods}, repeats=3, enough=30)
    alone = took["the maps alone, 1 thread"]
    rows = [
        Row(f"{VOLUMES} volumes of b", name, VOLUMES / value, "/s", alone / value)
        for name, value in took.items()
    ]
    stored = sum(file.stat().st_size for file in (folder / "maps_1").iterdir())
    dense = VOLUMES * B.labels().size * B.num_classes * 4
    rows.append(
        Row("stored maps", "size against dense float32", stored / 2**20, "MiB", dense / stored)
    )
    return rows
