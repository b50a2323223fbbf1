"""Convolutions of a stack are those of its members one by one, and so are their gradients."""

import pytest
import torch
from interpreted import fast_calls, needs_triton
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from rwloss.training import stacked_convolutions
from rwloss.training.stacked_convolutions import StackedConvolutions


class KeywordPReLU(nn.PReLU):
    """As a network may call it."""

    def forward(self, images):
        """(b c h w) -> the same."""
        return functional.prelu(images, weight=self.weight)


class ImageByImage(nn.Conv2d):
    """Without an axis of images."""

    def forward(self, images):
        """(b c h w) -> (b o h' w')."""
        return torch.stack([super(ImageByImage, self).forward(image) for image in images])


LAYERS = {
    "3x3": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "no padding": lambda: nn.Conv2d(2, 3, 3),
    "wide padding": lambda: nn.Conv2d(2, 3, 3, padding=4),
    "stride": lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "kernel smaller than stride": lambda: nn.Conv2d(2, 3, 1, stride=2),
    "uneven": lambda: nn.Conv2d(2, 3, (3, 1), stride=(1, 3), padding=(1, 0), bias=False),
    "transposed": lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
    "transposed, stride 1": lambda: nn.ConvTranspose2d(2, 3, (3, 2), padding=(1, 0)),
    "transposed, holes": lambda: nn.ConvTranspose2d(2, 3, 1, stride=3, output_padding=(2, 1)),
    "3-D": lambda: nn.Conv3d(2, 3, 3, stride=(1, 2, 2), padding=1),
    "3-D transposed": lambda: nn.ConvTranspose3d(2, 3, 3, 2, 1, output_padding=(1, 0, 1)),
    "1-D": lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1),
    "1-D transposed": lambda: nn.ConvTranspose1d(2, 3, 2, stride=2),
    "PReLU by keyword": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), KeywordPReLU()),
    "image by image": lambda: ImageByImage(2, 3, 3),
    "by name": lambda: nn.Conv2d(2, 3, 3, padding="same"),
    "dilation": lambda: nn.Conv2d(2, 3, 3, dilation=2),
    "groups": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "in a row": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.PReLU(), nn.ConvTranspose2d(3, 2, 2, 2)
    ),
}


def stacked(layers, images, shared):
    """Results (m b ...) and gradients of weights and images, as `train_stack` has them."""
    weights, _ = stack_module_state(layers)
    weights = {name: each.detach().requires_grad_() for name, each in weights.items()}
    images = images.clone().requires_grad_()
    with StackedConvolutions():
        found = vmap(
            lambda own, batch: functional_call(layers[0], own, (batch,)),
            in_dims=(0, None if shared else 0),
        )(weights, images)
    found.mul(waves_like(found)).sum().backward()
    return found, images.grad, {name: each.grad for name, each in weights.items()}


def waves_like(found):
    """Other numbers at each place, of the same shape."""
    return torch.arange(found.numel(), device=found.device).reshape(found.shape).cos()


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_as_one_by_one(name, monkeypatch, device):
    """With the columns that Triton's kernels move."""
    needs_triton(device)
    monkeypatch.setattr(stacked_convolutions, "_has_kernels", lambda values: True)
    with fast_calls():
        check_as_one_by_one(name, 1.0, False, monkeypatch, device)


@pytest.mark.parametrize("shared", [False, True], ids=["own images", "shared images"])
@pytest.mark.parametrize("gib", [1.0, 3e-6, 0.0], ids=["together", "in parts", "one by one"])
@pytest.mark.parametrize("name", LAYERS)
def test_as_one_by_one(name, gib, shared, monkeypatch, device):
    check_as_one_by_one(name, gib, shared, monkeypatch, device)


def check_as_one_by_one(name, gib, shared, monkeypatch, device):
    """Results and gradients of three members, and of each layer alone."""
    monkeypatch.setattr(stacked_convolutions, "COLUMNS_GIB", gib)
    torch.manual_seed(0)
    layers = [LAYERS[name]().to(device, torch.float64) for _ in range(3)]
    size = (5, 6, 7) if "3-D" in name else (9,) if "1-D" in name else (9, 7)
    images = torch.randn(*([] if shared else [3]), 2, 2, *size, dtype=torch.float64, device=device)
    found, of_images, of_weights = stacked(layers, images, shared)
    plain = images.clone().requires_grad_()
    alone = torch.stack([layer(plain if shared else plain[i]) for i, layer in enumerate(layers)])
    alone.mul(waves_like(alone)).sum().backward()
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(of_images, plain.grad)
    for key, gradient in of_weights.items():
        own = torch.stack([dict(layer.named_parameters())[key].grad for layer in layers])
        torch.testing.assert_close(gradient, own)


def test_matrix_products_replace_convolutions(monkeypatch):
    """And only where they fit: no member's columns are larger than the limit."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.__name__)
            return func(*args, **kwargs or {})

    layers = [LAYERS["3x3"]() for _ in range(4)]
    counts = {}
    for gib in (1.0, 0.0):
        monkeypatch.setattr(stacked_convolutions, "COLUMNS_GIB", gib)
        with Seen() as seen:
            stacked(layers, torch.randn(4, 2, 2, 9, 7), shared=False)
        counts[gib] = sum("convolution" in name for name in seen.names)
    assert counts == {1.0: 0, 0.0: 8}


@pytest.mark.parametrize("way", ["together", "one by one", "kernels"])
@pytest.mark.parametrize("name", ["in a row", "by name", "dilation", "groups"])
def test_autocast(name, way, monkeypatch):
    """After a convolution, whose result is of the lower precision."""
    monkeypatch.setattr(stacked_convolutions, "COLUMNS_GIB", 0.0 if way == "one by one" else 1.0)
    if way == "kernels":
        needs_triton("cpu")
        monkeypatch.setattr(stacked_convolutions, "_has_kernels", lambda values: True)
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), LAYERS[name]()) for _ in range(3)]
    images = torch.randn(3, 2, 2, 8, 6)
    exact, of_images, of_weights = stacked(layers, images, shared=False)
    with torch.autocast("cpu", torch.bfloat16):
        found, gradient, gradients = stacked(layers, images, shared=False)
    assert found.dtype == torch.bfloat16
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(gradient, of_images, rtol=0.05, atol=0.1)
    for key, of_weight in of_weights.items():
        torch.testing.assert_close(gradients[key], of_weight, rtol=0.05, atol=0.5)
