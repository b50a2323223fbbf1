"""Checks of values as operations of compiled graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Check = TypeVar("Check", bound=Callable[..., Tensor])


def in_graphs(schema: str, dtype: torch.dtype | None = None) -> Callable[[Check], Check]:
    """Make a check of values one operation of a compiled graph, which does not break there.

    schema: of the function in torch's words. Its result is like its first argument, or of `dtype`.
    Outside of graphs the function is called as it is.
    """

    def decorate(check: Check) -> Check:
        def kernel(*args: Any) -> Tensor:
            return check(*args).to(dtype or args[0].dtype, copy=True)

        # Values are read on the CPU: no CUDA graph can hold that.
        unsafe = getattr(torch.Tag, "cudagraph_unsafe", None)
        operation: Any = torch.library.custom_op(
            f"rwloss::{check.__name__}",
            kernel,
            mutates_args=(),
            schema=schema,
            **({"tags": [unsafe]} if unsafe else {}),
        )
        operation.register_fake(lambda first, *_: torch.empty_like(first, dtype=dtype))

        @wraps(check)
        def run(*args: Any) -> Tensor:
            found: Tensor = (operation if torch.compiler.is_compiling() else check)(*args)
            return found

        return cast("Check", run)

    return decorate
