"""Losses: time and memory as a multiple of eager cross-entropy, calls, and the first use."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

import rwloss
from benchmarks.calls import calls_between_files
from benchmarks.measure import Row, peak_mib, report, seconds, seconds_on_a_gpu
from rwloss import Regions, RWMap, maps
from rwloss.losses import RegionWiseLoss

SHAPE = (16, 256, 256)  # (b *s), workload a
_CALLS = 20  # of a small loss in one measurement
GOALS = {
    ("compact", 4): "≤ 0.75",
    ("compact", 16): "≤ 0.75",
    ("dense", 4): "≤ 1.3",
    ("dense", 16): "≤ 0.9",
    ("compact, compiled", 4): "≤ 1.15 of compiled cross-entropy",
    ("compact, compiled", 16): "≤ 1.15 of compiled cross-entropy",
}


GPU_GOALS = {"rectified, stored": "≤ 1.0×", "rectified + dice, stored": "≤ 1.5×"}


def main() -> None:
    """Measure at K = 4 and 16 and write the results."""
    rows: list[Row] = []
    for k in (4, 16):
        rows += _times(k)
        rows += _memory(k)
    if torch.cuda.is_available():
        rows += on_a_gpu()
    report("loss", [*rows, *of_instances(), *_call_paths(), *_overhead(), *_first_use()])


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


def on_a_gpu() -> Iterator[Row]:
    """In 3-D under bfloat16 autocast, forward and backward; the ratio is to cross-entropy."""
    for k in (16, 4):
        yield from _on_a_gpu(k)


def _on_a_gpu(k: int) -> Iterator[Row]:
    from monai.losses import DiceCELoss

    shape, seed = (2, 128, 128, 128), torch.Generator().manual_seed(k)
    labels = torch.randint(0, k, shape, generator=seed, dtype=torch.uint8).cuda()
    logits = torch.randn(2, k, *shape[1:], generator=seed).cuda().bfloat16().requires_grad_()
    stored = {name: maps.get(name)(Regions(labels, k)) for name in ("rectified", "boundary")}
    long, what = labels.long(), f"logits 2 x {k} x 128³, bf16 autocast, GPU"

    def ours(text: str, name: str = "", **settings: Any) -> Callable[[], torch.Tensor]:
        return partial(RegionWiseLoss(text, **settings), logits, labels, stored.get(name))

    def step(value: Callable[[], torch.Tensor]) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = value()
        torch.autograd.grad(loss, logits)

    peer = DiceCELoss(softmax=True, to_onehot_y=True)
    values: dict[str, Callable[[], torch.Tensor]] = {
        "cross-entropy (torch)": partial(functional.cross_entropy, logits, long),
        "rectified, stored": ours("rectified", "rectified"),
        "rectified, made on the fly": ours("rectified"),
        "rectified, stored, without the kernel": ours("rectified", "rectified", low_memory=True),
        "boundary, stored": ours("boundary", "boundary"),
        "rectified + dice, stored": ours("rectified + dice", "rectified"),
        "MONAI DiceCELoss": partial(peer, logits, long[:, None]),
    }
    took = seconds_on_a_gpu({name: partial(step, value) for name, value in values.items()})
    for name, value in took.items():
        ratio = value / took["cross-entropy (torch)"]
        yield Row(what, name, value, "s", ratio, GPU_GOALS.get(name, ""))
    for name, call in values.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(call)
        peak = torch.cuda.max_memory_allocated() - before
        yield Row(what, f"peak memory: {name}", peak / 2**20, "MiB")


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


def of_instances(number: int = 500) -> list[Row]:
    """Losses of each connected component beside Dice, whose time is the unit; two classes.

    prepared: the target is `RegionWiseLoss.prepare(...).regions`, whose components are known.
    """
    batch, *size = SHAPE
    grid = math.ceil(math.sqrt(number / batch))
    labels = torch.zeros(SHAPE, dtype=torch.long)
    cells = itertools.islice(itertools.product(range(batch), *[range(grid)] * 2), number)
    for place, (image, *cell) in enumerate(cells):
        side = 2 + place % (min(size) // grid - 3)  # apart from the next
        starts = (c * (length // grid) for c, length in zip(cell, size, strict=True))
        labels[(image, *(slice(start, start + side) for start in starts))] = 1
    logits = torch.randn(batch, 2, *size, requires_grad=True)
    losses = {text: RegionWiseLoss(text) for text in ("dice", "blob", "cc_dice_ce")}
    regions = RegionWiseLoss("blob + cc_dice_ce").prepare(labels, num_classes=2).regions
    assert regions.components.amax(dim=(1, 2)).sum() == number + batch  # and the backgrounds
    values: dict[str, Callable[[], torch.Tensor]] = {
        **{text: partial(loss, logits, regions) for text, loss in losses.items()},
        "dice + cross_entropy": partial(RegionWiseLoss("dice + cross_entropy"), logits, labels),
        **{
            f"{text}, components not prepared": partial(losses[text], logits, labels)
            for text in ("blob", "cc_dice_ce")
        },
    }
    took = seconds(
        {name: partial(_step, value, logits) for name, value in values.items()}, repeats=15
    )
    words, goals = f"{_words(2)}, {number} components", {"blob": "≤ 1.3", "cc_dice_ce": "≤ 1.3"}
    return [
        Row(words, name, value, "s", value / took["dice"], goals.get(name, ""))
        for name, value in took.items()
    ]


def _step(value: Callable[[], torch.Tensor], logits: torch.Tensor) -> None:
    torch.autograd.grad(value(), logits)


def _call_paths() -> list[Row]:
    """How far one call walks through the files of its package."""
    import monai
    from monai.losses import DiceCELoss

    logits, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long)
    loss, peer = RegionWiseLoss("rectified + dice"), DiceCELoss(softmax=True, to_onehot_y=True)
    paths = {
        ("construction of rectified + dice", "≤ 20"): calls_between_files(
            lambda: RegionWiseLoss("rectified + dice"), rwloss
        ),
        ("forward of rectified + dice, map made inside", "≤ 50 in 12 files"): calls_between_files(
            lambda: loss(logits, labels), rwloss
        ),
        ("forward of MONAI DiceCELoss", ""): calls_between_files(
            lambda: peer(logits, labels[:, None]), monai
        ),
    }
    return [
        Row("calls between files", f"{what}: {path.files} files", path.moves, "calls", goal=goal)
        for (what, goal), path in paths.items()
    ]


def _overhead() -> list[Row]:
    """dice + cross_entropy on small images against MONAI's, in turns; the ratio is ours to its."""
    from monai.losses import DiceCELoss

    rows = []
    for size in (8, 64):
        logits = torch.randn(2, 4, size, size, requires_grad=True)
        labels = torch.randint(0, 4, (2, size, size))
        ours = partial(RegionWiseLoss("dice + cross_entropy"), logits, labels)
        peer = partial(DiceCELoss(softmax=True, to_onehot_y=True), logits, labels[:, None])

        def many(value: Callable[[], torch.Tensor]) -> None:
            for _ in range(_CALLS):
                value()

        def steps(value: Callable[[], torch.Tensor], of: torch.Tensor = logits) -> None:
            for _ in range(_CALLS):
                torch.autograd.grad(value(), of)

        for what, run in {"forward": many, "forward and backward": steps}.items():
            took = seconds({"ours": partial(run, ours), "peer": partial(run, peer)}, repeats=31)
            rows.append(
                Row(
                    f"logits 2 x 4 x {size} x {size}",
                    f"dice + cross_entropy over MONAI DiceCELoss, {what}",
                    took["ours"] / _CALLS,
                    "s",
                    took["ours"] / took["peer"],
                    "≤ 1.25",
                )
            )
    return rows


def _first_use() -> list[Row]:
    """The first loss of a process: fresh interpreters, in turns; the ratio is to torch alone."""
    code = {
        "import torch": "import torch",
        "import rwloss and make a RegionWiseLoss": (
            "import rwloss; rwloss.RegionWiseLoss('rectified + dice')"
        ),
    }
    took = seconds(
        {what: partial(subprocess.run, [sys.executable, "-c", c]) for what, c in code.items()}
    )
    alone = took["import torch"]
    return [
        Row("a fresh process", what, value, "s", value / alone, "" if value == alone else "≤ 1.25")
        for what, value in took.items()
    ]
