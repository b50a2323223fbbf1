"""Maps: speed-up over the official loop of one SciPy transform a class (or two for boundary)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import official
from benchmarks.measure import Row, kernel_seconds, report, seconds, seconds_on_a_gpu
from benchmarks.workloads import ALL, A, B, Workload
from rwloss import Regions, distance, maps

# Speed-ups to reach: (one thread, two).
GOALS = {
    ("a", "rectified compact"): (3.8, None),
    ("a", "boundary"): (2.8, None),
    ("b", "rectified compact"): (11, 20),
    ("c", "rectified compact"): (35, 60),
    ("d", "rectified compact"): (18, 28),
    ("b", "rectified dense"): (9, 16),
    ("c", "rectified dense"): (30, 45),
    ("d", "rectified dense"): (15, 22),
    ("b", "boundary"): (6, 11),
    ("c", "boundary"): (6, 11),
    ("d", "boundary"): (10, 20),
    ("b", "rectified, SciPy only"): (2.5, None),
    ("c", "rectified, SciPy only"): (2.5, None),
    ("d", "rectified, SciPy only"): (2.5, None),
}


GPU_GOALS = {"a": "≤ 0.15 ms, ≥ 10×", "b": "≤ 0.4 ms, ≥ 10×", "c": "≤ 3 ms, ≥ 10×"}
GPU_GOALS |= {"d": "≤ 12 ms, ≥ 10×"}


NO_GPU = (
    "No CUDA device: the rows on a GPU are left out, and their goals are neither met nor missed."
)


def main(names: Sequence[str] = (), *, growth: bool = True) -> None:
    """Measure the workloads of these names (all if none) and write the results."""
    rows: list[Row] = []
    chosen = [workload for workload in ALL if not names or workload.name in names]
    for workload in chosen:
        rows += _maps(workload)
        rows += _peers(workload)
    if A in chosen:
        rows += _torch_on_the_cpu(A)
    if B in chosen:
        rows += _processes()
    if _sees_a_gpu():
        rows += [row for workload in chosen for row in on_a_gpu(workload)]
    if growth:
        rows += _growth()
    report("distance", rows, [] if _sees_a_gpu() else [NO_GPU])


def _maps(workload: Workload) -> list[Row]:
    labels, k, spacing = workload.labels(), workload.num_classes, workload.spacing_mm

    def ours(name: str, threads: int, *, dense: bool = False, engine: str | None = None) -> None:
        distance.set_num_threads(threads)
        without_edt = {"edt": None} if engine == "scipy" else {}
        with patch.dict(sys.modules, without_edt):  # type: ignore[arg-type]
            rwmap = maps.get(name)(Regions(labels, k, spacing))
        distance.set_num_threads(None)
        if dense:
            rwmap.dense()

    def theirs(formula: Callable[..., Any]) -> None:
        for image in labels:
            formula(image, k, spacing)

    methods: dict[str, Callable[[], Any]] = {
        "official rectified": partial(theirs, official.rectified),
        "official boundary": partial(theirs, official.boundary),
        "rectified, SciPy only": partial(ours, "rectified", 1, engine="scipy"),
    }
    for threads in (1, 2):
        methods[f"rectified compact {threads}"] = partial(ours, "rectified", threads)
        methods[f"rectified dense {threads}"] = partial(ours, "rectified", threads, dense=True)
        methods[f"boundary {threads}"] = partial(ours, "boundary", threads)
    took = seconds(methods)
    rows = []
    for method, value in took.items():
        kind = "boundary" if "boundary" in method else "rectified"
        name, _, last = method.rpartition(" ")
        name, threads = (name, int(last)) if last.isdigit() else (method, 1)
        goal = GOALS.get((workload.name, name), (None, None))[threads - 1]
        words = name if method.startswith("official") else f"{name}, {threads} thread(s)"
        ratio = took[f"official {kind}"] / value
        rows.append(Row(workload.words, words, value, "s", ratio, f"≥ {goal}×" if goal else ""))
    return rows


def _peers(workload: Workload) -> list[Row]:
    """Other transforms of every class's mask, one side: what a user would call instead."""
    import edt
    import SimpleITK
    from monai.transforms.utils import distance_transform_edt as monai_edt
    from scipy.ndimage import distance_transform_edt

    masks = [image == k for image in workload.labels() for k in range(workload.num_classes)]
    spacing = workload.spacing_mm
    itk_spacing = tuple(reversed(spacing))

    def itk(mask: Any) -> None:
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(itk_spacing)
        SimpleITK.SignedMaurerDistanceMap(image, useImageSpacing=True, squaredDistance=False)

    calls: dict[str, Callable[[Any], Any]] = {
        "SciPy distance_transform_edt, each mask": partial(
            distance_transform_edt, sampling=spacing
        ),
        "edt, each mask, 1 thread": lambda mask: edt.edt(mask, anisotropy=spacing, parallel=1),
        "SimpleITK signed Maurer, each mask": itk,
        "MONAI distance_transform_edt, each mask": lambda mask: monai_edt(
            mask[None], sampling=spacing
        ),
    }
    took = seconds(
        {name: partial(_each, call, masks) for name, call in calls.items()}, repeats=3, enough=10
    )
    return [Row(workload.words, f"peer: {name}", value, "s") for name, value in took.items()]


