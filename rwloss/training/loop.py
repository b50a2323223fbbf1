"""The training loop, and the record of what the loss does to the network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.losses import RegionWiseLoss
from rwloss.stability import Monitor
from rwloss.stability.signs import class_signs
from rwloss.training.patches import TrainingBatch
from rwloss.training.settings import RunSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_OF_MAP = ("stable", "violating", "pushed_up", "pushed_down", "wrong_way_mass")


class Diverged(RWLossError):
    """The loss or a weight is not finite. step: the failed step, counted from 1."""

    def __init__(self, step: int, message: str) -> None:
        """Which step failed, and how."""
        super().__init__(message)
        self.step = step


@dataclass
class TrainingState:
    """How far a run has come. With the weights and the optimizer, enough to resume it.

    step: steps done. losses: those since the last record. best_step and best_score: of the best
    checkpoint so far. seconds: training time, summed over all starts.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    best_step: int = 0
    best_score: float = -1.0
    seconds: float = 0.0


def train_steps(
    fabric: Fabric,
    network: nn.Module,
    loss: RegionWiseLoss,
    batches: Callable[[int], TrainingBatch],
    optimizer: torch.optim.Optimizer,
    settings: RunSettings,
    state: TrainingState,
    *,
    record: Callable[[int, dict[str, Any]], None],
    after_step: Callable[[int, float], None],
) -> None:
    """Train from state.step to settings.steps. Weights, optimizer and state change in place.

    Step n depends only on n and on the weights and the optimizer before it. record: called with
    the figures of every settings.record_every-th step, the first and the last. after_step: called
    after each step with its number and its loss, for validation and checkpoints.

    Raises Diverged at the first loss that is not finite, before the weights are updated with it.
    """
    compiled: Any = torch.compile(network) if settings.compile else network
    model, optimizer = fabric.setup(compiled, optimizer)
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
        figures = step_figures(loss, network, logits, batch) if is_recorded else {}
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
    """The learning rate of a step, counted from 1: constant, or falling towards 0."""
    done = (step - 1) / settings.steps
    cosine = (1 + math.cos(math.pi * done)) / 2
    factors: dict[str, float] = {"constant": 1.0, "poly": (1 - done) ** 0.9, "cosine": cosine}
    return settings.learning_rate * factors[settings.learning_rate_schedule]


def step_figures(
    loss: RegionWiseLoss, network: nn.Module, logits: Tensor, batch: TrainingBatch
) -> dict[str, Any]:
    """The record of one step, after backward and before the optimizer. logits (b k *s) with grad.

    excess: how far the loss is above its minimum for these maps. gradient_norm: L2 norm of the
    gradient of all weights, before clipping. One value per class: see
    `rwloss.stability.signs.class_signs`. stable, violating, pushed_up, pushed_down, wrong_way_mass
    and pull: see `rwloss.stability.StabilityReport`, at these probabilities.

    With several processes, the first records its own part of the batch.
    """
    head = logits.detach().float()
    monitor = Monitor(every=1, by_distance=False)
    monitor(loss, head, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm)
    [stability] = monitor.history
    excess = loss.excess(head, batch.labels, batch.rwmap, spacing_mm=batch.spacings_mm)
    gradient = torch.zeros_like(head) if logits.grad is None else logits.grad
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    return {
        "excess": float(excess),
        "gradient_norm": float(nn.utils.get_total_norm(gradients)),
        **class_signs(head.softmax(dim=1), batch.labels, gradient),
        **{name: stability[name] for name in _OF_MAP},
        "pull": [each["pull"] for each in stability["by_class"].values()],
    }
