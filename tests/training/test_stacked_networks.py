"""Networks as one have the weights and the logits of each."""

import pytest
import torch
from lightning_fabric import Fabric
from torch.nn.utils import parameters_to_vector

from rwloss.training import stacked_networks, unet
from rwloss.training.stacked_convolutions import StackedConvolutions
from rwloss.training.stacked_networks import logits_of_each, networks_of, stacked_weights


def several(count):
    return [unet(2, 1, 3, seed=seed).double() for seed in range(count)]


def images(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("as_on_gpu", [False, True])
@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("count", [1, 3])
def test_logits_of_each(count, axis, as_on_gpu, monkeypatch):
    """Of images of its own, or of the same images for all."""
    if as_on_gpu:
        monkeypatch.setattr(stacked_networks, "_convolutions", lambda _: StackedConvolutions())
    alone, own = several(count), images(count, 2, 1, 16, 16)
    shown = own if axis == 0 else own[0]
    weights = stacked_weights(alone)
    found = logits_of_each(Fabric(accelerator="cpu"), alone[0], weights, shown, axis)
    each = own if axis == 0 else own[:1].expand(count, -1, -1, -1, -1)
    wanted = torch.stack([network(x) for network, x in zip(alone, each, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_stacked_weights_are_copies_without_gradient():
    alone = several(2)
    weights = stacked_weights(alone)
    for own, network in zip(weights, alone, strict=True):
        assert torch.equal(own, parameters_to_vector(network.parameters()))
    assert not weights.requires_grad


def test_some_of_the_networks_predict_in_eval_mode():
    alone, shown = several(3), images(2, 1, 16, 16)
    networks = networks_of(Fabric(accelerator="cpu"), alone[0].train(), stacked_weights(alone))
    assert (networks.count, networks.at_once, networks.device.type) == (3, 1, "cpu")
    with torch.no_grad():
        found = networks.logits(slice(1, 3), shown)
        wanted = torch.stack([network(shown) for network in alone[1:]])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert not alone[0].training
