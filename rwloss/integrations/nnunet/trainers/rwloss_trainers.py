"""The trainers of rwloss in the folder that nnU-Net searches: it imports every module of it."""

from rwloss.integrations.nnunet.trainer import (
    nnUNetTrainerBoundaryDice,
    nnUNetTrainerRectifiedDice,
    nnUNetTrainerRW,
    nnUNetTrainerRWAdded,
)
from rwloss.integrations.nnunet.whole import nnUNetTrainerRWAddedWhole, nnUNetTrainerRWWhole

__all__ = [
    "nnUNetTrainerBoundaryDice",
    "nnUNetTrainerRW",
    "nnUNetTrainerRWAdded",
    "nnUNetTrainerRWAddedWhole",
    "nnUNetTrainerRWWhole",
    "nnUNetTrainerRectifiedDice",
]
