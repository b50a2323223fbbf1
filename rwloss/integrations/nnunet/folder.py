"""The folder that nnU-Net searches for trainers."""

from __future__ import annotations

from pathlib import Path


def trainers_folder() -> Path:
    """What the environment variable `nnUNet_extTrainer` must name: `rwloss nnunet-path` prints it.

    nnU-Net imports every module in there, so that it holds one, which names the trainers.

    >>> trainers_folder().name
    'trainers'
    """
    return Path(__file__).parent / "trainers"
