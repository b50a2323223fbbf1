"""One training step of a U-Net: what the maps made on the fly and the loss take of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import Row, report, seconds, synchronize
from benchmarks.workloads import A, Workload
from rwloss import Regions, maps
from rwloss.data import sample_dir
from rwloss.losses import RegionWiseLoss
from rwloss.regions import IGNORED
from rwloss.stability.alarm import Alarms
from rwloss.stability.loss_call import LossCall
from rwloss.training import unet
from rwloss.training.figures import step_figures
from rwloss.training.patches import PatchSampler, patch_sources
from rwloss.training.preparation import prepare
from rwloss.training.settings import RunSettings

SMALL = Workload("hippocampus slices", (8, 40, 64), 3, (1.0, 1.0), 0.1)
LARGE_3D = Workload("3-D", (2, 128, 128, 128), 4, (1.0, 1.0, 1.0), 0.2)


def main() -> None:
    """Measure on the CPU at a small and a large 2-D size; on a GPU in 3-D too."""
    if torch.cuda.is_available():
        report("step", list(on_a_gpu()))
    else:
        rows = [row for workload in (SMALL, A) for row in _step(workload, "cpu")]
        report("step", [*rows, *_trainer("cpu")])


def on_a_gpu() -> Iterator[Row]:
    """Steps in 3-D and 2-D under bfloat16 autocast, then the trainer's."""
    for workload in (LARGE_3D, A):
        for row in _step(workload, "cuda"):
            yield replace(row, goal="≤ 0.03×") if row.method == "the map alone" else row
    yield from _trainer("cuda")


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

    def prepared() -> None:
        """The map on a stream of its own, during the forward pass."""
        ahead = loss.prepare(labels, k)
        training(lambda output: loss(output, labels, ahead.wait()))

    whole = {
        "step with cross-entropy": partial(
            training, lambda output: functional.cross_entropy(output.float(), long_labels)
        ),
        "step with rectified, map made on the fly": partial(
            training, lambda output: loss(output, labels)
        ),
        "step with rectified, map prepared during the forward pass": prepared,
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


def _trainer(device: str) -> list[Row]:
    """The trainer's own step on real slices, part by part, and MONAI's trainer beside it."""
    make = _batches(device)
    what = f"trainer: {make.batch_size} hippocampus slices, K=3, U-Net"
    own = "rectified + dice"
    parts = _parts(("cross_entropy", own), make, device)
    # The reference is not recorded; ours is, one step in fifty as by default.
    records = {text: found.pop("record") for text, found in parts.items()}
    alarms = {text: found.pop("alarms") for text, found in parts.items()}
    map_alone = parts[own].pop("map")
    parts["cross_entropy"].pop("map")
    reference = sum(parts["cross_entropy"].values())
    parts[own]["record, one step in 50"] = records[own] / 50
    rows = [
        Row(what, f"{text}: {name}", value, "s", value / reference)
        for text, found in parts.items()
        for name, value in [*found.items(), ("whole step", sum(found.values()))]
    ]
    rows[-1] = replace(rows[-1], goal="≤ 1.10×")
    part = alarms[own] / 25 / sum(parts[own].values())
    rows.append(
        Row(what, f"alarms, one step in 25 ({own})", alarms[own] / 25, "s", part, "≤ 0.01×")
    )
    rows.append(Row(what, "the map alone, part of the loss", map_alone, "s", map_alone / reference))
    return [*rows, *_beside_monai(make, device, what)]


def _batches(device: str) -> PatchSampler:
    """The sample's slices, as the trainer makes batches of them."""
    prepared = prepare(RunSettings(data=str(sample_dir("hippocampus")), map="rectified", out="-"))
    settings = prepared.settings
    sources = patch_sources(prepared.train, dims=2, slice_axis=settings.slice_axis, device=device)
    assert settings.patch_size is not None
    return PatchSampler(sources, 3, settings.patch_size, settings.batch_size, device=device)


def _parts(texts: Sequence[str], make: PatchSampler, device: str) -> dict[str, dict[str, float]]:
    """Median seconds of each part of a step with each loss, in turns."""
    times: dict[str, dict[str, list[float]]] = {text: {} for text in texts}
    networks = {text: unet(2, 1, 3, seed=0).to(device) for text in texts}
    optimizers = {
        text: torch.optim.Adam(network.parameters(), lr=4e-3) for text, network in networks.items()
    }
    losses = {text: RegionWiseLoss(text, ignore_index=IGNORED) for text in texts}
    alarms = {text: Alarms(steps=1500) for text in texts}

    def timed(text: str, name: str, call: Callable[[], Any]) -> Any:
        synchronize()
        began = time.perf_counter()
        result = call()
        synchronize()
        times[text].setdefault(name, []).append(time.perf_counter() - began)
        return result

    for step in range(1, 41):
        for text in texts:
            batch = timed(text, "data", partial(make, step))
            optimizers[text].zero_grad()
            logits = timed(text, "forward", partial(networks[text], batch.images))
            logits.retain_grad()
            regions = Regions(batch.labels, 3, batch.spacings_mm, IGNORED)
            timed(text, "map", partial(maps.get("rectified"), regions))
            cost = partial(losses[text], spacing_mm=batch.spacings_mm)
            value = timed(text, "map and loss", partial(cost, logits, batch.labels))
            timed(text, "backward", value.backward)
            record = partial(step_figures, losses[text], networks[text], logits, batch)
            timed(text, "record", record)
            timed(text, "optimizer", optimizers[text].step)
            call = LossCall(losses[text], logits.detach(), batch.labels)
            timed(text, "alarms", partial(alarms[text].look, step, call))
    return {
        text: {name: statistics.median(seen[3:]) for name, seen in found.items()}
        for text, found in times.items()
    }


def _beside_monai(make: PatchSampler, device: str, what: str) -> list[Row]:
    """MONAI's SupervisedTrainer with its BoundaryLoss, and that loss against ours.

    Nothing where ignite, which MONAI's trainer needs, is not installed.
    """
    import warnings

    if find_spec("ignite") is None:
        return []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignite still decorates with what torch deprecates
        from monai.engines import SupervisedTrainer
        from monai.losses import BoundaryLoss

    batches, network = [make(step) for step in range(1, 41)], unet(2, 1, 3, seed=0).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    peer = BoundaryLoss(to_onehot_y=True, softmax=True)
    ours = RegionWiseLoss("boundary")
    samples = [{"image": b.images, "label": b.labels[:, None].clamp_min(0)} for b in batches]

    def with_monai() -> None:
        SupervisedTrainer(
            device=torch.device(device),
            max_epochs=1,
            train_data_loader=samples,
            network=network,
            optimizer=optimizer,
            loss_function=peer,
        ).run()

    def with_ours() -> None:
        for sample in samples:
            optimizer.zero_grad()
            ours(network(sample["image"]), sample["label"]).backward()
            optimizer.step()

    logits = [network(b.images).detach().requires_grad_() for b in batches[:8]]

    def alone(loss: Callable[..., torch.Tensor]) -> None:
        for head, sample in zip(logits, samples, strict=False):
            loss(head, sample["label"]).backward()  # type: ignore[no-untyped-call]

    took = seconds({"theirs": with_monai, "ours": with_ours}, repeats=3)
    parts = seconds({"theirs": partial(alone, peer), "ours": partial(alone, ours)}, repeats=7)
    steps, few = len(samples), len(logits)
    return [
        Row(what, "MONAI SupervisedTrainer with BoundaryLoss: step", took["theirs"] / steps, "s"),
        Row(
            what,
            "our step with boundary (speed-up)",
            took["ours"] / steps,
            "s",
            took["theirs"] / took["ours"],
        ),
        Row(what, "MONAI BoundaryLoss: map and loss, backward", parts["theirs"] / few, "s"),
        Row(
            what,
            "boundary: map and loss, backward (speed-up)",
            parts["ours"] / few,
            "s",
            parts["theirs"] / parts["ours"],
            "≥ 5×",
        ),
    ]
