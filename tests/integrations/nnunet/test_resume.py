"""What a checkpoint and a result folder say of the map; whole runs through nnU-Net's own loop."""

import re
from dataclasses import replace
from pathlib import Path

import nnunet_plans
import numpy as np
import pytest
import torch

from rwloss import RWLossError, maps
from rwloss.stability import alarm
from rwloss.stability.alarm import LOOKS, judge

NAME = "nnUNetTrainerRW-0.5-rectified-cross_entropy-d1e5bf"


@pytest.fixture
def run(trainer_of, cases, monkeypatch):
    """A function that trains for one epoch through nnU-Net's own functions, and gives the trainer.

    With the alarm, as the page of alarms writes it, where it is asked for.
    """
    from nnunetv2.run.run_training import maybe_load_checkpoint

    from rwloss.integrations import nnunet

    cases("2d")

    def train(text, name="nnUNetTrainerRW", *, resume=False, alarm=False, iterations=2):
        monkeypatch.setenv("RWLOSS_MAP", text)
        if alarm:
            mine = type(f"{name}Watched", (nnunet.NnunetAlarm, getattr(nnunet, name)), {})
            monkeypatch.setattr(nnunet, mine.__name__, mine, raising=False)
            name = mine.__name__
        trainer = trainer_of("2d", name, resume=resume)
        trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = iterations, 1
        trainer.num_epochs = 1
        maybe_load_checkpoint(trainer, resume, validation_only=False)
        trainer.run_training()
        return trainer

    return train


def test_the_folder_and_the_checkpoint_name_the_map(run, capsys):
    first = run("0.5 * rectified + cross_entropy")
    folder = Path(first.output_folder)
    assert folder.parent.name == f"{NAME}__nnUNetPlans__2d"
    assert first.log_file.startswith(first.output_folder)
    assert f"rwloss: predict with -tr {NAME}" in capsys.readouterr().out
    saved = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    assert saved["init_args"]["rwloss_map"] == "0.5 * rectified + cross_entropy"
    # What prediction finds the class by; `-tr` of nnUNetv2_predict is the name of the folder alone.
    assert saved["trainer_name"] == "nnUNetTrainerRW"
    second = run("rectified + cross_entropy")
    assert Path(second.output_folder).parent != folder.parent
    assert {each.name for each in folder.parent.parent.iterdir()} == {
        folder.parent.name,
        Path(second.output_folder).parent.name,
    }


def test_resuming_asks_for_the_same_map(run, monkeypatch):
    folder = Path(run("rectified + dice", "nnUNetTrainerRectifiedDice").output_folder)
    assert folder.parent.name == "nnUNetTrainerRectifiedDice__nnUNetPlans__2d"
    from rwloss.integrations.nnunet import nnUNetTrainerRectifiedDice

    again = run("unused", "nnUNetTrainerRectifiedDice", resume=True)
    assert again.current_epoch == 1
    monkeypatch.setattr(nnUNetTrainerRectifiedDice, "rwloss_map", "dice + rectified(scope='image')")
    run("unused", "nnUNetTrainerRectifiedDice", resume=True)  # the same in other words
    monkeypatch.setattr(nnUNetTrainerRectifiedDice, "rwloss_map", "boundary")
    before = (folder / "checkpoint_final.pth").read_bytes()
    with pytest.raises(RWLossError, match=r"trained with dice \+ rectified, .* uses boundary"):
        run("unused", "nnUNetTrainerRectifiedDice", resume=True)
    assert (folder / "checkpoint_final.pth").read_bytes() == before


def test_what_an_older_rwloss_wrote_is_resumed_with_a_sentence(run, capsys):
    """Its folder has no map in its name, and its checkpoint keeps none."""
    folder = Path(run("0.5 * rectified + cross_entropy").output_folder)
    old = folder.parent.with_name("nnUNetTrainerRW__nnUNetPlans__2d") / folder.name
    file = folder / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    del content["init_args"]["rwloss_map"]
    torch.save(content, file)
    folder.parent.rename(old.parent)
    capsys.readouterr()
    resumed = run("0.5 * rectified + cross_entropy", resume=True)
    assert resumed.output_folder == str(old)
    assert "does not record which map it was trained with" in capsys.readouterr().out
    saved = torch.load(old / file.name, weights_only=False)
    assert saved["init_args"]["rwloss_map"] == "0.5 * rectified + cross_entropy"
    # A new run does not write there.
    assert run("0.5 * rectified + cross_entropy").output_folder == str(folder)


