"""Tensors of the CPU that say they are on CUDA: wrong devices and waits show without a GPU.

    with PretendCuda() as cuda:
        logits = cuda.tensor(logits).requires_grad_()
        RegionWiseLoss("rectified")(logits, cuda.tensor(labels)).backward()
    assert not cuda.waits

An operation that mixes devices raises, as on a GPU. An assertion on the device raises at once,
where a GPU would do so later.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

import rwloss

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
PACKAGE = str(Path(__file__).parents[1] / "rwloss")

# The host must know values, or how many there are.
READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount"}
READING |= {"_unique2", "unique_dim", "unique_consecutive"}
# They copy a number that is a tensor of the CPU.
TAKING_NUMBERS = {"where", "copy", "index_put"}
MAKING = {"empty", "zeros", "ones", "full", "arange", "linspace", "eye", "rand", "randn", "randint"}
COPYING = {"tensor", "as_tensor", "asarray", "scalar_tensor", "new_tensor"}


class OnCuda(Tensor):
    """Values on the CPU that say they are on `cuda:0`."""

    held: Tensor
    ledger: PretendCuda

    @staticmethod
    def __new__(cls, held: Tensor, ledger: PretendCuda) -> OnCuda:
        form = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, **form)  # type: ignore[attr-defined]
        made.held, made.ledger = held, ledger
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"OnCuda({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        ledger = next(each.ledger for each in tensors if isinstance(each, cls))
        strangers = [each for each in tensors if not isinstance(each, cls)]
        if any(each.ndim for each in strangers):
            raise RuntimeError(f"{name}: expected all tensors on one device, got cuda:0 and cpu")
        indices = args[1] if name in {"index", "index_put"} else []
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        if name in READING or by_mask:
            ledger.wait(name)
        if not func.is_view:
            ledger.operations[name] += 1
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        held_args, held_kwargs = tree_map_only(cls, lambda each: each.held, (args, kwargs))
        found = func(*held_args, **held_kwargs)
        found = tree_map_only(Tensor, lambda each: cls(each, ledger), found)
        return return_and_correct_aliasing(func, args, kwargs, found)


class PretendCuda(TorchFunctionMode):
    """A device for `cuda.tensor(...)` and `device="cuda"`, which counts.

    operations: how often each ran, without views. waits: where the host read values, or blocked
    while it copied some, each with its place in rwloss.
    """

    def __init__(self) -> None:
        super().__init__()
        if torch.cuda.is_available():
            pytest.skip("a real GPU is here, on which Triton does not take tensors that pretend")
        self.operations: Counter[str] = Counter()
        self.waits: list[str] = []

    def tensor(self, values: Any) -> OnCuda:
        """The values as a tensor on the device."""
        return OnCuda(torch.as_tensor(values).detach(), self)

    def wait(self, why: str) -> None:
        """Note that the host waits for the device."""
        inside = [f for f in traceback.extract_stack() if f.filename.startswith(PACKAGE)]
        place = [f"{Path(f.filename).name}:{f.lineno}" for f in inside[-1:]]
        self.waits.append(" ".join([why, *place]))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        here = bool(args) and isinstance(args[0], OnCuda)
        tensors = {type(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        if name.rstrip("_") in TAKING_NUMBERS and len(tensors) > 1:
            self.wait(name)
        if name == "numpy" and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in {"cpu", "tolist"} and here:
            self.wait(name)
            return getattr(args[0].held.detach(), name)()
        if name == "to":
            return self._to(func, *args, **kwargs)
        if name in COPYING:
            return self._copied(func, *args, **kwargs)
        if (here and name.startswith("new_")) or name.endswith("_like"):
            kwargs.pop("device", None)
        if name in MAKING and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            self.operations[name] += device.type == "cuda"
            return self._moved(func(*args, **kwargs), device, blocks=False)
        return func(*args, **kwargs)

    def _to(
        self, func: Any, values: Any, *rest: Any, non_blocking: bool = False, **kwargs: Any
    ) -> Any:
        devices = [each for each in [*rest, kwargs.pop("device", None)] if _is_device(each)]
        rest = tuple(each for each in rest if not _is_device(each))
        if rest or kwargs:
            values = func(values, *rest, **kwargs)
        for device in devices:
            values = self._moved(values, torch.device(device), blocks=not non_blocking)
        return values

    def _copied(self, func: Any, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if func is Tensor.new_tensor:
            device = args[0].device if device is None else device
            kwargs.setdefault("dtype", args[0].dtype)
            func, args = torch.tensor, args[1:]
        elif isinstance(args[0], OnCuda) and device is None:
            device = CUDA
        made = func(*args, **kwargs)
        return made if device is None else self._moved(made, torch.device(device), blocks=True)

    def _moved(self, values: Tensor, device: torch.device, *, blocks: bool) -> Tensor:
        here, there = isinstance(values, OnCuda), device.type == "cuda"
        if here and not there:
            self.wait("to the host")
            return values.held  # type: ignore[attr-defined]
        if there and not here:
            if blocks:
                self.wait("to the device")
            return self.tensor(values)
        return values


def _is_device(value: Any) -> bool:
    return isinstance(value, (str, torch.device))


@contextmanager
def waiting_raises() -> Iterator[None]:
    """On a real GPU: an operation for which the host waits raises RuntimeError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may miss some
        rwloss.check_values(False)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
