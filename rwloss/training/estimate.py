"""Estimate memory and time per step of runs that train together."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rwloss.training.network import build_network, num_parameters
from rwloss.training.preparation import PreparedRun
from rwloss.training.run import Start, deterministic
from rwloss.training.settings import RunSettings
from rwloss.training.stacked import Member, train_stack
from rwloss.training.together import Together

_STATES = 5  # weights, gradient, two moments, and what the gradient is joined from
_OF_LOSS = 10  # arrays as large as the logits: probabilities, maps, their gradients


def bytes_per_run(prepared: PreparedRun) -> int:
    """Approximate memory of a run in a stack: states of the weights, and one step.

    Activations kept for the gradient are counted on tensors without memory, in float32.
    """
    settings, task = prepared.settings, prepared.task
    assert settings.patch_size is not None
    kept: dict[int, Any] = {}  # by storage, and held so that none takes the place of another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        network = build_network(settings, task)
        images = torch.empty(settings.batch_size, task.in_channels, *settings.patch_size)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    for weight in network.parameters():
        kept.pop(weight.untyped_storage()._cdata, None)
    voxels = settings.batch_size * math.prod(settings.patch_size)
    of_loss = 4 * _OF_LOSS * voxels * task.num_classes
    return sum(map(len, kept.values())) + 4 * _STATES * num_parameters(network) + of_loss


def seconds_per_step(runs: Sequence[RunSettings]) -> float:
    """Median time of a step of these runs together, from a few unrecorded steps.

    Writes only an empty folder, and removes it. Raises the error of a run that cannot be trained.
    """
    with TemporaryDirectory() as folder:
        places = (str(Path(folder, str(number))) for number in range(len(runs)))
        together = Together(
            [
                run.model_copy(update={"steps": 5, "out": out})
                for run, out in zip(runs, places, strict=True)
            ]
        )
        ends: list[float] = []

        def member(index: int, start: Start) -> Member:
            start.make_optimizer()
            made = together.member(index, start)
            made.record = lambda step, figures: None
            made.after_step = lambda step, loss: ends.append(_now(together.fabric.device))
            return made

        with deterministic(together.fabric.device):
            members = together.each(together.each(together.runs, together.start), member)
            train_stack(together.fabric, list(members.values()))
    if error := next(filter(None, together.failures), None):
        raise error
    last_of_each_step = ends[len(runs) - 1 :: len(runs)]
    return statistics.median(b - a for a, b in pairwise(last_of_each_step[:-1]))


def _now(device: torch.device) -> float:
    """The time when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
