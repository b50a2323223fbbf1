"""The trainers of rwloss in the folder that nnU-Net searches: it imports every module of it."""

from rwloss.integrations.nnunet.trainer import (
    nnUNetTrainerBoundaryDice,
    nnUNetTrainerRectifiedDice,
    nnUNetTrainerRW,
)

__all__ = ["nnUNetTrainerBoundaryDice", "nnUNetTrainerRW", "nnUNetTrainerRectifiedDice"]
