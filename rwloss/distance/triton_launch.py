"""Launches of Triton's kernels that cost the host little.

Triton looks at every argument of every launch, to find the kernel that it compiled for such
arguments. That takes longer than many of our kernels. A `Launch` is made once for a shape, with its
grid and numbers; only tensors are left to look at.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
from numpy.typing import NDArray
from torch import Tensor

from rwloss.arrays import from_numpy

# Before 3.3 what Triton compiles takes other arguments.
_TAKES_ALL = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)


class Launch:
    """A kernel with its grid and all arguments but tensors, which come first.

    numbers: the arguments after the tensors. constants: those by name, and options of Triton.
    """

    def __init__(
        self, kernel: Any, grid: tuple[int, ...], numbers: tuple[Any, ...], **constants: Any
    ) -> None:
        """Nothing is compiled before the first call."""
        self.kernel, self.grid, self.numbers = kernel, (*grid, 1, 1)[:3], numbers
        # Triton warns where nobody says whether a product and a sum may be one operation.
        self.constants = {**constants, "enable_fp_fusion": True}
        self._compiled: dict[Any, tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, *tensors: Tensor) -> None:
        """Launch it on the device of the tensors, which is the current one, and its stream."""
        # What Triton compiles for: types, and whether an address is a multiple of 16.
        key = tensors[0].device, *[(each.dtype, each.data_ptr() % 16 == 0) for each in tensors]
        found = self._compiled.get(key)
        if found is not None:
            compiled, rest = found
            compiled[self.grid](*tensors, *rest)
            return
        made = self.kernel[self.grid](*tensors, *self.numbers, **self.constants)
        if _TAKES_ALL and isinstance(made, triton.compiler.CompiledKernel):
            named = self.kernel.arg_names[len(tensors) + len(self.numbers) :]
            self._compiled[key] = made, (*self.numbers, *[self.constants[name] for name in named])


def constant_rows(
    make: Callable[..., NDArray[Any]], given: tuple[Any, ...], like: Tensor
) -> tuple[Tensor, ...]:
    """The rows of `make(*given)` as tensors on the device of `like`, only to be read.

    They are copied there once for each stream, where later work follows the copy.
    """
    if type(like) is not Tensor or (like.is_cuda and torch.cuda.is_current_stream_capturing()):
        made: tuple[Tensor, ...] = from_numpy(make(*given), like).unbind()
        return made
    stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0
    return _kept_rows(make, given, like.device, stream)


@lru_cache(maxsize=256)
def _kept_rows(
    make: Callable[..., NDArray[Any]], given: tuple[Any, ...], device: torch.device, stream: int
) -> tuple[Tensor, ...]:
    del stream
    with torch.inference_mode(False):
        return torch.from_numpy(make(*given)).to(device, non_blocking=True).unbind()
