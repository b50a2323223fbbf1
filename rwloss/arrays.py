"""NumPy arrays and torch tensors alike, without importing torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError

# A NumPy array or a torch tensor. The array API standard has no static type for it yet.
Array: TypeAlias = Any
Function = TypeVar("Function", bound=Callable[..., Any])


def namespace(array: Array) -> Any:
    """Array API namespace of a NumPy array or a torch tensor.

    >>> namespace(np.zeros(3)).__name__
    'numpy'
    """
    if isinstance(array, np.ndarray):
        return np  # array_api_compat's own wrapper would load numpy.f2py and numpy.testing
    if is_torch(array):
        # Not array_namespace, which tries every library: a training step asks a dozen times.
        import array_api_compat.torch as of_torch

        return of_torch
    raise RWLossError(
        f"expected a NumPy array or a torch tensor, got {type(array).__name__}: "
        "convert it with numpy.asarray"
    )


def is_torch(array: Array) -> bool:
    """Whether the array is a torch tensor (False where torch was never imported)."""
    return bool(array_api_compat.is_torch_array(array))


def on_device(array: Array) -> dict[str, Any]:
    """Keyword that makes a new array on the device of this one; nothing for NumPy."""
    return {"device": array.device} if is_torch(array) else {}


def to_numpy(array: Array) -> NDArray[Any]:
    """The same values as a NumPy array; shares memory where it can."""
    if is_torch(array):
        return np.asarray(array.detach().cpu().numpy())
    return np.asarray(array)


def from_numpy(values: NDArray[Any], like: Array) -> Array:
    """NumPy values as an array of the same kind and on the same device as `like`."""
    if is_torch(like):
        return namespace(like).asarray(values, device=like.device)
    return values


def as_tensor(array: Array) -> Any:
    """The same values as a torch tensor, where they are; shares memory where torch takes it.

    A compiled graph can hold this.
    """
    if not isinstance(array, np.ndarray):
        return array
    import torch

    # torch refuses negative strides (a flipped map) and foreign byte order, and warns about
    # read-only memory (a broadcast constant).
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


# Allocating memory costs more than a sum or a quotient of its size, so maps change arrays of their
# own in place. The array API has no functions for that.


def divide_into(numerator: Array, denominator: Array) -> Array:
    """The quotient, in the memory of the denominator."""
    if is_torch(numerator):
        return namespace(numerator).div(numerator, denominator, out=denominator)
    return np.divide(numerator, denominator, out=denominator)


def add_where(values: Array, number: Array, here: Array) -> None:
    """Add a number (or an array that meets the values) in place where `here` is true."""
    if is_torch(values):
        values.add_(number * here)
    else:
        np.add(values, number, out=values, where=here)


def zero_where(values: Array, here: Array) -> None:
    """Set values to 0 in place where `here` is true."""
    if is_torch(values):
        values.masked_fill_(here, 0.0)
    else:
        np.copyto(values, 0.0, where=here)


def eager(function: Function) -> Function:
    """The function, run outside of compiled graphs, as `torch.compiler.disable` does.

    That decorator loads the compiler (dynamo, inductor, sympy) at once, which takes longer than
    torch itself. Here it is applied at the first call after something else has loaded it.

    >>> eager(len)([1, 2])
    2
    """
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            import torch

            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return disabled[0](*args, **kwargs)

    # The compiler looks for this mark before it traces a call.
    outside._torchdynamo_disable = True  # type: ignore[attr-defined]
    return outside  # type: ignore[return-value]
