"""Networks by name and of the user's own: what they are made of, and what they must give."""

import pytest
import torch
from torch import nn

from rwloss import RegionWiseLoss, RWLossError
from rwloss.training import RunFolder, RunSettings, load_network, prepare, train
from rwloss.training import architectures as nets
from rwloss.training.patches import PatchSampler, patch_sources


def settings(**changes):
    return RunSettings.of("settings", {"data": "", "out": "", "patch_size": (16, 16), **changes})


@pytest.mark.parametrize("name", ["UNet", "DynUNet", "SegResNet", "AttentionUnet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_networks_of_monai_have_the_levels_of_the_preset(name, dims):
    size = (16, 8, 8)[:dims] if name != "SegResNet" else (16,) * dims
    chosen = settings(network=name, dims=dims, patch_size=size)
    nets.check_outputs(chosen, 2, 3)
    assert nets.multiples_of(chosen) == (8,) * dims
    first, again, other = (
        next(nets.build(each, 2, 3).parameters())
        for each in (chosen, chosen, settings(network=name, dims=dims, seed=1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_options_replace_the_levels_of_the_preset():
    options = {
        "kernel_size": [3, 3, 3],
        "strides": [1, [2, 1], 2],
        "upsample_kernel_size": [[2, 1], 2],
    }
    chosen = settings(network="DynUNet", network_options=options)
    assert nets.options_of(chosen) == options
    assert nets.multiples_of(chosen) == (4, 2)
    assert nets.options_of(settings(network_options={"dropout": 0.5})) == {
        "channels": (2, 4, 8, 16), "strides": (2, 2, 2), "num_res_units": 1, "dropout": 0.5
    }  # fmt: skip
    with pytest.raises(RWLossError, match=r"cannot make the network UNet .*TypeError"):
        nets.build(settings(network_options={"nonsense": 1}), 1, 2)
    wrong = {"channels": [4, 8], "strides": [3]}
    with pytest.raises(RWLossError, match=r"AttentionUnet fails for patches of \(16, 16\)"):
        nets.check_outputs(settings(network_options=wrong, network="AttentionUnet"), 1, 2)


def test_deep_supervision_is_the_weighted_sum_over_outputs(squares, settings_of):
    """DynUNet gives all its outputs at full size in one tensor; they count as a list of them."""
    options = {"deep_supervision": True, "deep_supr_num": 2, "filters": [4, 4, 4, 4]}
    options |= {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2] * 3}
    weights = (0.5, 0.25, 0.125)
    chosen = settings_of(
        squares,
        network="DynUNet",
        network_options=options,
        deep_supervision_weights=weights,
        steps=1,
    )
    result = train(chosen)
    prepared = prepare(chosen)
    network = nets.build(prepared.settings, 1, 3)
    sources = patch_sources(prepared.train, dims=2)
    sampler = PatchSampler(sources, 3, (16, 16), 2, augmentation=prepared.augmentation)
    batch = sampler(1)
    made = network.train()(batch.images)
    assert made.shape == (2, 3, 3, 16, 16)
    loss = RegionWiseLoss("rectified", ignore_index=-1)
    by_hand = sum(
        weight * loss(made[:, number], batch.labels, spacing_mm=batch.spacings_mm)
        for number, weight in enumerate(weights)
    )
    assert result.losses == pytest.approx([by_hand.item()], rel=1e-6)
    with pytest.raises(RWLossError, match="has 3 outputs, and --deep-supervision-weights has 1"):
        prepare(chosen.model_copy(update={"deep_supervision_weights": (1.0,)}))


def test_a_class_of_ones_own_is_trained_and_predicts(squares, settings_of, own, tmp_path):
    chosen = settings_of(squares, network=own, network_options={"width": 2}, patch_size=(10, 6))
    train(chosen)
    folder = RunFolder(chosen.out)
    assert load_network(folder.path).network.first.out_channels == 2
    nets._NAMED.clear()
    with pytest.raises(RWLossError, match=r"must not choose which code runs.* --network"):
        load_network(folder.path)
    assert load_network(folder.path, network=own).network.first.out_channels == 2
    with pytest.raises(RWLossError, match=r"images \(2, 1, 10, 6\), expected \(2, 3, 10, 6\)"):
        prepare(chosen.model_copy(update={"network": own.replace("Own", "Wrong")}))


def test_a_network_that_can_t_be_found_is_said(own, tmp_path):
    for name, message in (
        ("DynUnet", "no network 'DynUnet': did you mean 'DynUNet'"),
        ("nowhere.py:Net", "no file 'nowhere.py'"),
        ("no_such_module:Net", "cannot import 'no_such_module'"),
        (own.replace("Own", "Absent"), "has no class 'Absent'"),
    ):
        with pytest.raises(RWLossError, match=message):
            nets.network_class(name)
    assert nets.network_class("torch.nn:Conv2d") is nn.Conv2d
    assert nets.network_class("torch.nn:Conv2d", files=False) is nn.Conv2d
