"""A study as the command carries it out: training runs per hour, stacked and one by one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.measure import Row, kernel_seconds, report, seconds
from rwloss.data import sample_dir
from rwloss.training import unet
from rwloss.training.stacked_convolutions import StackedConvolutions

MAPS = ("rectified", "boundary", "dice + cross_entropy", "rectified + dice")
MORE_MAPS = ("rectified.with_link(0.3)", "class_weighted")


def main() -> None:
    """Measure a few short runs on the CPU: there, stacks are for tests and save no time."""
    found = [*rows(steps=20, ways=[(2, "1", 1), (2, "4", 1)], device="cpu", num_maps=2)]
    report("study", [*found, *convolutions("cpu", 4)])


def rows(
    *, steps: int, ways: Sequence[tuple[int, str, int]], device: str, num_maps: int = len(MAPS)
) -> Iterator[Row]:
    """Runs per hour of the tiny 2-D U-Net with batches of 8 slices of 48x64.

    ways: seeds per map, --together and --jobs; each is compared with the first. The time is that
    of the whole command: start, indicators, training, validation, test and report.
    """
    first = 0.0
    what = f"tiny 2-D U-Net, {steps} steps, batch 8 of 48x64, whole command on the {device.upper()}"
    for seeds, together, jobs in ways:
        options = ["--together", together, "--jobs", str(jobs), "--accelerator", device]
        runs, seconds = seeds * num_maps, _seconds(steps, seeds, num_maps, options)
        speed = 3600 * runs / seconds
        first = first or speed
        goal = "≥ 6,000 runs/h, ≥ 10×" if device == "gpu" and together == "auto" else ""
        method = f"{runs} runs, --together {together} --jobs {jobs}"
        yield Row(what, method, speed, "runs/h", speed / first, goal)


def in_3d(*, steps: int, device: str) -> Iterator[Row]:
    """The time of one step of all runs of a stack in 3-D, and what a study of 500 steps takes."""
    options = ["--dims", "3", "--preset", "small", "--patch-size", "64,64,64", "--batch-size", "2"]
    options += ["--precision", "bf16-mixed", "--together", "48", "--jobs", "1"]
    options += ["--accelerator", device, "--validate-every", str(steps), "--steps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        took = _compare(folder, [*MAPS, *MORE_MAPS], 8, options)
        done = [json.loads(path.read_bytes()) for path in Path(folder).rglob("test.json")]
    what = f"{len(done)} runs of the small 3-D U-Net, batch 2 of 64³, bf16, {device.upper()}"
    step = sum(each["seconds"] for each in done) / steps
    yield Row(what, "one step of all runs", 1e3 * step, "ms")
    minutes = (took + (500 - steps) * step) / 60
    goal = "≤ 30 min" if device == "gpu" else ""
    yield Row(what, f"500 steps, estimated from {steps}", minutes, "min", goal=goal)


def convolutions(device: str, members: int) -> Iterator[Row]:
    """Forward and backward of stacked tiny U-Nets: grouped convolutions and matrix products.

    On a GPU the time of the kernels alone, because training starts them as one CUDA graph.
    """
    networks = [unet(2, 1, 3, seed=seed).to(device) for seed in range(members)]
    weights, _ = stack_module_state(networks)
    images = torch.randn(members, 8, 1, 48, 64, device=device)

    def step(convolutions: Callable[[], AbstractContextManager[Any]]) -> None:
        own = {name: each.detach().requires_grad_() for name, each in weights.items()}
        with convolutions():
            logits = vmap(lambda one, batch: functional_call(networks[0], one, (batch,)))(
                own, images
            )
        torch.autograd.grad(logits.square().sum(), list(own.values()))

    ways = {"grouped convolutions": nullcontext, "matrix products": StackedConvolutions}
    steps = {name: partial(step, way) for name, way in ways.items()}
    on_a_gpu = device == "cuda"
    took = (
        {name: kernel_seconds(call) for name, call in steps.items()} if on_a_gpu else seconds(steps)
    )
    slow = next(iter(took.values()))
    what = f"{members} tiny 2-D U-Nets as one, forward + backward, batch 8 of 48x64, {device}"
    for name, value in took.items():
        yield Row(what, name, 1e3 * value, "ms", slow / value)


def _seconds(steps: int, seeds: int, num_maps: int, options: Sequence[str]) -> float:
    """The time of one `rwloss compare` in 2-D."""
    shape = ["--batch-size", "8", "--patch-size", "48,64", "--steps", str(steps)]
    with tempfile.TemporaryDirectory() as folder:
        return _compare(folder, MAPS[:num_maps], seeds, [*shape, *options])


def _compare(folder: str, texts: Sequence[str], seeds: int, options: Sequence[str]) -> float:
    """The time of `rwloss compare` with the sample, in a folder."""
    command = [sys.executable, "-c", "from rwloss.cli import main; main()", "compare"]
    command += [str(sample_dir("hippocampus")), "--seeds", str(seeds), "--json", *options]
    command += [part for text in texts for part in ("--map", text)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", f"{folder}/study"], capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"rwloss compare: {done.stderr[-500:]}")
    return took
