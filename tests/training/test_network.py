"""Networks and their checkpoints: plain values, whole files, and only those of the run."""

import errno
import io
import math
import os
import zipfile
from pathlib import Path

import pytest
import torch

from rwloss import RWLossError
from rwloss.training import PRESETS, SegmentationTask, load_network, require_monai, unet
from rwloss.training.network import (
    load_checkpoint,
    restore_optimizer,
    restore_weights,
    save_checkpoint,
)

TASK = SegmentationTask(2, 3, ("background", "a", "b"))


def weights(network):
    return torch.cat([w.detach().reshape(-1) for w in network.parameters()])


def test_shapes_and_size():
    for preset, dimensions, millions in (
        ("tiny", 2, 0.4),
        ("tiny", 3, 1.2),
        ("small", 2, 1.6),
        ("large", 2, 4.3),
    ):
        network = unet(dimensions, in_channels=2, num_classes=3, preset=preset)
        multiple_of = PRESETS[preset].multiple_of
        size = [2 * multiple_of, *[multiple_of] * (dimensions - 1)]
        assert network(torch.zeros(2, 2, *size)).shape == (2, 3, *size)
        assert len(weights(network)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = weights(unet(2, 1, 3, seed=5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, weights(unet(2, 1, 3, seed=5)))
    assert not torch.equal(first, weights(unet(2, 1, 3, seed=6)))
    assert torch.equal(before, torch.get_rng_state())


def test_networks_that_cannot_be_built(monkeypatch):
    with pytest.raises(RWLossError, match="2 or 3 dimensions, got 4"):
        unet(4, 1, 2)
    with pytest.raises(RWLossError, match="preset of tiny, small, large, got 'huge'"):
        unet(2, 1, 2, preset="huge")
    monkeypatch.setitem(__import__("sys").modules, "monai", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[train\]'"):
        require_monai()


@pytest.fixture
def saved(tmp_path, settings_of):
    """A run folder with the best checkpoint of step 7, and its network."""
    settings = settings_of("in")
    path = Path(settings.out) / "checkpoints" / "best.pt"
    path.parent.mkdir(parents=True)
    settings.write(Path(settings.out) / "run.toml")
    network = unet(2, 2, 3, seed=5)
    save_checkpoint(path, network.state_dict(), settings, TASK, 7)
    return path, network, settings


def test_a_network_comes_back_ready_to_predict(saved, tmp_path):
    _, network, settings = saved
    found = load_network(settings.out)
    assert (found.settings, found.task, found.step) == (settings, TASK, 7)
    assert not found.network.training
    images = torch.randn(1, 2, 16, 16)
    network.eval()
    assert torch.equal(found.network(images), network(images))
    with pytest.raises(RWLossError, match=r"no checkpoint '.*last\.pt'"):
        load_network(settings.out, which="last")
    with pytest.raises(RWLossError, match=r"is not a run folder: expected run\.toml"):
        load_network(tmp_path)


def test_nothing_but_tensors_and_plain_values(saved):
    """What torch loads with weights_only=True and no exceptions made."""

    def kinds(value):
        if isinstance(value, dict | list):
            values = value.values() if isinstance(value, dict) else value
            return set().union(*map(kinds, values))
        return {type(value)}

    assert kinds(torch.load(saved[0], weights_only=True)) <= {torch.Tensor, int, float, str, bool}


def test_length_and_place_of_a_run_may_change_and_nothing_else(saved):
    path, _, settings = saved
    file = Path(settings.out) / "run.toml"
    settings.model_copy(update={"steps": 99, "out": "elsewhere"}).write(file)
    assert load_network(settings.out).settings.steps == 99
    settings.model_copy(update={"map": "dice"}).write(file)
    with pytest.raises(
        RWLossError, match=r"settings other than .*: map 'rectified' \(now 'dice'\); put"
    ):
        load_network(settings.out)
    settings.write(file)
    save_checkpoint(path, unet(2, 2, 3, preset="small").state_dict(), settings, TASK, 7)
    with pytest.raises(RWLossError, match="belongs to another network than"):
        load_network(settings.out)


def test_damaged_files(saved):
    path, network, settings = saved
    whole = path.read_bytes()
    for keep in (0, 10, 1000, -200):
        path.write_bytes(whole[:keep])
        with pytest.raises(RWLossError, match="is not a checkpoint, or it is damaged"):
            load_network(settings.out)
    weights, refused = network.state_dict(), 0
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = load_network(settings.out).network.state_dict()
        except RWLossError:
            refused += 1
        else:  # a bit of the padding between the arrays
            assert all(torch.equal(found[name], weights[name]) for name in weights), place
    assert refused > 50
    method = whole.rindex(b"PK\1\2") + 10  # of compression, in the archive's directory: deflated
    path.write_bytes(whole[:method] + b"\x08" + whole[method + 1 :])
    with pytest.raises(RWLossError, match="is not a checkpoint, or it is damaged"):
        load_network(settings.out)
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(RWLossError, match=r"damaged \(best\.pt is not a regular file"):
            load_network(settings.out)


def test_entries_that_are_missing_or_of_another_type(saved):
    """One sentence that names the entry."""
    path, _, settings = saved
    content = torch.load(path, weights_only=True)
    for changes, message in (
        ({"layout": 3}, r"version of rwloss \(layout must be 1 or 2, got 3\)"),
        ({"weights": None}, r"\(weights must be a valid dictionary"),
        ({"weights": {"a": "b"}}, r"\(weights\.a must be an instance of Tensor"),
        ({"step": "seven"}, r"\(step must be a valid integer"),
        ({"step": -1}, r"\(step must be greater than or equal to 0"),
        ({"task": {"in_channels": 1}}, r"\(task\.num_classes is missing\)"),
        ({"task": {**content["task"], "in_channels": -3}}, r"\(task\.in_channels must be greater"),
        ({"task": {**content["task"], "num_classes": 60_000}}, "belongs to another network than"),
        ({"settings": {"data": "in", "steps": "x"}}, r"best\.pt': (out|steps) "),
        ({"state": {"step": []}, "optimizer": {}}, r"\(state\.step must"),
        ({"state": {"best_score": math.nan}}, r"\(state\.best_score must be a finite"),
    ):
        torch.save({**content, **changes}, path)
        with pytest.raises(RWLossError, match=message) as refused:
            load_network(settings.out)
        assert "\n" not in str(refused.value)
    for name in content:
        torch.save({key: value for key, value in content.items() if key != name}, path)
        with pytest.raises(RWLossError, match=rf"\({name} is missing\)"):
            load_network(settings.out)
    torch.save(torch.zeros(3), path)
    with pytest.raises(RWLossError, match="not a checkpoint of this version"):
        load_network(settings.out)


def test_weights_that_are_not_finite(saved):
    """As flipped bits; an archive's checksums can't tell."""
    path, network, settings = saved
    content = torch.load(path, weights_only=True)
    name = list(content["weights"])[-1]
    for value in (math.nan, math.inf):
        weights = {key: weight.clone() for key, weight in content["weights"].items()}
        weights[name].view(-1)[-1] = value
        torch.save({**content, "weights": weights}, path)
        message = rf"best\.pt' is damaged: weight {name} is not finite \(NaN or infinity\); put"
        with pytest.raises(RWLossError, match=message):
            load_network(settings.out)
        with pytest.raises(RWLossError, match=message):  # as a run does that is resumed
            restore_weights(network, load_checkpoint(path, settings), path)


def test_an_optimizer_that_is_not_that_of_the_run():
    optimizer = torch.optim.Adam(unet(2, 1, 2).parameters())
    groups = optimizer.state_dict()["param_groups"]
    short = {"weights": [0], "shapes": [(3,)], "values": torch.zeros(2)}
    for state in (
        {},
        {"state": {}, "param_groups": 3},
        {"state": {}, "param_groups": [{}]},
        {"state": {0: {}}, "folded": {"step": short}, "param_groups": groups},
    ):
        with pytest.raises(RWLossError, match=r"the optimizer in 'last.pt' is not that of the run"):
            restore_optimizer(optimizer, state, Path("last.pt"))
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights[-1].grad = torch.full_like(weights[-1], torch.nan)
    optimizer.step()
    with pytest.raises(RWLossError, match="it contains NaN"):
        restore_optimizer(optimizer, optimizer.state_dict(), Path("last.pt"))


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD", "Adadelta"])
def test_the_state_of_an_optimizer_is_few_tensors_in_the_file(kind, saved):
    """Those of the optimizer again after reading, and after reading a file of an earlier version.

    One has weights without gradients, and so without state.
    """
    path, network, settings = saved
    more = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(network.parameters(), lr=0.01, **more)

    network(torch.ones(1, 2, 16, 16)).square().sum().backward()
    next(network.parameters()).grad = None
    optimizer.step()
    wanted = optimizer.state_dict()
    weights = network.state_dict()
    save_checkpoint(path, weights, settings, TASK, 7, optimizer=wanted)
    found = load_checkpoint(path, settings)
    assert all(map(torch.equal, found.weights.values(), weights.values()))
    memories = {weight.untyped_storage().data_ptr() for weight in found.weights.values()}
    assert len(memories) == len(weights)
    with zipfile.ZipFile(path) as archive:
        assert sum("/data/" in name for name in archive.namelist()) <= 10
    before = {"layout": 1, "optimizer": wanted, "weights": weights}
    torch.save({**torch.load(path, weights_only=True), **before}, path)
    for checkpoint in (found, load_checkpoint(path, settings)):
        other = getattr(torch.optim, kind)(network.parameters(), lr=0.5, **more)
        restore_optimizer(other, checkpoint.optimizer, path)
        left = other.state_dict()
        assert left["param_groups"] == wanted["param_groups"]
        assert left["state"].keys() == wanted["state"].keys()
        for at, values in wanted["state"].items():
            assert left["state"][at].keys() == values.keys()
            for name, value in values.items():
                torch.testing.assert_close(left["state"][at][name], value, rtol=0, atol=0)


def test_only_weights_are_read_on_the_device(saved):
    """An optimizer would wait for a GPU at each step that is counted there."""
    path, network, settings = saved
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2, 16, 16)).square().sum().backward()
    optimizer.step()
    save_checkpoint(path, network.state_dict(), settings, TASK, 7, optimizer=optimizer.state_dict())
    found = load_checkpoint(path, settings, "meta")
    assert {each.device.type for each in found.weights.values()} == {"meta"}
    restore_optimizer(optimizer, found.optimizer, path)
    assert {state["step"].device.type for state in optimizer.state.values()} == {"cpu"}


def test_code_in_a_file_does_not_run(saved, tmp_path):
    """A pickle that would make a folder when it is read the usual way."""
    path, _, settings = saved

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    buffer = io.BytesIO()
    torch.save({"layout": 1, "trap": Trap()}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(RWLossError, match="is not a checkpoint"):
        load_network(settings.out)
    assert not (tmp_path / "trapped").exists()


def test_a_checkpoint_that_can_not_be_written_leaves_the_one_of_before(saved, monkeypatch):
    """The disk is full, or a weight is not finite."""
    path, network, settings = saved
    before = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RWLossError, match=r"cannot write .*No space left"):
        save_checkpoint(path, network.state_dict(), settings, TASK, 8)
    assert os.listdir(path.parent) == ["best.pt"]
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(RWLossError, match="not finite after step 8: training has diverged"):
        save_checkpoint(path, network.state_dict(), settings, TASK, 8)
    assert path.read_bytes() == before
