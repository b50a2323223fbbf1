from .augment import Augmentation as Augmentation
from .batches import Batch as Batch
from .batches import Batches as Batches
from .batches import Item as Item
from .checkpoint import Task as Task
from .checkpoint import Trained as Trained
from .checkpoint import load_network as load_network
from .divergence import Diverged as Diverged
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .extras import require_monai as require_monai
from .extras import require_training as require_training
from .items import items_of as items_of
from .label_maps import Predictions as Predictions
from .label_maps import predict_images as predict_images
from .metrics import score as score
from .preparation import Prepared as Prepared
from .preparation import prepare as prepare
from .progress import Progress as Progress
from .run import RunResult as RunResult
from .run import is_first_process as is_first_process
from .run import result as result
from .run import train as train
from .run_folder import RunFolder as RunFolder
from .scores import CaseScore as CaseScore
from .scores import ClassScore as ClassScore
from .scores import Scores as Scores
from .settings import RunSettings as RunSettings
from .unet import PRESETS as PRESETS
from .unet import unet as unet
from .volumes import Volume as Volume
from .volumes import read as read
from .windows import predict as predict

__all__ = [
    "PRESETS",
    "Augmentation",
    "Batch",
    "Batches",
    "CaseScore",
    "ClassScore",
    "Diverged",
    "Evaluation",
    "Item",
    "Predictions",
    "Prepared",
    "Progress",
    "RunFolder",
    "RunResult",
    "RunSettings",
    "Scores",
    "Task",
    "Trained",
    "Volume",
    "evaluate",
    "is_first_process",
    "items_of",
    "load_network",
    "predict",
    "predict_images",
    "prepare",
    "read",
    "require_monai",
    "require_training",
    "result",
    "score",
    "train",
    "unet",
]
