from .examples import Examples as Examples
from .examples import batches as batches
from .extras import require_monai as require_monai
from .frame import Frame as Frame
from .loop import train as train
from .metrics import ClassDice as ClassDice
from .metrics import by_class as by_class
from .metrics import dice as dice
from .predict import predict as predict
from .run import Run as Run
from .run import RunResult as RunResult
from .run import train_and_test as train_and_test
from .side_by_side import train_all as train_all
from .slices import cut as cut
from .unet import PRESETS as PRESETS
from .unet import unet as unet
from .volumes import Volume as Volume
from .volumes import read as read

__all__ = [
    "PRESETS",
    "ClassDice",
    "Examples",
    "Frame",
    "Run",
    "RunResult",
    "Volume",
    "batches",
    "by_class",
    "cut",
    "dice",
    "predict",
    "read",
    "require_monai",
    "train",
    "train_all",
    "train_and_test",
    "unet",
]
