import pytest
import torch

from rwloss import RWLossError
from rwloss.training import PRESETS, require_monai, unet


def weights(network):
    return torch.cat([w.detach().reshape(-1) for w in network.parameters()])


SIZES = [("tiny", 2, 0.4), ("tiny", 3, 1.2), ("small", 2, 1.6), ("large", 2, 4.3)]


@pytest.mark.parametrize(("preset", "dimensions", "millions"), SIZES)
def test_shapes_and_size(preset, dimensions, millions):
    network = unet(dimensions, in_channels=2, num_classes=3, preset=preset)
    multiple_of = PRESETS[preset].multiple_of
    size = [2 * multiple_of, *[multiple_of] * (dimensions - 1)]
    assert network(torch.zeros(2, 2, *size)).shape == (2, 3, *size)
    assert len(weights(network)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = weights(unet(2, 1, 3, seed=5))
    torch.manual_seed(2)
    assert torch.equal(first, weights(unet(2, 1, 3, seed=5)))
    assert not torch.equal(first, weights(unet(2, 1, 3, seed=6)))


def test_random_state_is_left_alone():
    before = torch.get_rng_state()
    unet(2, 1, 2, seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("dimensions", "preset", "message"),
    [
        (4, "tiny", "2 or 3 dimensions, got 4"),
        (2, "huge", "preset of tiny, small, large, got 'huge'"),
    ],
)
def test_wrong_settings(dimensions, preset, message):
    with pytest.raises(RWLossError, match=message):
        unet(dimensions, 1, 2, preset=preset)


def test_without_monai_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "monai", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[train\]'"):
        require_monai()
