"""Alarms of dying classes in nnU-Net's training log."""

from __future__ import annotations

from typing import Any

from rwloss.stability import Watch


class NnunetAlarm:
    """Mixin of an nnU-Net trainer: `class nnUNetTrainerMine(NnunetAlarm, nnUNetTrainer): ...`.

    Its warnings are written to the training log. Works with any loss of nnU-Net.
    """

    def on_train_start(self) -> None:
        """Start watching, after nnU-Net has built its loss."""
        trainer: Any = super()
        trainer.on_train_start()
        own: Any = self
        labels, regions = own.dataset_json["labels"], own.label_manager.has_regions
        names = [name for name in labels if name != "ignore"]
        own.rwloss_watch = Watch(
            own.loss,
            steps=own.num_epochs * own.num_iterations_per_epoch,
            class_names=names if regions else sorted(names, key=labels.__getitem__),
            activation="sigmoid" if regions else "softmax",
            ignore_index=own.label_manager.ignore_label,
            tell=own.print_to_log_file,
        )

    def on_train_end(self) -> None:
        """End the watch."""
        own: Any = self
        own.rwloss_watch.remove()
        trainer: Any = super()
        trainer.on_train_end()