def test_names_of_results(nnunet):
    from rwloss.integrations.nnunet import result_name

    texts = [
        "rectified + dice", "rectified - dice", "0.01 * boundary", "0.1 * boundary",
        "boundary(convention='valverde').stabilized() + dice(include_background=False)",
        "class_weighted(weights=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0))",
    ]  # fmt: skip
    names = [result_name("nnUNetTrainerRW", text) for text in texts]
    assert len(set(names)) == len(texts)
    for text, name in zip(texts, names, strict=True):
        assert re.fullmatch(r"nnUNetTrainerRW-[\w.-]{1,60}-[0-9a-f]{6}", name)
        assert "__" not in name  # nnU-Net splits the name of a folder there
        assert name == result_name("nnUNetTrainerRW", maps.parse(text))
    page = Path(__file__).parents[3] / "docs" / "nnunet.md"
    assert f"-tr {result_name('nnUNetTrainerRWAdded', '0.01 * boundary')} " in page.read_text()


def test_cascades_are_refused(trainer_of, monkeypatch):
    plans = nnunet_plans.plans()
    plans["configurations"]["3d_lowres"] = {
        **plans["configurations"]["3d_fullres"], "next_stage": "3d_cascade_fullres",
    }  # fmt: skip
    plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres", "previous_stage": "3d_lowres",
    }  # fmt: skip
    monkeypatch.setattr(nnunet_plans, "plans", lambda: plans)
    trainer_of("3d_lowres")
    with pytest.raises(RWLossError, match=r"3d_cascade_fullres is the second stage of a cascade"):
        trainer_of("3d_cascade_fullres")


# nnU-Net divides 0 by 0 for its pseudo Dice where a class is in neither labels nor prediction.
@pytest.mark.filterwarnings("ignore::RuntimeWarning:nnunetv2")
@pytest.mark.parametrize("name", ["nnUNetTrainerRW", "nnUNetTrainerRWAdded"])
def test_alarm_of_a_real_run(run, name, monkeypatch):
    """It sees every step of the training, and none of the validation; the log holds its words.

    Every class is alarming here: which are in fact is for the tests of the fitted models.
    """
    strict = {look: replace(judge(look), threshold=-1.0) for look in LOOKS}
    monkeypatch.setattr(alarm, "judge", strict.__getitem__)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # nnU-Net draws from the global state
    trainer = run("boundary", name, alarm=True, iterations=60)
    assert trainer.rwloss_watch.step == 60
    log = Path(trainer.log_file).read_text()
    assert "no alarms in this run" not in log
    said = [line for line in log.splitlines() if "rwloss: " in line and " is " in line]
    assert len(said) == len(trainer.rwloss_watch.alarms)
    assert any("core is " in line for line in said)


@pytest.mark.parametrize("name", ["nnUNetTrainerRW", "nnUNetTrainerRWAdded"])
@pytest.mark.parametrize("labels", [{"ignore": True}, {"regions": True, "ignore": True}], ids=str)
def test_alarm_sees_regions_and_ignored_voxels(trainer_of, monkeypatch, name, labels):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from rwloss.integrations import nnunet

    monkeypatch.setenv("RWLOSS_MAP", "boundary")
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)  # it reads files
    mine = type("Mine", (nnunet.NnunetAlarm, getattr(nnunet, name)), {})
    monkeypatch.setattr(nnunet, "Mine", mine, raising=False)
    trainer = trainer_of("2d", "Mine", **labels)
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 12
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    for _ in range(12):
        trainer.train_step(nnunet_plans.batch_of(trainer))
    assert trainer.rwloss_watch.step == 12
    assert "no alarms in this run" not in Path(trainer.log_file).read_text()
