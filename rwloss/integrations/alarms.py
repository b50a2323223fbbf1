"""Alarms of dying classes in Lightning, in ignite (and so MONAI), and in nnU-Net: one line each.

Each is a `rwloss.stability.Watch` on the loss of the framework's trainer. In plain PyTorch, use
`Watch(loss, steps=...)`. Only the framework of the class in use is imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rwloss.errors import RWLossError
from rwloss.integrations.nnunet.alarm import NnunetAlarm
from rwloss.stability import Watch

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
else:
    try:
        from lightning.pytorch.callbacks import Callback
    except ImportError:
        Callback = object


class LightningAlarm(Callback):
    """Alarm for a Lightning trainer: `Trainer(callbacks=[LightningAlarm()])`.

    loss: the attribute of the LightningModule that holds its loss, a torch module. class_names: of
    classes 0, 1, ... watch: the `Watch` on the loss, from the start of training.
    """

    def __init__(self, loss: str = "loss", class_names: Sequence[str] = ()) -> None:
        """Where the loss is; the class documents it."""
        self.loss, self.class_names = loss, class_names
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start watching. Raises RWLossError if the module has no such loss."""
        loss = getattr(pl_module, self.loss, None)
        if loss is None:
            raise RWLossError(
                f"{type(pl_module).__name__} has no attribute {self.loss!r}: name the one that "
                "holds its loss with LightningAlarm(loss=...)"
            )
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        self.watch = Watch(loss, steps=_whole(steps), class_names=self.class_names)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the watch."""
        if self.watch is not None:
            self.watch.remove()


class IgniteAlarm:
    """Alarm for an ignite engine: `IgniteAlarm(loss).attach(trainer)`.

    In MONAI, pass it to the trainer: `SupervisedTrainer(..., train_handlers=[IgniteAlarm()])`,
    whose `loss_function` is used. loss: a torch module. class_names: of classes 0, 1, ...
    """

    def __init__(self, loss: Any = None, class_names: Sequence[str] = ()) -> None:
        """The loss, if the engine has no `loss_function`; the class documents it."""
        self.loss, self.class_names = loss, class_names
        self.watch: Watch | None = None

    def attach(self, engine: Any) -> None:
        """Watch from the beginning of the engine's run to its end."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.TERMINATE, self._end)

    def _begin(self, engine: Any) -> None:
        loss = getattr(engine, "loss_function", None) if self.loss is None else self.loss
        if loss is None:
            raise RWLossError("the engine has no loss_function: give IgniteAlarm(loss)")
        steps = engine.state.max_epochs * engine.state.epoch_length
        self.watch = Watch(loss, steps=steps, class_names=self.class_names)

    def _end(self, engine: Any) -> None:
        del engine
        if self.watch is not None:
            self.watch.remove()


__all__ = ["IgniteAlarm", "LightningAlarm", "NnunetAlarm"]


def _whole(steps: float) -> int:
    """A number of steps. Raises RWLossError for a run without an end."""
    if not math.isfinite(steps):
        raise RWLossError("alarms need to know the length of the run: give max_epochs or max_steps")
    return int(steps)
