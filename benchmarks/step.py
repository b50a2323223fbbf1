"""One training step of a U-Net: what the maps made on the fly and the loss take of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import Row, report, seconds
from benchmarks.workloads import A, Workload
from rwloss import Regions, maps
from rwloss.losses import RegionWiseLoss
from rwloss.training.unet import unet

SMALL = Workload("hippocampus slices", (8, 40, 64), 3, (1.0, 1.0), 0.1)
LARGE_3D = Workload("3-D", (2, 128, 128, 128), 4, (1.0, 1.0, 1.0), 0.2)


def main() -> None:
    """Measure on the CPU at a small and a large 2-D size; on a GPU in 3-D too."""
    gpu = torch.cuda.is_available()
    workloads = [A, LARGE_3D] if gpu else [SMALL, A]
    rows = [row for workload in workloads for row in _step(workload, "cuda" if gpu else "cpu")]
    report("step", rows)


def _step(workload: Workload, device: str) -> list[Row]:
    labels = torch.from_numpy(workload.labels()).to(device)
    batch, *size = labels.shape
    k = workload.num_classes
    network = unet(len(size), 1, k, seed=0).to(device)
    images = torch.randn(batch, 1, *size, device=device)
    loss = RegionWiseLoss("rectified", spacing_mm=workload.spacing_mm)
    made = maps.get("rectified")(Regions(labels, k, workload.spacing_mm))
    long_labels = labels.long()
    logits = network(images).detach().requires_grad_()

    def training(cost: Callable[[torch.Tensor], torch.Tensor]) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            output = network(images)
        cost(output).backward()  # type: ignore[no-untyped-call]
        network.zero_grad()

    def loss_alone(cost: Callable[..., torch.Tensor], *more: Any) -> None:
        cost(logits, long_labels, *more).backward()  # type: ignore[no-untyped-call]

    whole = {
        "step with cross-entropy": partial(
            training, lambda output: functional.cross_entropy(output.float(), long_labels)
        ),
        "step with rectified, map made on the fly": partial(
            training, lambda output: loss(output, labels)
        ),
        "step with rectified, stored map": partial(
            training, lambda output: loss(output, labels, made)
        ),
        "the map alone": lambda: maps.get("rectified")(Regions(labels, k, workload.spacing_mm)),
        "the loss alone, forward and backward": partial(loss_alone, loss, made),
        "cross-entropy alone": partial(loss_alone, functional.cross_entropy),
    }
    took = seconds(whole, repeats=7)
    reference = took["step with cross-entropy"]
    return [
        Row(f"{workload.words}, U-Net", name, value, "s", value / reference)
        for name, value in took.items()
    ]
