"""The alarms of Lightning, ignite, MONAI and nnU-Net's mixin: one line, and the class is named."""

import logging
import warnings

import pytest
import torch

from rwloss import RegionWiseLoss, RWLossError
from rwloss.integrations.alarms import IgniteAlarm, LightningAlarm, NnunetAlarm

IMAGES = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(4, 16, 16, dtype=torch.long)
LABELS[:, 2:9, 2:9], LABELS[:, 12:14, 12:14] = 1, 2


class Losing(RegionWiseLoss):
    """Class 2 is pushed down everywhere but at its own voxels."""

    def forward(self, logits, target):
        probs = logits.softmax(dim=1)
        return super().forward(logits, target) + 30 * (probs[:, 2] * (target != 2)).mean()


NAMES = ("background", "organ", "lesion")


def test_lightning(caplog):
    lightning = pytest.importorskip("lightning", reason="needs lightning")

    class Segmentation(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.loss = torch.nn.Conv2d(1, 3, 3, padding=1), Losing("rectified")

        def training_step(self, batch):
            return self.loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 3e-2)

    alarm = LightningAlarm(class_names=NAMES)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES, LABELS), 4)
    with caplog.at_level(logging.WARNING, "rwloss.stability"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=30, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, callbacks=[alarm],
        )  # fmt: skip
        trainer.fit(Segmentation(), loader)
        assert alarm.watch.step == 30
        assert "lesion is " in caplog.text
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            callbacks=[LightningAlarm("criterion")],
        )  # fmt: skip
        with pytest.raises(RWLossError, match="no attribute 'criterion'"):
            trainer.fit(Segmentation(), loader)


@pytest.fixture
def engines():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("ignite.engine", reason="needs ignite")


def test_ignite(engines, caplog):
    network, loss = torch.nn.Conv2d(1, 3, 3, padding=1), Losing("rectified")
    optimizer = torch.optim.Adam(network.parameters(), 3e-2)

    def step(engine, batch):
        optimizer.zero_grad()
        loss(network(IMAGES), LABELS).backward()
        optimizer.step()

    engine, alarm = engines.Engine(step), IgniteAlarm(loss, NAMES)
    alarm.attach(engine)
    with caplog.at_level(logging.WARNING, "rwloss.stability"):
        engine.run(range(10), max_epochs=3)
    assert alarm.watch.step == 30
    assert "lesion is " in caplog.text
    loss(network(IMAGES), LABELS)  # after the run nobody watches
    assert alarm.watch.step == 30
    bare = engines.Engine(step)
    IgniteAlarm().attach(bare)
    with pytest.raises(RWLossError, match=r"give IgniteAlarm\(loss\)"):
        bare.run(range(1))


def test_monai(engines, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainers = pytest.importorskip("monai.engines", reason="needs monai")
        network, alarm = torch.nn.Conv2d(1, 3, 3, padding=1), IgniteAlarm(class_names=NAMES)
        samples = [{"image": IMAGES, "label": LABELS[:, None]}] * 10
        trainer = trainers.SupervisedTrainer(
            device=torch.device("cpu"), max_epochs=3, train_data_loader=samples, network=network,
            optimizer=torch.optim.Adam(network.parameters(), 3e-2),
            loss_function=LosingMasks(), train_handlers=[alarm],
        )  # fmt: skip
        with caplog.at_level(logging.WARNING, "rwloss.stability"):
            trainer.run()
    assert alarm.watch.step == 30
    assert "lesion is " in caplog.text


class LosingMasks(Losing):
    """With MONAI's targets (b 1 *s)."""

    def __init__(self):
        super().__init__("rectified")

    def forward(self, logits, target):
        return super().forward(logits, target[:, 0])


class Trainer:
    """What the mixin needs of nnU-Net's trainer."""

    def __init__(self, regions=False):
        self.num_epochs, self.num_iterations_per_epoch, self.printed = 3, 10, []
        whole = [1, 2] if regions else 1
        self.dataset_json = {"labels": {"background": 0, "organ": whole, "lesion": 2, "ignore": 3}}
        self.label_manager = type("Labels", (), {"has_regions": regions, "ignore_label": 3})()

    def on_train_start(self):
        self.loss = torch.nn.CrossEntropyLoss() if self.plain else Losing("rectified")

    def on_train_end(self):
        self.ended = True

    def print_to_log_file(self, text):
        self.printed.append(text)

    plain = False


class WatchedTrainer(NnunetAlarm, Trainer):
    """As the docs write it."""


def test_nnunet_mixin():
    trainer = WatchedTrainer()
    trainer.on_train_start()
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    optimizer = torch.optim.Adam(network.parameters(), 3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        trainer.loss(network(IMAGES), LABELS).backward()
        optimizer.step()
    assert trainer.rwloss_watch.step == 30
    assert "lesion is " in trainer.printed[0]
    trainer.on_train_end()
    assert trainer.ended
    trainer.loss(network(IMAGES), LABELS)
    assert trainer.rwloss_watch.step == 30
