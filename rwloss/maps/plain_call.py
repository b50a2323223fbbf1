"""Calls below the transforms of torch.func: their tensors can't be read by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.autograd.function import Function

Result = TypeVar("Result")


def plain_call(function: Callable[[Tensor], Result], tensor: Tensor) -> Result:
    """What the function makes of the tensor without its transforms; a constant for gradients."""
    found: list[Result] = []

    def call(plain: Tensor) -> Tensor:
        found.append(function(plain))
        return plain.new_empty(0)

    _Plain.apply(tensor.detach(), call)  # type: ignore[no-untyped-call]
    return found[0]


class _Plain(Function):
    @staticmethod
    def forward(tensor: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        return call(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: no gradient flows through a constant."""