def _each(call: Callable[[Any], Any], masks: Sequence[Any]) -> None:
    for mask in masks:
        call(mask)


def _torch_on_the_cpu(workload: Workload) -> list[Row]:
    """The torch engine against SciPy, for maps inside a training step without edt."""
    labels, spacings = workload.labels(), [workload.spacing_mm] * workload.shape[0]

    def depth(engine: str) -> None:
        distance.depth_mm(labels, spacings, engine=engine)

    took = seconds({engine: partial(depth, engine) for engine in ("scipy", "torch", "edt")})
    return [
        Row(
            workload.words,
            f"depth of all classes, {engine} engine",
            value,
            "s",
            took["scipy"] / value,
            "≥ 1×" if engine == "torch" else "",
        )
        for engine, value in took.items()
    ]


def _one_volume(seed: int) -> None:
    del seed
    distance.set_num_threads(1)
    maps.get("rectified")(Regions(B.labels(), B.num_classes, B.spacing_mm))


def _processes() -> list[Row]:
    """Many volumes: one process against two, as `precompute` works."""
    rows = []
    volumes, alone = 16, 0.0
    for jobs in (1, 2):
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            list(pool.map(_one_volume, range(2 * jobs)))  # imports and the workload itself
            took = seconds({"": lambda pool=pool: list(pool.map(_one_volume, range(volumes)))})[""]
        rate = volumes / took
        alone = alone or rate
        rows.append(
            Row(
                "16 volumes of b",
                f"rectified compact, {jobs} process(es)",
                rate,
                "/s",
                rate / alone,
            )
        )
    return rows


def _growth() -> list[Row]:
    """Cost of a voxel as images and numbers of classes grow."""
    rows = []
    sizes = [Workload(str(n), (1, n, n, n), 4, (1.0, 1.0, 1.0), 0.2) for n in (64, 128, 256, 384)]
    classes = [Workload(f"K={k}", (1, 128, 128, 128), k, (1.0, 1.0, 1.0), 0.2) for k in (2, 8, 64)]
    for workload in [*sizes, *classes]:
        labels = workload.labels()

        def make(workload: Workload = workload, labels: Any = labels) -> None:
            distance.set_num_threads(1)
            maps.get("rectified")(Regions(labels, workload.num_classes, workload.spacing_mm))
            distance.set_num_threads(None)

        took = seconds({"": make}, repeats=3)[""]
        rows.append(
            Row(
                f"growth: {workload.shape[1]}³, K={workload.num_classes}",
                "rectified compact, 1 thread(s)",
                took / labels.size * 1e9,
                "ns/voxel",
            )
        )
    return rows


def _sees_a_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def on_a_gpu(workload: Workload) -> Iterator[Row]:
    """Maps on CUDA against CuPy's transform, looped over images and classes as a user would.

    For boundary CuPy makes two transforms per class, of the mask and of its complement.
    """
    import torch

    labels = torch.from_numpy(workload.labels()).cuda()
    k, spacing = workload.num_classes, workload.spacing_mm
    what = f"{workload.words}, GPU"
    peer: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("cupy") is not None:
        import cupy
        from cupyx.scipy.ndimage import distance_transform_edt as cupy_edt

        on_gpu = cupy.asarray(workload.labels())

        def theirs(sides: int) -> None:
            for image, label in product(on_gpu, range(k)):
                for mask in (image == label, image != label)[:sides]:
                    cupy_edt(mask, sampling=spacing)

        peer = {"rectified": partial(theirs, 1), "boundary": partial(theirs, 2)}
    for name in ("rectified", "boundary"):
        made = maps.get(name)

        def ours(made: Any = made) -> None:
            made(Regions(labels, k, spacing))

        calls = {"ours": ours} | ({"CuPy": peer[name]} if name in peer else {})
        took = seconds_on_a_gpu(calls, slow={"CuPy": 3})
        if "CuPy" in took:
            yield Row(what, f"CuPy, each mask, for {name}", took["CuPy"], "s", 1.0)
        goal = GPU_GOALS[workload.name] if name == "rectified" else "≥ 5×"
        for words, value in ((name, took["ours"]), (f"{name}, kernels", kernel_seconds(ours))):
            ratio = took["CuPy"] / value if "CuPy" in took else None
            yield Row(what, words, value, "s", ratio, goal)
    read = labels.nbytes + 4 * labels.numel()
    floor = read * labels.ndim / 3e12
    yield Row(what, "floor: labels and one number per axis at 3 TB/s", floor, "s")
    # Two operations per pair of voxels on a line; the data sheet's figure for an H100 or H200.
    pairs = labels.numel() * sum(labels.shape[1:])
    yield Row(what, "floor: arithmetic of all pairs at 67 TFLOP/s", 2 * pairs / 67e12, "s")
    spacings = [spacing] * len(labels)
    engines = {
        f"depth, {name} engine": partial(distance.depth_mm, labels, spacings, engine=name)
        for name in ("torch", distance.engine_name(like=labels))
    }
    for words, value in seconds_on_a_gpu(engines).items():
        yield Row(what, words, value, "s")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    depth = Regions(labels, k, spacing).depth_mm
    peak = torch.cuda.max_memory_allocated() - before
    yield Row(what, "peak memory of the depth, in outputs", peak / depth.nbytes, "×", goal="≤ 3")
