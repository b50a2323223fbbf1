"""What papers set: epochs, plateaus, SGD, the last checkpoint, float16 with a scaler."""

from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from training_runs import assert_same, left_by

from rwloss import RWLossError
from rwloss.training import RunFolder, RunSettings, TrainingProgress, prepare, train
from rwloss.training import run as runs
from rwloss.training.environment import fabric_of
from rwloss.training.optimizers import optimizer_of

PLATEAU = {"learning_rate_schedule": "plateau", "plateau_patience": 1, "validate_every": 1}


class Stopped(TrainingProgress):
    """Stops the run after a step, as a kill would."""

    def __init__(self, after):
        self.after = after

    def step(self, step, loss):
        if step == self.after:
            raise KeyboardInterrupt


def ends_alike(settings, tmp_path, *, after):
    """Train without a stop and with one; both must leave the same. Returns the run."""
    whole = settings.model_copy(update={"out": str(tmp_path / "whole")})
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(settings, Stopped(after))
    train(settings)
    assert_same(left_by(whole.out), left_by(settings.out))
    return RunFolder(whole.out)


def test_a_resumed_plateau_ends_as_an_undisturbed_one(squares, settings_of, tmp_path):
    """With SGD, whose momentum is in the checkpoint too."""
    settings = settings_of(
        squares, **PLATEAU, steps=6, checkpoint_every=1, learning_rate=1e-6, optimizer="sgd"
    )
    folder = ends_alike(settings, tmp_path, after=4)
    state = torch.load(folder.last, weights_only=True)["state"]
    bests = [line["is_best"] for line in folder.lines() if line["kind"] == "validation"]
    assert state["plateaus"] == bests.count(False) > 0


def test_processes_follow_the_plateaus_of_the_first(squares, settings_of):
    """Only the first validates: one that counted by itself would train at another rate."""
    settings = settings_of(squares, **PLATEAU, steps=2)
    second = runs.Start(fabric_of(settings), prepare(settings), [])
    answers = {"words of a failure": None, "plateaus": 3}
    second.fabric = SimpleNamespace(
        is_global_zero=False, broadcast=lambda own: answers.pop(next(iter(answers)))
    )
    second.after_step(1, None)
    assert second.state.plateaus == 3
    assert not answers


def test_plateaus_need_validation_cases(squares, settings_of):
    with pytest.raises(RWLossError, match="plateau follows the score on validation cases"):
        prepare(settings_of(squares, **PLATEAU, validation_fraction=0))


def test_an_epoch_is_one_pass_over_slices_or_volumes(boxes, squares, tmp_path):
    def lengths(data, **given):
        least = {"data": str(data), "out": str(tmp_path / "run"), "map": "rectified"}
        found = prepare(RunSettings(**least, **given)).settings
        assert found.epochs is None
        return found.steps, found.steps_per_epoch, found.validate_every, found.num_epochs

    assert lengths(boxes, epochs=3, batch_size=5) == (9, 3, 3, 3)  # 3 volumes of 4 slices
    assert lengths(boxes, epochs=3, batch_size=2, dims=3) == (6, 2, 2, 3)
    assert lengths(squares, epochs=2, batch_size=2) == (6, 3, 3, 2)
    assert lengths(squares, epochs=2, steps_per_epoch=7, validate_every=5) == (14, 7, 5, 2)


def test_the_last_checkpoint_is_tested_if_asked(squares, settings_of):
    """Where the best is an earlier one: of equal scores, the first is."""
    settings = settings_of(squares, steps=3, validate_every=1, learning_rate=1e-9)
    result = train(settings.model_copy(update={"test_checkpoint": "last"}))
    folder = RunFolder(settings.out)
    assert torch.load(folder.best, weights_only=True)["step"] == 1
    assert result.best_step == 3
    assert folder.read_test()["predictions"].endswith("last.pt")


def test_optimizers_are_torch_s_with_the_settings():
    network = torch.nn.Linear(2, 1)
    least = {"data": "", "out": "", "weight_decay": 0.1}
    sgd = optimizer_of(
        RunSettings(**least, optimizer="sgd", momentum=0.99, nesterov=True), network
    ).defaults
    assert (sgd["momentum"], sgd["nesterov"], sgd["weight_decay"]) == (0.99, True, 0.1)
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        made = optimizer_of(RunSettings(**least, optimizer=name, betas=(0.8, 0.9)), network)
        assert type(made) is kind
        assert (made.defaults["betas"], made.defaults["weight_decay"]) == ((0.8, 0.9), 0.1)


def test_float16_scales_the_loss_and_keeps_the_scale(squares, settings_of, tmp_path, monkeypatch):
    """By torch's scaler on the CPU; the record is of unscaled gradients."""
    settings = settings_of(squares, steps=4, checkpoint_every=1, gradient_clip=1.0, record_every=1)
    plain = settings.model_copy(update={"out": str(tmp_path / "plain")})
    train(plain)
    with pytest.raises(RWLossError, match="16-mixed needs an NVIDIA or AMD GPU"):
        fabric_of(settings.model_copy(update={"precision": "16-mixed"}))

    def half(settings):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        return Fabric(accelerator="cpu", devices=1, plugins=[precision])

    monkeypatch.setattr(runs, "fabric_of", half)
    folder = ends_alike(settings, tmp_path, after=3)
    assert torch.load(folder.last, weights_only=True)["scaler"]["scale"] == 4096.0
    norms = [
        [line["gradient_norm"] for line in RunFolder(out).lines() if line["kind"] == "record"]
        for out in (plain.out, folder.path)
    ]
    assert norms[1][0] == pytest.approx(norms[0][0], rel=0.05)
