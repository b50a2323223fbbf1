"""The training loop, and its records of loss and gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import FiniteFloat
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.losses import RegionWiseLoss
from rwloss.training.architectures import outputs_of
from rwloss.training.figures import step_figures
from rwloss.training.patches import TrainingBatch
from rwloss.training.settings import RunSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Diverged(RWLossError):
    """The loss or a weight is not finite. step: the failed step, counted from 1.

    message: what is not finite.
    """

    def __init__(self, step: int, message: str) -> None:
        """The failed step, and how it failed."""
        super().__init__(message)
        self.step = step


@dataclass
class TrainingState:
    """Progress of a run. With the weights and the optimizer, enough to resume it.

    step: steps done. losses: those since the last record. best_step and best_score: of the best
    checkpoint so far. seconds: training time, summed over all starts. share: calls and weight of
    the loss's `GradientShare`, empty without one. waited and plateaus: validations since the
    last best one or plateau, and plateaus so far, with the schedule "plateau".
    """

    step: int = 0
    losses: list[FiniteFloat] = field(default_factory=list)
    best_step: int = 0
    best_score: FiniteFloat = -1.0
    seconds: FiniteFloat = 0.0
    share: list[FiniteFloat] = field(default_factory=list)
    waited: int = 0
    plateaus: int = 0

    def follow(self, settings: RunSettings, *, is_best: bool) -> None:
        """Count a validation, and a plateau after `plateau_patience` of them without a best."""
        if settings.learning_rate_schedule == "plateau":
            self.waited = 0 if is_best else self.waited + 1
            if self.waited == settings.plateau_patience:
                self.waited, self.plateaus = 0, self.plateaus + 1


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
    after_step: Callable[[int, float | None], None],
) -> None:
    """Train from state.step to settings.steps. Weights, optimizer and state change in place.

    Step n depends only on n and on the weights and the optimizer before it. record: called with the
    numbers of every settings.record_every-th step, the first and the last. after_step: called after
    each step with its number and its loss, for validation and checkpoints.

    On a GPU the losses stay on the device, so that no step waits for it. They are read where the
    run pauses anyway (`RunSettings.pauses_after`); after other steps the loss is None.

    Raises Diverged at the first loss that is not finite: on the CPU before the weights are updated
    with it, on a GPU at the next pause, before a checkpoint is written.
    """
    waiting: list[Tensor] = []  # losses that are not read yet
    compiled: Any = torch.compile(network) if settings.compile else network
    model, optimizer = fabric.setup(compiled, optimizer)
    loss.set_epoch(state.step // settings.steps_per_epoch, settings.num_epochs)
    if loss.share is not None and state.share:
        loss.share.resume(state.share)
    while state.step < settings.steps:
        step, started = state.step + 1, time.monotonic()
        is_recorded = settings.records(step)
        batch = batches(step)
        loss.set_epoch((step - 1) // settings.steps_per_epoch, settings.num_epochs)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, state.plateaus)
        model.train()
        optimizer.zero_grad()
        outputs = outputs_of(model(batch.images), settings.dims)
        logits = outputs[0]
        if is_recorded:
            logits.retain_grad()
        several = outputs if len(outputs) > 1 else logits
        value = loss(
            several,
            batch.labels,
            batch.rwmap,
            spacing_mm=batch.spacings_mm,
            image=batch.images,
        )
        waiting.append(cast("Tensor", fabric.all_reduce(value.detach())))
        if is_recorded or is_free_to_read(value):  # figures are of finite logits
            state.losses += _read(waiting, step, settings)
        fabric.backward(value)
        figures = {}
        if is_recorded:
            scale, is_only = _gradient_scale(fabric), len(outputs) == 1
            figures = step_figures(loss, network, logits, batch, scale, is_only=is_only)
        if settings.gradient_clip is not None:
            fabric.clip_gradients(
                model,
                optimizer,
                max_norm=settings.gradient_clip,
                error_if_nonfinite=False,  # asking would wait for a GPU; the next loss tells
            )
        optimizer.step()
        state.step = step
        if loss.share is not None:
            state.share = loss.share.state
        if settings.pauses_after(step):
            state.losses += _read(waiting, step, settings)
        mean_value = None if waiting else state.losses[-1]
        state.seconds += time.monotonic() - started
        if is_recorded:
            record(step, {"losses": state.losses, **figures})
            state.losses = []
        after_step(step, mean_value)


def is_free_to_read(value: Tensor) -> bool:
    """Whether a value can be read without waiting."""
    return value.is_cpu


def _read(waiting: list[Tensor], step: int, settings: RunSettings) -> list[float]:
    """The pending losses up to this step; all must be finite."""
    losses: list[float] = torch.stack(waiting).tolist() if waiting else []
    waiting.clear()
    for at, loss in enumerate(losses, start=step + 1 - len(losses)):
        check_finite(loss, at, settings)
    return losses


def check_finite(loss: float, step: int, settings: RunSettings) -> None:
    """Raise Diverged if the loss of a step is not finite."""
    if not math.isfinite(loss):
        raise Diverged(
            step,
            f"the loss is {loss} at step {step}: training has diverged or its input is not "
            f"finite; try a learning rate below {settings.learning_rate:g} in another folder",
        )


def _gradient_scale(fabric: Fabric) -> float:
    """The factor that keeps gradients from vanishing in float16; else 1."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def learning_rate(settings: RunSettings, step: int, plateaus: int = 0) -> float:
    """The learning rate of a step, counted from 1, after this many plateaus."""
    done = (step - 1) / settings.steps
    cosine = (1 + math.cos(math.pi * done)) / 2
    factors: dict[str, float] = {"constant": 1.0, "poly": (1 - done) ** 0.9, "cosine": cosine}
    factors["plateau"] = settings.plateau_factor**plateaus
    return settings.learning_rate * factors[settings.learning_rate_schedule]
