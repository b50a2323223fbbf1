"""Convolutions of stacked networks as matrix products, for GPUs.

`vmap` over weights turns M convolutions into one with M groups, for which libraries have slow
kernels, above all for gradients. Here the patches that a kernel sees become the columns of a matrix
(im2col), so that all M are one batched product, and so are both of their gradients. That moves more
memory, of which a GPU has the speed: on a CPU, groups are faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

COLUMNS_GIB = 1.0
"""The largest matrix of patches. More members than fit take turns; a member that does not fit alone
is large enough for a convolution of its own."""


class StackedConvolutions(TorchFunctionMode):
    """Inside of it, convolutions under `vmap` over their weights are matrix products.

    Those with dilation, groups, padding by name or one image are left to torch. Autocast has no
    effect on what torch does under `vmap`: here it has, for all convolutions, and for PReLU.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The result of a function of torch."""
        arguments = _ARGUMENTS.get(func)
        if arguments is None:
            return func(*args, **kwargs or {})
        given = arguments(*args, **kwargs or {})
        device = given.input.device.type
        if torch.is_autocast_enabled(device):  # under `vmap` torch does not look
            dtype = torch.get_autocast_dtype(device)
            given = arguments(*(_cast(each, dtype) for each in given))
        if isinstance(given, _PReLU):
            return func(*given)
        axes = given.weight.ndim - 2
        dense = given.groups == 1 and set(_each(given.dilation, axes)) == {1}
        if not dense or isinstance(given.padding, str) or given.input.ndim != axes + 2:
            named = given._asdict()
            if isinstance(given, _Plain):
                del named["output_padding"]
            return func(**named)
        stride, padding, dilation, more = (
            _each(value, axes)
            for value in (given.stride, given.padding, given.dilation, given.output_padding)
        )
        form = _Form(stride, padding, dilation, isinstance(given, _Transposed), more)
        found: Tensor = _OfOne.apply(given.input, given.weight, form)  # type: ignore[no-untyped-call]
        return found if given.bias is None else found + given.bias.view(-1, *[1] * axes)


Size = int | Sequence[int]


class _PReLU(NamedTuple):
    """The arguments of torch.prelu."""

    input: Tensor
    weight: Tensor


class _Plain(NamedTuple):
    """The arguments of torch.conv2d and its like, and one that they have not."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: Size = 1
    padding: Size | str = 0
    dilation: Size = 1
    groups: int = 1
    output_padding: Size = 0


class _Transposed(NamedTuple):
    """The arguments of torch.conv_transpose2d and its like."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: Size = 1
    padding: Size | str = 0
    output_padding: Size = 0
    groups: int = 1
    dilation: Size = 1


_ARGUMENTS: dict[Callable[..., Any], type[_PReLU | _Plain | _Transposed]] = {
    torch.prelu: _PReLU,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _Plain),
    **dict.fromkeys(
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _Transposed
    ),
}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """As autocast does it: all but float64."""
    is_cast = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_cast and value.dtype != torch.float64 else value


def _each(value: Size, axes: int) -> tuple[int, ...]:
    """One number per axis; torch also takes one for all."""
    several = (value,) if isinstance(value, int) else tuple(value)
    return several * axes if len(several) == 1 else several


class _Form(NamedTuple):
    """The arguments of torch.convolution after its tensors; those of numbers have one per axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int = 1


class _OfOne(Function):
    """The convolution of one member, which `vmap` replaces by that of all."""

    @staticmethod
    def forward(images: Tensor, weight: Tensor, form: _Form) -> Tensor:
        found: Tensor = _OfAll.apply(images[None], weight[None], form)[0]  # type: ignore[no-untyped-call]
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: `_OfAll` keeps what the gradient needs."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], images: Tensor, weight: Tensor, form: _Form
    ) -> tuple[Tensor, int]:
        images, weight = (
            each.expand(info.batch_size, *each.shape) if at is None else each.movedim(at, 0)
            for each, at in zip((images, weight), in_dims, strict=False)
        )
        at_once = _at_once(images, weight, form)
        if at_once == 0:
            one: Any = torch.convolution
            pairs = zip(images, weight, strict=True)
            return torch.stack([one(*pair, None, *form) for pair in pairs]), 0
        parts = zip(torch.split(images, at_once), torch.split(weight, at_once), strict=True)
        found = [_OfAll.apply(*pair, form) for pair in parts]  # type: ignore[no-untyped-call]
        return found[0] if len(found) == 1 else torch.cat(found), 0


