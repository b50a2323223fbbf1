from .architectures import PRESETS as PRESETS
from .architectures import unet as unet
from .augment import Augmentation as Augmentation
from .environment import require_monai as require_monai
from .environment import require_training as require_training
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .inference import predict_labels as predict_labels
from .loop import Diverged as Diverged
from .network import SegmentationTask as SegmentationTask
from .network import TrainedNetwork as TrainedNetwork
from .network import load_network as load_network
from .patches import PatchSampler as PatchSampler
from .patches import PatchSource as PatchSource
from .patches import TrainingBatch as TrainingBatch
from .patches import patch_sources as patch_sources
from .predicting import Predictions as Predictions
from .predicting import predict_images as predict_images
from .preparation import PreparedRun as PreparedRun
from .preparation import prepare as prepare
from .run import TrainingProgress as TrainingProgress
from .run import is_first_process as is_first_process
from .run import train as train
from .run_folder import RunFolder as RunFolder
from .run_folder import RunResult as RunResult
from .scores import CaseScore as CaseScore
from .scores import ClassScore as ClassScore
from .scores import Scores as Scores
from .scores import score as score
from .settings import RunSettings as RunSettings
from .volumes import TrainingVolume as TrainingVolume
from .volumes import read_volume as read_volume

__all__ = [
    "PRESETS",
    "Augmentation",
    "CaseScore",
    "ClassScore",
    "Diverged",
    "Evaluation",
    "PatchSampler",
    "PatchSource",
    "Predictions",
    "PreparedRun",
    "RunFolder",
    "RunResult",
    "RunSettings",
    "Scores",
    "SegmentationTask",
    "TrainedNetwork",
    "TrainingBatch",
    "TrainingProgress",
    "TrainingVolume",
    "evaluate",
    "is_first_process",
    "load_network",
    "patch_sources",
    "predict_images",
    "predict_labels",
    "prepare",
    "read_volume",
    "require_monai",
    "require_training",
    "score",
    "train",
    "unet",
]
