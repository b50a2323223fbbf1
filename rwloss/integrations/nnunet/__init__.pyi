from .folder import trainers_folder as trainers_folder
from .loss import PlanLoss as PlanLoss
from .trainer import nnUNetTrainerBoundaryDice as nnUNetTrainerBoundaryDice
from .trainer import nnUNetTrainerRectifiedDice as nnUNetTrainerRectifiedDice
from .trainer import nnUNetTrainerRW as nnUNetTrainerRW

__all__ = [
    "PlanLoss",
    "nnUNetTrainerBoundaryDice",
    "nnUNetTrainerRW",
    "nnUNetTrainerRectifiedDice",
    "trainers_folder",
]
