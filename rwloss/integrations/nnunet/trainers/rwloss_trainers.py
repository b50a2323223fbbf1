"""rwloss's trainers, where nnU-Net looks for them: it imports every module of this folder."""

from rwloss.integrations.nnunet.trainer import (
    nnUNetTrainerBoundaryDice,
    nnUNetTrainerRectifiedDice,
    nnUNetTrainerRW,
)

__all__ = ["nnUNetTrainerBoundaryDice", "nnUNetTrainerRW", "nnUNetTrainerRectifiedDice"]
