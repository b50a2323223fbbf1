"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import nn

from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap
from rwloss.training.examples import Examples

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, RWMap | None], torch.Tensor]
"""logits (b k *s), labels (b *s), map of these labels -> ()."""


def train(
    network: nn.Module,
    loss: Loss,
    batches: Iterable[Examples],
    *,
    learning_rate: float = 4e-3,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the network in place with Adam, a step for each batch; the loss before each step.

    on_step: called after each step with its number, from 1, and its loss. On the CPU, the same
    weights, batches and number of threads end in the same weights bit for bit.

    Raises RWLossError at the first loss that is not finite, before it spoils the weights.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    network.train()
    losses = []
    for step, batch in enumerate(batches, start=1):
        optimizer.zero_grad()
        value = loss(network(batch.images), batch.labels, batch.rwmap)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise RWLossError(
                f"the loss is {losses[-1]} at step {step}: training has diverged or its input is "
                f"not finite; try a learning rate below {learning_rate:g}"
            )
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if on_step is not None:
            on_step(step, losses[-1])
    return losses
