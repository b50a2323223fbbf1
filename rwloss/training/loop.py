"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rwloss.losses import RegionWiseLoss
from rwloss.training.batches import Batch
from rwloss.training.divergence import Diverged
from rwloss.training.record import Recorder
from rwloss.training.settings import RunSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class State:
    """How far a training is. With weights and optimizer, all that a start needs to go on.

    step: steps done. losses: since the last record. best_step and best_score: of the checkpoint
    chosen so far. seconds: of training, over all starts.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    best_step: int = 0
    best_score: float = -1.0
    seconds: float = 0.0


def train(
    fabric: Fabric,
    network: nn.Module,
    loss: RegionWiseLoss,
    batches: Callable[[int], Batch],
    optimizer: torch.optim.Optimizer,
    settings: RunSettings,
    state: State,
    *,
    record: Callable[[int, dict[str, Any]], None],
    after_step: Callable[[int, float], None],
) -> None:
    """Train from state.step to settings.steps. Weights, optimizer and state change in place.

    Step n is a function of the weights and the optimizer before it, and of n: nothing else is
    carried over. record: given a row of figures every settings.record_every steps, at the first and
    at the last. after_step: called after each step with its number and its loss, for validation and
    checkpoints.

    Raises Diverged at the first loss that is not finite, before it spoils the weights.
    """
    whole: Any = torch.compile(network) if settings.compile else network
    model, optimizer = fabric.setup(whole, optimizer)
    recorder = Recorder(loss)
    while state.step < settings.steps:
        step, started = state.step + 1, time.monotonic()
        is_recorded = step % settings.record_every == 0 or step in {1, settings.steps}
        batch = batches(step)
        loss.set_epoch((step - 1) // settings.steps_per_epoch, settings.num_epochs)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        model.train()
        optimizer.zero_grad()
        logits = model(batch.images)
        if is_recorded:
            logits.retain_grad()
        value = loss(logits, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm)
        mean_value = float(cast("Tensor", fabric.all_reduce(value.detach())))
        if not math.isfinite(mean_value):
            raise Diverged(
                step,
                f"the loss is {mean_value} at step {step}: training has diverged or its input is "
                f"not finite; try a learning rate below {settings.learning_rate:g} in another "
                "folder",
            )
        fabric.backward(value)
        figures = recorder.figures(network, logits, batch) if is_recorded else {}
        if settings.gradient_clip is not None:
            fabric.clip_gradients(model, optimizer, max_norm=settings.gradient_clip)
        optimizer.step()
        state.step = step
        state.losses.append(mean_value)
        state.seconds += time.monotonic() - started
        if is_recorded:
            record(step, {"losses": state.losses, **figures})
            state.losses = []
        after_step(step, mean_value)


def learning_rate(settings: RunSettings, step: int) -> float:
    """The learning rate of a step, from 1: constant, or falling to nearly 0 at the last."""
    done = (step - 1) / settings.steps
    match settings.learning_rate_schedule:
        case "constant":
            factor = 1.0
        case "poly":
            factor = (1 - done) ** 0.9
        case "cosine":
            factor = (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * factor
