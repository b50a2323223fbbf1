"""Networks of equal shape as one: their weights stacked, their logits in one call."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector

from rwloss.training.inference import Networks
from rwloss.training.stacked_convolutions import StackedConvolutions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def logits_of_each(
    fabric: Fabric, network: nn.Module, weights: Tensor, images: Tensor, axis: int | None
) -> Tensor:
    """weights (m p), images (m b c *s) -> logits (m b k *s).

    axis: that of the members in images; None for the same images (b c *s) for all.
    """
    named = dict(network.named_parameters())
    parts = torch.split(weights, [own.numel() for own in named.values()], dim=1)
    stacked = {
        name: part.view(-1, *own.shape)
        for part, (name, own) in zip(parts, named.items(), strict=True)
    }
    with fabric.autocast():
        if axis is None and len(weights) == 1:  # as alone
            one = {name: part[0] for name, part in stacked.items()}
            single: Tensor = functional_call(network, one, (images,))
            return single[None]
        with _convolutions(images.device):
            logits: Tensor = vmap(
                lambda own, batch: functional_call(network, own, (batch,)), in_dims=(0, axis)
            )(stacked, images)
    return logits


def networks_of(fabric: Fabric, network: nn.Module, weights: Tensor) -> Networks:
    """Networks to predict with, of stacked weights (m p)."""

    def logits(rows: slice, windows: Tensor) -> Tensor:
        network.eval()
        return logits_of_each(fabric, network, weights[rows], windows, None)

    # On a CPU, networks are no faster together.
    at_once = 1 if weights.device.type == "cpu" else len(weights)
    return Networks(len(weights), logits, weights.device, at_once)


def stacked_weights(networks: Iterable[nn.Module]) -> Tensor:
    """All weights of each, in the order of its parameters. -> (m p)."""
    return torch.stack([parameters_to_vector(each.parameters()) for each in networks]).detach()


def _convolutions(device: torch.device) -> AbstractContextManager[Any]:
    """Also where autocast is on: without them it would have no effect."""
    wanted = device.type == "cuda" or torch.is_autocast_enabled(device.type)
    return StackedConvolutions() if wanted else nullcontext()
