"""Trainers of nnU-Net made from plans, without files and with a few small ones."""

import random
from importlib.util import find_spec

import nnunet_plans
import numpy as np
import pytest
import torch


@pytest.fixture
def nnunet():
    if find_spec("nnunetv2") is None:
        pytest.skip("nnunetv2 is not installed: `make test-nnunet` has an environment with it")


@pytest.fixture(autouse=True)
def seeded():
    """The generators that nnU-Net draws cases, crops and augmentations from."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture
def trainer_of(nnunet, tmp_path, monkeypatch):
    """A function that makes a trainer of ours from plans, as nnU-Net does, with its network."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("RWLOSS_MAP", raising=False)

    def make(
        configuration,
        name="nnUNetTrainerRectifiedDice",
        *,
        deep=True,
        ddp=False,
        resume=False,
        **labels,
    ):
        from rwloss.integrations import nnunet

        plans = nnunet_plans.plans() | {"continue_training": resume}
        dataset = nnunet_plans.dataset_json(**labels)
        kind = getattr(nnunet, name)
        trainer = kind(plans, configuration, 0, dataset, torch.device("cpu"))
        trainer.enable_deep_supervision = deep
        trainer.is_ddp = ddp
        torch.manual_seed(0)
        trainer.network = trainer.build_network_architecture(
            trainer.plans_manager,
            trainer.configuration_manager,
            1,
            trainer.label_manager.num_segmentation_heads,
            deep,
        )
        trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
        trainer.loss = trainer._build_loss()
        return trainer

    return make


@pytest.fixture
def cases(trainer_of, tmp_path, monkeypatch):
    """A function that writes six preprocessed cases of a configuration; their labels by name."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def write(configuration):
        return nnunet_plans.write_cases(tmp_path / "preprocessed", configuration)

    return write
