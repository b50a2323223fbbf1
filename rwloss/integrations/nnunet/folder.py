"""The folder that nnU-Net searches for trainers."""

from pathlib import Path


def trainers_folder() -> Path:
    """The folder for the environment variable `nnUNet_extTrainer`; `rwloss nnunet-path` prints it.

    nnU-Net imports every module of the folder, so it holds one module, which imports the trainers.
    """
    return Path(__file__).parent / "trainers"
