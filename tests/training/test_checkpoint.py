"""Checkpoints: plain values, whole files, and no mistaking one run's for another's."""

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from rwloss import RWLossError
from rwloss.training import SegmentationTask, load_network, unet
from rwloss.training import network as checkpoints

TASK = SegmentationTask(2, 3, ("background", "a", "b"))


@pytest.fixture
def saved(tmp_path, settings_of):
    """A run folder with the best checkpoint of step 7, and its network."""
    settings = settings_of("in")
    path = Path(settings.out) / "checkpoints" / "best.pt"
    path.parent.mkdir(parents=True)
    settings.write(Path(settings.out) / "run.toml")
    network = unet(2, 2, 3, seed=5)
    checkpoints.save_checkpoint(path, network, settings, TASK, 7)
    return path, network, settings


def test_a_network_comes_back_ready_to_predict(saved):
    _, network, settings = saved
    found = load_network(settings.out)
    assert (found.settings, found.task, found.step) == (settings, TASK, 7)
    assert not found.network.training
    images = torch.randn(1, 2, 16, 16)
    network.eval()
    assert torch.equal(found.network(images), network(images))
    with pytest.raises(RWLossError, match=r"no checkpoint '.*last\.pt'"):
        load_network(settings.out, which="last")


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RWLossError, match=r"is not a run folder: expected run\.toml"):
        load_network(tmp_path)


def test_nothing_but_tensors_and_plain_values(saved):
    """What torch loads with weights_only=True and no exceptions made."""
    content = torch.load(saved[0], weights_only=True)

    def kinds(value):
        if isinstance(value, dict):
            return {kind for each in value.values() for kind in kinds(each)}
        if isinstance(value, list):
            return {kind for each in value for kind in kinds(each)}
        return {type(value)}

    assert kinds(content) <= {torch.Tensor, int, float, str, bool}


def test_length_and_place_of_a_run_may_change(saved):
    _, _, settings = saved
    longer = settings.model_copy(update={"steps": 99, "out": "elsewhere"})
    longer.write(Path(settings.out) / "run.toml")
    assert load_network(settings.out).settings.steps == 99


def test_checkpoint_of_another_configuration(saved):
    _, _, settings = saved
    other = settings.model_copy(update={"map": "dice"})
    other.write(Path(settings.out) / "run.toml")
    with pytest.raises(
        RWLossError, match=r"settings other than .*: map 'rectified' \(now 'dice'\); put"
    ):
        load_network(settings.out)


def test_weights_of_another_network(saved):
    path, _, settings = saved
    wider = unet(2, 2, 3, preset="small")
    checkpoints.save_checkpoint(path, wider, settings, TASK, 7)
    with pytest.raises(RWLossError, match="is of another network than"):
        load_network(settings.out)


@pytest.mark.parametrize("keep", [0, 10, 1000, -200])
def test_damaged_files(saved, keep):
    path, _, settings = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RWLossError, match="is not a checkpoint, or it is damaged"):
        load_network(settings.out)


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


def test_other_things_of_torch(saved):
    path, _, settings = saved
    torch.save(torch.zeros(3), path)
    with pytest.raises(RWLossError, match="not a checkpoint of this version"):
        load_network(settings.out)


def test_weights_that_are_not_finite_are_not_saved(saved):
    path, network, settings = saved
    before = path.read_bytes()
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(RWLossError, match="not finite after step 8: training has diverged"):
        checkpoints.save_checkpoint(path, network, settings, TASK, 8)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_checkpoint_of_before(saved, monkeypatch):
    path, network, settings = saved
    before = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RWLossError, match=r"cannot write .*No space left"):
        checkpoints.save_checkpoint(path, network, settings, TASK, 8)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["best.pt"]
