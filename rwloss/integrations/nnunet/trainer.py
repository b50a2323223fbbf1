"""Trainers of nnU-Net v2 with a region-wise loss: `nnUNetv2_train ... -tr nnUNetTrainerRW`.

nnU-Net finds them through the folder `trainers`, which the environment variable
`nnUNet_extTrainer` names. They change the loss and nothing else.
"""

from __future__ import annotations

import os
from typing import ClassVar

from rwloss.errors import RWLossError
from rwloss.integrations.nnunet.loss import PlanLoss
from rwloss.losses.resolution import halving_weights
from rwloss.maps.expression import Expression
from rwloss.maps.parser import parse

try:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
except ModuleNotFoundError as error:
    if error.name != "nnunetv2":
        raise
    raise ModuleNotFoundError(
        "the trainers of rwloss.integrations.nnunet need nnU-Net v2, which is not installed: "
        "pip install 'rwloss[nnunet]'",
        name="nnunetv2",
    ) from None

VARIABLE = "RWLOSS_MAP"


class nnUNetTrainerRW(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no types
    """Any expression: a subclass's `rwloss_map`, else the environment variable RWLOSS_MAP.

    Deep supervision, regions, ignore label, spacing and number of epochs are those of the plan, the
    dataset and nnU-Net's trainer. Several GPUs and `torch.compile` work as in nnU-Net.
    """

    rwloss_map: ClassVar[str | None] = None

    def rwloss_expression(self) -> Expression:
        """The expression to train with.

        Raises RWLossError if the environment variable is missing or does not parse.
        """
        if self.rwloss_map is not None:
            return parse(self.rwloss_map)
        text = os.environ.get(VARIABLE, "").strip()
        if not text:
            raise RWLossError(
                f"{type(self).__name__} takes its map from the environment variable {VARIABLE}, "
                f"which is not set: export {VARIABLE}='rectified + dice' (`rwloss maps` lists "
                "other terms), or train with -tr nnUNetTrainerRectifiedDice or "
                "nnUNetTrainerBoundaryDice, which do not need it"
            )
        try:
            return parse(text)
        except RWLossError as error:
            raise RWLossError(f"environment variable {VARIABLE}: {error}") from error

    def _build_loss(self) -> PlanLoss:
        """The loss of this plan, in place of nnU-Net's. Its `initialize` calls this once."""
        plan = self.configuration_manager
        spacing_mm = list(plan.spacing[-len(plan.patch_size) :])
        weights = None
        if self.enable_deep_supervision:
            # DDP fails on parameters without a gradient: the last output must count a little.
            least = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
            weights = halving_weights(len(self._get_deep_supervision_scales()), last=least)
        loss = PlanLoss(
            self.rwloss_expression(),
            spacing_mm=spacing_mm,
            regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            head_weights=weights,
            batch_dice=plan.batch_dice,
        )
        loss.set_epoch(self.current_epoch, self.num_epochs)
        self.print_to_log_file(f"rwloss: {loss.expression}, spacing {spacing_mm} mm")
        return loss

    def on_train_epoch_start(self) -> None:
        """Tell schedules the epoch; it also holds for the validation after it."""
        super().on_train_epoch_start()
        self.loss.set_epoch(self.current_epoch, self.num_epochs)


class nnUNetTrainerRectifiedDice(nnUNetTrainerRW):
    """`rectified + dice`: the default to start from."""

    rwloss_map = "rectified + dice"


class nnUNetTrainerBoundaryDice(nnUNetTrainerRW):
    """`dice + 0.01 * boundary`: the constant weight of Kervadec et al. (arXiv 1812.07032)."""

    rwloss_map = "dice + 0.01 * boundary"
