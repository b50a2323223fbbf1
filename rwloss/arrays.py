"""Operations on NumPy arrays and torch tensors, without importing torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import Any, TypeAlias, TypeVar

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError

# A NumPy array or a torch tensor. The array API standard has no static type for it yet.
Array: TypeAlias = Any
Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


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
    """Whether the array is a torch tensor (False if torch was never imported)."""
    return bool(array_api_compat.is_torch_array(array))


def on_device(array: Array) -> dict[str, Any]:
    """Keyword argument that makes a new array on the device of this one; empty for NumPy."""
    return {"device": array.device} if is_torch(array) else {}


def to_numpy(array: Array) -> NDArray[Any]:
    """The same values as a NumPy array; shares memory if possible."""
    if is_torch(array):
        return np.asarray(array.detach().cpu().numpy())
    return np.asarray(array)


def read_all(arrays: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """The same values in NumPy, in float64. A device is waited for once, not for each array."""
    first = next(iter(arrays.values()))
    if not is_torch(first):
        return {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    import torch

    flat = to_numpy(torch.cat([array.detach().double().flatten() for array in arrays.values()]))
    ends = np.cumsum([array.numel() for array in arrays.values()])[:-1]
    parts = zip(arrays.items(), np.split(flat, ends), strict=True)
    return {name: part.reshape(array.shape) for (name, array), part in parts}


def from_numpy(values: NDArray[Any], like: Array) -> Array:
    """NumPy values as an array of the same type and on the same device as `like`."""
    if is_torch(like):  # a copy that does not block: nobody waits for a GPU
        return namespace(like).asarray(values).to(like.device, non_blocking=True)
    return values


def constants(numbers: Sequence[float], like: Array) -> Any:
    """A few numbers as a tensor of the type and on the device of `like`, without waiting for the
    device."""
    import torch

    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def as_tensor(array: Array) -> Any:
    """The same values as a torch tensor on the same device; shares memory if torch supports it.

    This works in a compiled graph.
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
    disabled: Callable[..., Any] | None = None

    @wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled  # not a list: older compilers that come by here can't trace its `append`
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            import torch

            disabled = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    # The compiler looks for this mark before it traces a call.
    outside._torchdynamo_disable = True  # type: ignore[attr-defined]
    return outside  # type: ignore[return-value]


def plain_call(function: Callable[[Any], Result], tensor: Any) -> Result:
    """The result of a function on the tensor below torch.func; a constant for gradients.

    NumPy can't read the tensors of its transforms.
    """
    import torch

    if not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
        with torch.no_grad():
            return function(tensor.detach())
    found: list[Result] = []

    def call(plain: Any) -> Any:
        found.append(function(plain))
        return plain.new_empty(0)

    _plain_function().apply(tensor.detach(), call)
    return found[0]


@cache
def _plain_function() -> Any:
    from torch.autograd.function import Function

    class Plain(Function):
        @staticmethod
        def forward(tensor: Any, call: Callable[[Any], Any]) -> Any:
            return call(tensor)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            """Keep nothing, because no gradient flows through a constant."""

    return Plain


# --- Checks of values: read at once where that is free, else asserted on the device

_reads_everywhere = False


def check_values(everywhere: bool = True) -> None:
    """Read values on a GPU too when they are checked, and wait for them; False restores the
    default.

    On the CPU a check of values (labels in range, one-hot targets, masks of 0 and 1, a stored map
    of other labels, maps that are not finite) raises RWLossError with the value and the fix. On a
    CUDA device it is an assertion on the device: nothing waits, and a wrong value ends the program
    at a later call with a short text. After check_values() the message is the same as on the CPU.

    everywhere: on a GPU too.

    >>> check_values()
    >>> check_values(False)
    """
    global _reads_everywhere  # noqa: PLW0603 - one setting for the process, like torch.set_num_threads
    _reads_everywhere = bool(everywhere)


def may_read(values: Array) -> bool:
    """Whether values may be read: always on the CPU; on CUDA only after check_values()."""
    # Not with `is_torch`: its cache has no effect under torch.compile, which warns.
    device = getattr(values, "device", None)
    return _reads_everywhere or getattr(device, "type", "cpu") != "cuda"


def fails(holds: Array, fact: str) -> bool:
    """Whether a condition fails somewhere, so that the caller raises. holds: booleans.

    If values may not be read, the answer is False, and the device asserts the condition. fact: the
    error in a few words.
    """
    if may_read(holds):
        return not bool(holds.all())
    import torch

    torch._assert_async(holds.all() if holds.ndim else holds, assertion(fact))
    return False


def assertion(fact: str) -> str:
    """What the device says where it asserts that something does not hold."""
    return f"rwloss: {fact}; call rwloss.check_values() before the loss to see which, and the fix"


def in_graphs(schema: str, dtype: Any = None) -> Callable[[Function], Function]:
    """Make a check of values one operation of a compiled graph, which does not break there.

    schema: of the function, in torch's syntax. Its result is like its first argument, or of
    `dtype`. Outside graphs the function is called directly.
    """
    import torch

    def decorate(check: Function) -> Function:
        def kernel(*args: Any) -> Any:
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
        def run(*args: Any) -> Any:
            return (operation if torch.compiler.is_compiling() else check)(*args)

        return run  # type: ignore[return-value]

    return decorate


def operation(schema: str) -> Callable[[Function], Function]:
    """Make a function of tensors one operation of torch, for kernels that torch can't look into.

    schema: in torch's syntax, with the operation's name. Modes that count or pretend then see one
    step. Plain tensors go past torch's dispatcher, which takes as long as a launch.
    """
    import torch

    def decorate(function: Function) -> Function:
        # `torch.library.custom_op` loads the compiler at the first call.
        name = schema.partition("(")[0]
        _library().define(schema)
        _library().impl(name, function, "CompositeExplicitAutograd")
        of_torch = getattr(torch.ops.rwloss, name).default

        @wraps(function)
        def run(first: Any, *rest: Any) -> Any:
            return (function if type(first) is torch.Tensor else of_torch)(first, *rest)

        return run  # type: ignore[return-value]

    return decorate


@cache
def _library() -> Any:
    import torch

    return torch.library.Library("rwloss", "FRAGMENT")  # type: ignore[no-untyped-call]
