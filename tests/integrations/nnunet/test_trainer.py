"""nnU-Net's own classes with our loss: plans, networks, steps, the search by name."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nnunet_plans
import pytest
import torch
from loss_batches import assert_same, value_and_gradient
from nnunet_plans import batch_of

import rwloss
from rwloss import RegionWiseLoss, RWLossError
from rwloss.cli import main
from rwloss.integrations.nnunet import trainers_folder

ROOT = Path(rwloss.__file__).parent
TEXTS = {
    "nnUNetTrainerRW": "0.5 * rectified + cross_entropy",  # in these tests
    "nnUNetTrainerRectifiedDice": "rectified + dice",
    "nnUNetTrainerBoundaryDice": "dice + 0.01 * boundary",
}


SETTINGS = {"labels": {}, "ignore": {"ignore": True}, "regions": {"regions": True}}
SETTINGS["regions, ignore"] = SETTINGS["ignore"] | SETTINGS["regions"]


@pytest.mark.parametrize("labels", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_steps_lower_the_loss(trainer_of, configuration, labels):
    """nnU-Net's train_step and validation_step, with deep supervision."""
    trainer = trainer_of(configuration, **labels)
    trainer.on_train_epoch_start()
    losses = [float(trainer.train_step(batch_of(trainer))["loss"]) for _ in range(3)]
    assert losses[2] < losses[0]
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        found = trainer.validation_step(batch_of(trainer))
    assert len(found["tp_hard"]) == 2
    assert float(found["loss"]) < losses[2]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_without_deep_supervision_it_is_region_wise_loss(
    trainer_of, configuration, name, monkeypatch
):
    monkeypatch.setenv("RWLOSS_MAP", TEXTS["nnUNetTrainerRW"])
    trainer = trainer_of(configuration, name, deep=False)
    batch = batch_of(trainer)
    assert batch["target"].dtype == torch.int16
    spacing = {"2d": (0.5, 1.0), "3d_fullres": (3.0, 0.5, 1.0)}[configuration]
    plan = trainer.configuration_manager
    plain = RegionWiseLoss(TEXTS[name], spacing_mm=spacing, batch=plan.batch_dice)
    logits = trainer.network(batch["data"]).detach()
    found = value_and_gradient(trainer.loss, logits, batch["target"])
    assert_same(found, value_and_gradient(plain, logits, batch["target"]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # of inductor
@pytest.mark.parametrize(("ddp", "compiled"), [(False, False), (True, False), (True, True)])
def test_deep_supervision_is_nnunets_wrapper_around_our_loss(
    trainer_of, monkeypatch, ddp, compiled
):
    """Its weights, its outputs and its labels; spacing of each resolution."""
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: compiled)
    trainer = trainer_of("3d_fullres", "nnUNetTrainerBoundaryDice", ddp=ddp)
    stock = nnUNetTrainer._build_loss(trainer)
    assert isinstance(stock, DeepSupervisionWrapper)
    weights = trainer.loss.deep_supervision_weights
    assert weights == pytest.approx(stock.weight_factors)
    assert len(weights) == 2
    assert (weights[-1] > 0) is (ddp and not compiled)
    batch = batch_of(trainer)
    outputs = trainer.network(batch["data"])
    spacings = [(3.0, 0.5, 1.0), (3.0, 1.0, 2.0)]
    pooled = trainer.configuration_manager.batch_dice
    naive = sum(
        weight
        * RegionWiseLoss("dice + 0.01 * boundary", spacing_mm=spacing, batch=pooled)(output, target)
        for weight, spacing, output, target in zip(
            stock.weight_factors, spacings, outputs, batch["target"], strict=True
        )
    )
    torch.testing.assert_close(trainer.loss(outputs, batch["target"]), naive)


def test_batch_dice_is_that_of_nnunet(trainer_of, monkeypatch):
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    monkeypatch.setenv("RWLOSS_MAP", "dice(include_background=False)")
    for pooled in (False, True):
        trainer = trainer_of("2d", "nnUNetTrainerRW", deep=False)
        trainer.configuration_manager.configuration["batch_dice"] = pooled
        loss = trainer._build_loss()
        theirs = MemoryEfficientSoftDiceLoss(
            apply_nonlin=lambda x: x.softmax(1),
            batch_dice=pooled,
            do_bg=False,
            smooth=1e-5,
            ddp=False,
        )
        batch = batch_of(trainer)
        logits = 3 * torch.randn(2, 3, *batch["target"].shape[2:])
        # Theirs is the negative Dice, ours one minus Dice.
        torch.testing.assert_close(
            loss(logits, batch["target"]), 1 + theirs(logits, batch["target"])
        )


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_network_compiles_to_one_graph_beside_the_loss(trainer_of, configuration):
    trainer = trainer_of(configuration)
    plain = trainer_of(configuration)
    trainer.network = torch.compile(trainer.network, backend="eager", fullgraph=True)
    batch = batch_of(plain)
    for _ in range(2):
        found, wanted = (each.train_step(batch)["loss"] for each in (trainer, plain))
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_every_output_has_a_gradient_in_ddp(trainer_of):
    """DDP stops at a parameter without one."""
    for ddp in (False, True):
        trainer = trainer_of("2d", ddp=ddp)
        batch = batch_of(trainer)
        trainer.loss(trainer.network(batch["data"]), batch["target"]).backward()
        without = [name for name, p in trainer.network.named_parameters() if p.grad is None]
        assert bool(without) is not ddp


def test_schedules_follow_nnunets_epochs(trainer_of, monkeypatch):
    monkeypatch.setenv("RWLOSS_MAP", "blend(dice, boundary, step=None)")
    trainer = trainer_of("2d", "nnUNetTrainerRW")
    for epoch in (0, 500, 999):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        assert (trainer.loss.epoch, trainer.loss.total_epochs) == (epoch, 1000)


def test_the_log_says_what_is_trained_with(trainer_of, capsys):
    trainer = trainer_of("3d_fullres")
    line = "rwloss: rectified + dice, spacing [3.0, 0.5, 1.0] mm"
    assert capsys.readouterr().out.count(line) == 1
    assert Path(trainer.log_file).read_text().count(line) == 1


def test_the_variable_of_one_trainer(trainer_of, monkeypatch):
    """Only that trainer reads it; it is named where it is missing or does not parse."""
    for text, message in (
        (None, r"RWLOSS_MAP='rectified \+ dice'"),
        ("  ", r"RWLOSS_MAP='rectified \+ dice'"),
        ("rectifed + dice", "RWLOSS_MAP: map, column 1: unknown map 'rectifed'"),
    ):
        if text is not None:
            monkeypatch.setenv("RWLOSS_MAP", text)
        with pytest.raises(RWLossError, match=message):
            trainer_of("2d", "nnUNetTrainerRW")
    monkeypatch.setenv("RWLOSS_MAP", "active_contour")
    assert str(trainer_of("2d").loss.expression) == "rectified + dice"
    assert str(trainer_of("2d", "nnUNetTrainerRW").loss.expression) == "active_contour"


def test_no_plan_or_checkpoint_chooses_the_map(trainer_of, monkeypatch, tmp_path):
    """Only the variable and the class do, whatever files from others say."""
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')")
    names = ("RWLOSS_MAP", "rwloss_map", "map", "loss", "expression", "rwloss_expression")
    told = dict.fromkeys(names, f"{evil}:Evil")
    plans, dataset = nnunet_plans.plans(), nnunet_plans.dataset_json()
    for content in (plans, dataset, plans["configurations"]["2d"]):
        content.update(told)
    monkeypatch.setattr(nnunet_plans, "plans", lambda: plans)
    monkeypatch.setattr(nnunet_plans, "dataset_json", lambda **_: dataset)
    monkeypatch.setenv("RWLOSS_MAP", "active_contour")
    trainer = trainer_of("2d", "nnUNetTrainerRW")
    trainer.was_initialized = True
    trainer.save_checkpoint(str(tmp_path / "saved.pth"))
    content = torch.load(tmp_path / "saved.pth", weights_only=False)
    content |= told | {"init_args": content["init_args"] | told}
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(RWLossError, match=r"was trained with .*evil.py:Evil, and this run uses"):
        trainer.load_checkpoint(str(tmp_path / "changed.pth"))
    assert str(trainer.rwloss_expression()) == str(trainer.loss.expression) == "active_contour"
    assert not (tmp_path / "it_ran").exists()


FIND = """
import sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
for name in sys.argv[1:]:
    found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name
    assert found.__module__ == "rwloss.integrations.nnunet.trainer", found
"""


def test_nnunet_finds_the_trainers_in_the_folder(nnunet, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rwloss", "nnunet-path"])
    with pytest.raises(SystemExit):
        main()
    folder = capsys.readouterr().out.rstrip("\n")
    done = subprocess.run(
        [sys.executable, "-c", FIND, *TEXTS],
        env={**os.environ, "nnUNet_extTrainer": folder},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"Using trainer 'nnUNetTrainerRW' from: {folder}") == 1


def test_the_folder_holds_what_nnunet_may_import():
    """nnU-Net imports each module of it."""
    modules = [path.name for path in trainers_folder().glob("**/*.py")]
    assert modules == ["rwloss_trainers.py"]


def test_nnunet_is_imported_where_its_classes_are_extended():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if re.search(r"^ *(from|import) nnunetv2", path.read_text("utf-8"), flags=re.MULTILINE)
    }
    assert found == {"integrations/nnunet/trainer.py", "integrations/nnunet/whole.py"}


class Missing:
    """An importer that knows of no nnU-Net, and lets no other look for it."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nnunetv2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_nnunet_the_trainers_say_what_to_install(monkeypatch):
    ours = "rwloss.integrations.nnunet.trainer"
    for name in list(sys.modules):
        if name.split(".")[0] == "nnunetv2" or name == ours:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rwloss\[nnunet\]'") as raised:
        import_module(ours)
    assert raised.value.name == "nnunetv2"
