"""From the network's output to probabilities, in float32 at least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Probabilities and their logarithms, each computed on first use.

    output (b k *s): logits, or with `normalized` probabilities; float32 or float64, because sums
    over 512² voxels overflow float16.
    """

    output: Tensor
    normalized: bool = False

    @cached_property
    def log(self) -> Tensor:
        """Natural logarithms of the probabilities. (b k *s)."""
        if self.normalized:
            return self.output.clamp_min(torch.finfo(self.output.dtype).tiny).log()
        return functional.log_softmax(self.output, dim=1)

    @cached_property
    def values(self) -> Tensor:
        """Probabilities. (b k *s)."""
        if self.normalized:
            return self.output
        if "log" in self.__dict__:  # one exponential is less work than another softmax
            return self.log.exp()
        return functional.softmax(self.output, dim=1)


def probabilities(output: Tensor, activation: Activation) -> Probabilities:
    """Class probabilities of a network's output. (b k *s).

    With "sigmoid" each channel becomes a two-class problem of its own, (b k *s) -> (b·k 2 *s):
    softmax([0, x]) is [1 - sigmoid(x), sigmoid(x)], so that overlapping masks need no other code.
    """
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    if activation == "sigmoid":
        wide = wide.flatten(0, 1)
        wide = torch.stack([torch.zeros_like(wide), wide], dim=1)
    return Probabilities(wide, normalized=activation == "none")
