"""Trainers with maps of whole volumes, transformed by nnU-Net's augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.integrations.nnunet.distances import DistanceFolder, Following, check_follows
from rwloss.integrations.nnunet.loss import AddedLoss, PlanLoss
from rwloss.integrations.nnunet.trainer import nnUNetTrainerRW, nnUNetTrainerRWAdded
from rwloss.words import count_of

from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet  # isort: skip


class DistanceLoader(nnunet.nnUNetDataLoader):  # type: ignore[misc]  # nnU-Net has no types
    """nnU-Net's loader with the distances of each patch: "distances" (b k *s) and "peaks" (b k)."""

    def __init__(self, distances: DistanceFolder, *args: Any, **settings: Any) -> None:
        """distances: of the cases. Other arguments are nnU-Net's."""
        super().__init__(*args, **settings)
        self.distances = distances
        self.augment: Any = settings["transforms"]
        self.transforms = self._augmented
        for number, each in enumerate(self.augment.transforms):
            if isinstance(each, nnunet.SpatialTransform):
                self.augment.transforms[number] = Following(each, distances.spacing_mm)

    def get_indices(self) -> Any:
        """The cases of a batch. Their patches are requested in this order."""
        cases = super().get_indices()
        self._cases = iter(cases)
        return cases

    def get_bbox(self, *args: Any, **settings: Any) -> Any:
        """The box of the next patch."""
        self._case, self._box = next(self._cases), super().get_bbox(*args, **settings)
        return self._box

    def _augmented(self, **patch: Any) -> Any:
        far, peaks = self.distances.read(self._case, list(zip(*self._box, strict=True)))
        moved = self.augment(**patch, regression_target=far, peaks=peaks)
        if moved["regression_target"] is None:
            raise RWLossError(
                "a transform of this trainer drops regression targets, so the maps of whole "
                "volumes can't follow it: train with nnUNetTrainerRW"
            )
        self._moved.append((moved["regression_target"].half(), moved["peaks"]))
        return moved

    def generate_train_batch(self) -> dict[str, Any]:
        """nnU-Net's batch with the two more entries."""
        self._moved: list[tuple[Tensor, Tensor]] = []
        batch: dict[str, Any] = super().generate_train_batch()
        distances, peaks = map(torch.stack, zip(*self._moved, strict=True))
        return batch | {"distances": distances, "peaks": peaks}


class WholeVolumes:
    """Mixin for a trainer of rwloss that uses maps of whole volumes instead of patches.

    The distances of the cases of the fold are stored next to the preprocessed cases before the
    first epoch. Raises RWLossError for regions, and for terms that do not use only distances.
    """

    def _build_loss(self) -> nn.Module:
        own: Any = self
        if own.label_manager.has_regions:
            raise RWLossError(
                f"{type(self).__name__} does not support regions: train with nnUNetTrainerRW, "
                "which makes the map of each augmented patch"
            )
        check_follows(own.rwloss_expression())
        trainer: Any = super()
        loss: nn.Module = trainer._build_loss()
        return loss

    def rwloss_distances(self) -> DistanceFolder:
        """The folder of the distances of this configuration."""
        own: Any = self
        return DistanceFolder(
            Path(own.preprocessed_dataset_folder_base)
            / f"rwloss_distances_{own.configuration_name}",
            own.label_manager.num_segmentation_heads,
            tuple(map(float, own.rwloss_spacing_mm)),
            own.label_manager.ignore_label,
        )

    def get_dataloaders(self) -> Any:
        """nnU-Net's, with distances; missing ones are computed first."""
        own: Any = self
        distances = self.rwloss_distances()
        if own.local_rank == 0:
            started = monotonic()
            made, cases = 0, set()
            for dataset in own.get_tr_and_val_datasets():
                for case in dataset.identifiers:
                    _, labels, _, _ = dataset.load_case(case)
                    # -1 is outside of what is not zero in the image: background to nnU-Net.
                    made += distances.add(case, np.maximum(np.asarray(labels[0]), 0))
                    cases.add(case)
            own.print_to_log_file(
                f"rwloss: distances of {count_of(len(cases), 'case')} in {distances.folder}, "
                f"{made} of them new, {monotonic() - started:.1f} s"
            )
        if own.is_ddp:
            torch.distributed.barrier()
        # nnU-Net names the class of its loaders only in this module.
        stock = nnunet.nnUNetDataLoader
        nnunet.nnUNetDataLoader = partial(DistanceLoader, distances)
        try:
            trainer: Any = super()
            return trainer.get_dataloaders()
        finally:
            nnunet.nnUNetDataLoader = stock

    def train_step(self, batch: dict[str, Any]) -> Any:
        """nnU-Net's, with the maps of whole volumes."""
        trainer: Any = super()
        with self._distances_of(batch):
            return trainer.train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> Any:
        """nnU-Net's, with the maps of whole volumes."""
        trainer: Any = super()
        with self._distances_of(batch):
            return trainer.validation_step(batch)

    @contextmanager
    def _distances_of(self, batch: dict[str, Any]) -> Iterator[None]:
        own: Any = self
        loss: PlanLoss = own.loss.added if isinstance(own.loss, AddedLoss) else own.loss
        if "distances" not in batch:
            raise RWLossError(
                f"the loader of {type(self).__name__} gives no distances, because another class "
                "replaces nnU-Net's loader: train with nnUNetTrainerRW"
            )
        far, peaks = (
            batch[name].to(own.device, non_blocking=True) for name in ("distances", "peaks")
        )
        loss.distances = far, peaks
        try:
            yield
        finally:
            loss.distances = None


class nnUNetTrainerRWWhole(WholeVolumes, nnUNetTrainerRW):
    """`nnUNetTrainerRW` with the maps of whole volumes."""


class nnUNetTrainerRWAddedWhole(WholeVolumes, nnUNetTrainerRWAdded):
    """`nnUNetTrainerRWAdded` with the maps of whole volumes."""
