"""RWLoss against MONAI's BoundaryLoss, forward and backward, with the maps inside and given.

As users have them: MONAI's distances on one core, ours on all unless RWLOSS_NUM_THREADS says less.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import Row, report, seconds
from benchmarks.workloads import A, B, Workload

PATCHES = Workload("patches", (2, 96, 96, 96), 3, (1.0, 1.0, 1.0), 0.1)
PEER = "MONAI BoundaryLoss"


def main() -> None:
    """Measure in 2-D and 3-D and write the results; the ratio is the speed-up over MONAI's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report("monai", [row for workload in (A, PATCHES, B) for row in _rows(workload, device)])


def _rows(workload: Workload, device: str) -> list[Row]:
    """Means of the medians of both orders, so that no method always follows the same one."""
    steps = _steps(workload, device)
    forth, back = seconds(steps, repeats=3), seconds(dict(reversed(steps.items())), repeats=3)
    took = {name: (forth[name] + back[name]) / 2 for name in steps}
    return [
        Row(workload.words, name, value, "s", took[PEER] / value) for name, value in took.items()
    ]


def _steps(workload: Workload, device: str) -> dict[str, Callable[[], object]]:
    """Each loss on the same logits and labels; equal to the peer's before anything is timed."""
    from monai.data import list_data_collate
    from monai.losses import BoundaryLoss

    from rwloss.integrations.monai import RWLoss, RWMapd

    k, seed = workload.num_classes, torch.Generator().manual_seed(0)
    labels = torch.from_numpy(workload.labels()).to(device)[:, None].float()
    logits = torch.randn(len(labels), k, *labels.shape[2:], generator=seed)
    logits = logits.to(device).requires_grad_()
    flags = {"to_onehot_y": True, "softmax": True}
    peer, boundary = BoundaryLoss(**flags), RWLoss("boundary", **flags)
    ours, theirs = boundary(logits, labels), peer(logits, labels)
    torch.testing.assert_close(ours, theirs)
    (ours,), (theirs,) = (torch.autograd.grad(value, logits) for value in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))

    def stored(text: str) -> torch.Tensor:
        make = RWMapd("label", text, k)
        return list_data_collate([make({"label": label}) for label in labels])["map"]

    values: dict[str, Callable[[], torch.Tensor]] = {
        PEER: partial(peer, logits, labels),
        "RWLoss boundary, maps inside": partial(boundary, logits, labels),
        "RWLoss boundary, maps from RWMapd": partial(boundary, logits, stored("boundary")),
    }
    for text in ("rectified", "rectified + dice"):
        loss = RWLoss(text, **flags)
        values[f"RWLoss {text}, maps inside"] = partial(loss, logits, labels)
        values[f"RWLoss {text}, maps from RWMapd"] = partial(loss, logits, stored("rectified"))
    return {name: partial(_step, logits, value) for name, value in values.items()}


def _step(logits: torch.Tensor, value: Callable[[], torch.Tensor]) -> None:
    torch.autograd.grad(value(), logits)
