"""Losses: forward and backward, as a multiple of eager cross-entropy; memory too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import Row, peak_mib, report, seconds
from rwloss import RWMap
from rwloss.losses import RegionWiseLoss

SHAPE = (16, 256, 256)  # (b *s), workload a
GOALS = {
    ("compact", 4): "≤ 0.75",
    ("compact", 16): "≤ 0.75",
    ("dense", 4): "≤ 1.3",
    ("dense", 16): "≤ 0.9",
    ("compact, compiled", 4): "≤ 1.15 of compiled cross-entropy",
    ("compact, compiled", 16): "≤ 1.15 of compiled cross-entropy",
}


def main() -> None:
    """Measure at K = 4 and 16 and write the results."""
    rows: list[Row] = []
    for k in (4, 16):
        rows += _times(k)
        rows += _memory(k)
    report("loss", rows)


@dataclass(frozen=True)
class Call:
    """A loss on inputs that are ready."""

    given: Inputs
    value: Callable[[], torch.Tensor]

    def step(self) -> None:
        """Forward and backward; the gradient is thrown away, not added up."""
        torch.autograd.grad(self.value(), self.given.logits)


class Inputs:
    """Logits, labels and maps of one shape, from a seed."""

    def __init__(self, k: int, device: str) -> None:
        seed = torch.Generator().manual_seed(k)
        batch, *size = SHAPE
        logits = torch.randn(batch, k, *size, generator=seed)
        self.logits = logits.to(device).requires_grad_()
        self.labels = torch.randint(0, k, SHAPE, generator=seed).to(device)
        true = -torch.rand(SHAPE, generator=seed).to(device)
        self.compact = RWMap.compact(self.labels, k, true=true, other=torch.ones_like(true))
        values = torch.randn(batch, k, *size, generator=seed).to(device)
        self.dense = RWMap.from_dense(self.labels, values)
        self.one_hot = functional.one_hot(self.labels, k).movedim(-1, 1).float()


def calls(k: int, device: str) -> dict[str, Call]:
    """Each loss on the same inputs, ready to be called."""
    from monai.losses import DiceCELoss, GeneralizedDiceLoss

    given = Inputs(k, device)
    logits, labels = given.logits, given.labels

    def ours(text: str, rwmap: RWMap | None, **settings: Any) -> Callable[[], torch.Tensor]:
        loss = RegionWiseLoss(text, **settings)
        return lambda: loss(logits, labels, rwmap)

    def cross_entropy() -> torch.Tensor:
        return functional.cross_entropy(logits, labels)

    def official() -> torch.Tensor:
        return torch.mean(functional.softmax(logits, dim=1) * given.dense.values)

    def compiled(call: Callable[..., torch.Tensor], *arguments: Any) -> Callable[[], torch.Tensor]:
        graph = torch.compile(call, fullgraph=True)
        return lambda: graph(*arguments)

    values = {
        "cross-entropy (torch, eager)": cross_entropy,
        "official: mean of softmax times map": official,
        "compact": ours("rectified", given.compact),
        "compact, low_memory": ours("rectified", given.compact, low_memory=True),
        "compact with link q = 0.5": ours("rectified.with_link(0.5)", given.compact),
        "dense": ours("boundary", given.dense),
        "compact + dice": ours("rectified + dice", given.compact),
        "MONAI DiceCELoss": partial(
            DiceCELoss(softmax=True, to_onehot_y=True), logits, labels[:, None]
        ),
        "MONAI GeneralizedDiceLoss": partial(
            GeneralizedDiceLoss(softmax=True, to_onehot_y=True), logits, labels[:, None]
        ),
        "cross-entropy, compiled": compiled(functional.cross_entropy, logits, labels),
        "compact, compiled": compiled(RegionWiseLoss("rectified"), logits, labels, given.compact),
    }
    return {name: Call(given, value) for name, value in values.items()}


def _times(k: int) -> list[Row]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = calls(k, device)
    took = seconds({name: call.step for name, call in found.items()}, repeats=15)
    took |= seconds(
        {
            f"MONAI {name}, maps inside": call.step
            for name, call in _monai_with_maps(k, device).items()
        },
        repeats=2,
    )
    eager = took["cross-entropy (torch, eager)"]
    return [
        Row(_words(k), name, value, "s", value / eager, GOALS.get((name, k), ""))
        for name, value in took.items()
    ]


def _monai_with_maps(k: int, device: str) -> dict[str, Call]:
    """MONAI's losses that compute a distance transform at every call."""
    from monai.losses import BoundaryLoss, HausdorffDTLoss

    given = Inputs(k, device)
    return {
        loss.__name__: Call(
            given,
            partial(
                loss(softmax=True, to_onehot_y=True, include_background=True),
                given.logits,
                given.labels[:, None],
            ),
        )
        for loss in (BoundaryLoss, HausdorffDTLoss)
    }


def _memory(k: int) -> list[Row]:
    if torch.cuda.is_available():
        return []  # resident memory of the host says nothing there
    names = [name for name in calls(k, "cpu") if "compiled" not in name]
    found = {name: peak_mib(_one_step, k, name) for name in names}
    eager = found["cross-entropy (torch, eager)"]
    return [
        Row(_words(k), f"peak memory: {name}", value, "MiB", value / eager)
        for name, value in found.items()
    ]


def _one_step(k: int, name: str) -> Callable[[], None]:
    return calls(k, "cpu")[name].step


def _words(k: int) -> str:
    batch, *size = SHAPE
    return f"logits {batch} x {k} x {' x '.join(map(str, size))}"
