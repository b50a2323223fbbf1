"""Trainers of nnU-Net v2 with a region-wise loss: `nnUNetv2_train ... -tr nnUNetTrainerRW`.

nnU-Net finds them through the folder `trainers`, which the environment variable
`nnUNet_extTrainer` names. They change the loss and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from rwloss.errors import RWLossError
from rwloss.integrations.nnunet.loss import AddedLoss, PlanLoss
from rwloss.losses.resolution import halving_weights
from rwloss.maps.expression import Expression
from rwloss.maps.identity import is_same
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
_CUDA = torch.device("cuda")  # nnU-Net's default
_KEPT_AS = "rwloss_map"  # in the checkpoint's init_args


class nnUNetTrainerRW(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net has no types
    """Any expression: a subclass's `rwloss_map`, else the environment variable RWLOSS_MAP.

    Deep supervision, regions, ignore label, spacing and number of epochs are those of the plan, the
    dataset and nnU-Net's trainer. Several GPUs and `torch.compile` work as in nnU-Net.

    The checkpoint stores the expression, and cannot be resumed with a different one. An expression
    from the environment variable is part of the name of the result folder; see `result_name`.
    """

    rwloss_map: ClassVar[str | None] = None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        """As nnU-Net's. Raises RWLossError for the second stage of a cascade."""
        self._resumes = bool(plans.get("continue_training"))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.my_init_kwargs[_KEPT_AS] = str(self.rwloss_expression())
        if self.is_cascaded:
            raise RWLossError(
                f"{configuration} is the second stage of a cascade, which {type(self).__name__} "
                "does not support: choose another configuration, or train the stage with "
                "-tr nnUNetTrainer"
            )

    def rwloss_expression(self) -> Expression:
        """The expression to train with.

        Raises RWLossError if the environment variable is missing or cannot be parsed.
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

    @property
    def output_folder_base(self) -> str | None:
        """The folder of results: nnU-Net's, with an expression from the environment in its name."""
        return self._output_folder_base

    @output_folder_base.setter
    def output_folder_base(self, folder: str | None) -> None:
        self._output_folder_base = folder
        if folder is None or self.rwloss_map is not None:
            return
        plain, own = Path(folder), type(self).__name__
        named = plain.with_name(
            plain.name.replace(own, result_name(own, self.rwloss_expression()), 1)
        )
        fold = f"fold_{self.fold}"
        # Written by rwloss before folders were named after the map.
        if self._resumes and not (named / fold).exists() and [*(plain / fold).glob("*.pth")]:
            return
        self._output_folder_base = str(named)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """As nnU-Net's. Raises RWLossError for the checkpoint of another expression."""
        super().load_checkpoint(filename_or_checkpoint)
        held, own = self.my_init_kwargs.get(_KEPT_AS), str(self.rwloss_expression())
        if held is None:
            self.print_to_log_file(
                "rwloss: this checkpoint does not record which map it was trained with (it is "
                "from an "
                f"older rwloss, or of another trainer). It continues with {own}"
            )
        elif not is_same(held, own):
            raise RWLossError(
                f"the checkpoint in {self.output_folder} was trained with {held}, and this run "
                f"uses {own}: resume it with {held!r}, or start a new run without --c"
            )
        self.my_init_kwargs[_KEPT_AS] = own

    def _build_loss(self) -> nn.Module:
        """The loss of this plan, instead of nnU-Net's. nnU-Net's `initialize` calls this once."""
        weights = None
        if self.enable_deep_supervision:
            # DDP fails on parameters without a gradient: the last output must count a little.
            least = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
            weights = halving_weights(len(self._get_deep_supervision_scales()), last=least)
        return self.rwloss_loss(weights)

    def rwloss_loss(self, head_weights: list[float] | None) -> PlanLoss:
        """The loss of the expression for this plan. head_weights: of the outputs, high to low."""
        plan = self.configuration_manager
        spacing_mm = self.rwloss_spacing_mm
        loss = PlanLoss(
            self.rwloss_expression(),
            spacing_mm=spacing_mm,
            regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            head_weights=head_weights,
            batch_dice=plan.batch_dice,
        )
        loss.set_epoch(self.current_epoch, self.num_epochs)
        self.print_to_log_file(f"rwloss: {loss.expression}, spacing {spacing_mm} mm")
        if self.output_folder_base is not None:
            name = Path(self.output_folder_base).name.split("__")[0]
            self.print_to_log_file(f"rwloss: predict with -tr {name}")
        return loss

    @property
    def rwloss_spacing_mm(self) -> list[float]:
        """The plan's spacing of the axes of a patch, in mm."""
        plan = self.configuration_manager
        return list(plan.spacing[-len(plan.patch_size) :])

    def on_train_epoch_start(self) -> None:
        """Set the epoch of schedules, also for the validation after it."""
        super().on_train_epoch_start()
        self.loss.set_epoch(self.current_epoch, self.num_epochs)


class nnUNetTrainerRWAdded(nnUNetTrainerRW):
    """nnU-Net's own loss plus the expression, so that one thing changes: RWLOSS_MAP="0.01 * ...".

    The own loss is that of the next class in the order of inheritance, with its weights of deep
    supervision: `class Mine(nnUNetTrainerRWAdded, nnUNetTrainerTopk10Loss)` adds to that one. With
    a weight of 0, loss and gradient equal the own ones bit for bit.
    """

    def _build_loss(self) -> nn.Module:
        """The own loss plus the expression's."""
        own = super(nnUNetTrainerRW, self)._build_loss()
        weights = getattr(own, "weight_factors", None)  # nnU-Net's wrapper has them
        return AddedLoss(own, self.rwloss_loss(None if weights is None else list(weights)))


class nnUNetTrainerRectifiedDice(nnUNetTrainerRW):
    """`rectified + dice`: the default to start from."""

    rwloss_map = "rectified + dice"


class nnUNetTrainerBoundaryDice(nnUNetTrainerRW):
    """`dice + 0.01 * boundary`: the constant weight of Kervadec et al. (arXiv 1812.07032)."""

    rwloss_map = "dice + 0.01 * boundary"


def result_name(trainer: str, expression: Expression | str) -> str:
    """The name of the results of a trainer with an expression from RWLOSS_MAP; `-tr` of prediction.

    The words of the expression, and six digits that distinguish expressions.

    >>> result_name("nnUNetTrainerRW", "rectified + 0.5 * dice").rpartition("-")[0]
    'nnUNetTrainerRW-rectified-0.5-dice'
    """
    text = str(parse(expression) if isinstance(expression, str) else expression)
    # No two underscores in a row: nnU-Net splits names there.
    words = re.sub(r"__+", "_", re.sub(r"[^\w.]+", "-", text, flags=re.ASCII)).strip("-_.")[:60]
    return f"{trainer}-{words}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
