"""The optimizer of a run."""

from __future__ import annotations

from torch import nn, optim

from rwloss.training.settings import RunSettings


def optimizer_of(settings: RunSettings, network: nn.Module) -> optim.Optimizer:
    """The optimizer of the weights of a network."""
    weights, decay = network.parameters(), settings.weight_decay
    if settings.optimizer == "sgd":
        return optim.SGD(
            weights,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=decay,
        )
    chosen = optim.AdamW if settings.optimizer == "adamw" else optim.Adam
    return chosen(weights, lr=settings.learning_rate, betas=settings.betas, weight_decay=decay)