class _OfAll(Function):
    """images (m b c *s), weight (m o c *kernel) -> (m b o *s'); if transposed, weight (m c o ...).

    In both, the weight maps the many voxels to the few: `_down`. Its adjoint is `_up`.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, form: _Form) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.form = form
        if not form.transposed:
            return _down(images, weight, form)
        per_axis = form.stride, form.padding, form.output_padding
        sizes = zip(images.shape[3:], weight.shape[3:], *per_axis, strict=True)
        many = tuple((n - 1) * step - 2 * pad + k + more for n, k, step, pad, more in sizes)
        return _up(images, weight, form, many)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        form, of_images, of_weight = ctx.form, None, None
        many, few = (gradient, images) if form.transposed else (images, gradient)
        if ctx.needs_input_grad[0] and form.transposed:
            of_images = _down(gradient, weight, form)
        elif ctx.needs_input_grad[0]:
            of_images = _up(gradient, weight, form, tuple(images.shape[3:]))
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(many, few, form, tuple(weight.shape[3:]))
        return of_images, of_weight, None


def _down(many: Tensor, weight: Tensor, form: _Form) -> Tensor:
    """(m b c *s), (m o c *kernel) -> (m b o *s')."""
    columns, few = _gathered(many, tuple(weight.shape[3:]), form.stride, form.padding)
    found = (weight.flatten(2) @ columns).reshape(*weight.shape[:2], many.shape[1], *few)
    return found.transpose(1, 2).contiguous()


def _up(few: Tensor, weight: Tensor, form: _Form, many: tuple[int, ...]) -> Tensor:
    """The adjoint of `_down`: (m b o *s'), (m o c *kernel) -> (m b c *s), s = `many`."""
    kernel = tuple(weight.shape[3:])
    axes = tuple(range(3, weight.ndim))
    rest = tuple(k - 1 - pad for k, pad in zip(kernel, form.padding, strict=True))
    if set(form.stride) == {1} and min(rest) >= 0:
        turned = weight.flip(axes).transpose(1, 2)
        return _down(few, turned, form._replace(padding=rest))
    columns = weight.flatten(2).mT @ _rows(few)
    return _scattered(columns, few.shape[1], kernel, form, tuple(few.shape[3:]), many)


def _of_weight(many: Tensor, few: Tensor, form: _Form, kernel: tuple[int, ...]) -> Tensor:
    """The gradient of the weight: (m b c *s), (m b o *s') -> (m o c *kernel)."""
    columns, _ = _gathered(many, kernel, form.stride, form.padding)
    return (_rows(few) @ columns.mT).reshape(len(many), few.shape[2], many.shape[2], *kernel)


def _rows(few: Tensor) -> Tensor:
    """The numbers of all images, by channel: (m b o *s') -> (m o b·places)."""
    return few.flatten(3).transpose(1, 2).flatten(2)


def _gathered(
    many: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """What the kernel sees at each place: (m b c *s) -> (m c·kernel b·places); and the places."""
    axes = len(kernel)
    sizes = zip(many.shape[3:], kernel, stride, padding, strict=True)
    places = tuple((n + 2 * pad - k) // step + 1 for n, k, step, pad in sizes)
    if _has_kernels(many):
        from rwloss.training import triton_columns

        return triton_columns.gathered(many, kernel, stride, padding, places), places
    seen = functional.pad(many, [pad for pad in reversed(padding) for _ in range(2)])
    for axis, (k, step) in enumerate(zip(kernel, stride, strict=True), start=3):
        seen = seen.unfold(axis, k, step)  # a view: the places stay at `axis`, k comes last
    seen = seen.permute(0, 2, *range(3 + axes, 3 + 2 * axes), 1, *range(3, 3 + axes))
    return seen.flatten(2 + axes).flatten(1, 1 + axes), places


def _scattered(
    columns: Tensor,
    images: int,
    kernel: tuple[int, ...],
    form: _Form,
    places: tuple[int, ...],
    many: tuple[int, ...],
) -> Tensor:
    """The adjoint of `_gathered`: each voxel gets the sum of where it was seen. -> (m b c *s)."""
    if _has_kernels(columns):
        from rwloss.training import triton_columns

        return triton_columns.scattered(
            columns, images, kernel, form.stride, form.padding, places, many
        )
    dtype = torch.promote_types(columns.dtype, torch.float32)  # of a sum over the kernel
    parts = columns.reshape(len(columns), -1, *kernel, images, *places)
    room = [n + 2 * pad for n, pad in zip(many, form.padding, strict=True)]
    found = columns.new_zeros((len(columns), images, parts.shape[1], *room), dtype=dtype)
    for at in product(*map(range, kernel)):
        strides = zip(at, places, form.stride, strict=True)
        where: Any = [slice(k, k + step * (n - 1) + 1, step) for k, n, step in strides]
        found[(..., *where)] += parts[(slice(None),) * 2 + at].transpose(1, 2)
    inside: Any = [slice(pad, pad + n) for n, pad in zip(many, form.padding, strict=True)]
    return found[(..., *inside)].to(columns.dtype)


def _has_kernels(values: Tensor) -> bool:
    """Whether kernels of ours move the columns."""
    return values.device.type == "cuda" and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _at_once(images: Tensor, weight: Tensor, form: _Form) -> int:
    """How many members' columns fit; 0 if that of one does not."""
    given, kernel = images.shape[3:], weight.shape[3:]
    steps = zip(given, kernel, form.stride, form.padding, strict=True)
    places = [n if form.transposed else (n + 2 * pad - k) // step + 1 for n, k, step, pad in steps]
    size = images.shape[1] * weight[0].numel() // min(weight.shape[1:3]) * math.prod(places)
    return int(COLUMNS_GIB * 2**30 / (size * images.element_size()))
