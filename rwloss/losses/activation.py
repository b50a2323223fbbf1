"""From the network's output to probabilities, in float32 at least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rwloss.errors import RWLossError
from rwloss.once import once

Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Probabilities and their logarithms, each computed on first use.

    output (b k *s): logits, or with `normalized` probabilities; float32 or float64, because sums
    over 512² voxels overflow float16.
    """

    output: Tensor
    normalized: bool = False

    @once
    def log(self) -> Tensor:
        """Natural logarithms of the probabilities. (b k *s)."""
        if self.normalized:
            # A probability of exactly 0 has no finite logarithm, and gets no gradient from it.
            return self.output.clamp_min(torch.finfo(self.output.dtype).tiny).log()
        return functional.log_softmax(self.output, dim=1)

    @once
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

    Raises RWLossError where "none" is given logits.
    """
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    if activation == "sigmoid":
        wide = wide.flatten(0, 1)
        wide = torch.stack([torch.zeros_like(wide), wide], dim=1)
    if activation == "none" and not torch.compiler.is_compiling():
        outside = (wide < -_ROUNDING) | (wide > 1 + _ROUNDING)
        if bool(outside.any()):
            raise RWLossError(
                f"expected probabilities of 0 to 1, got {float(wide[outside][0].detach()):g}: "
                'with activation="none" the network must give probabilities; for logits use '
                'activation="softmax" or activation="sigmoid"'
            )
    return Probabilities(wide, normalized=activation == "none")


_ROUNDING = 1e-2  # of bfloat16
