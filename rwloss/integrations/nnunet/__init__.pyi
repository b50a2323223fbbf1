from .alarm import NnunetAlarm as NnunetAlarm
from .folder import trainers_folder as trainers_folder
from .loss import AddedLoss as AddedLoss
from .loss import PlanLoss as PlanLoss
from .trainer import nnUNetTrainerBoundaryDice as nnUNetTrainerBoundaryDice
from .trainer import nnUNetTrainerRectifiedDice as nnUNetTrainerRectifiedDice
from .trainer import nnUNetTrainerRW as nnUNetTrainerRW
from .trainer import nnUNetTrainerRWAdded as nnUNetTrainerRWAdded
from .trainer import result_name as result_name
from .whole import nnUNetTrainerRWAddedWhole as nnUNetTrainerRWAddedWhole
from .whole import nnUNetTrainerRWWhole as nnUNetTrainerRWWhole

__all__ = [
    "AddedLoss",
    "NnunetAlarm",
    "PlanLoss",
    "nnUNetTrainerBoundaryDice",
    "nnUNetTrainerRW",
    "nnUNetTrainerRWAdded",
    "nnUNetTrainerRWAddedWhole",
    "nnUNetTrainerRWWhole",
    "nnUNetTrainerRectifiedDice",
    "result_name",
    "trainers_folder",
]
