"""Runs a command of nnU-Net as its console script does: nnunet_command.py nnUNetv2_train 4 2d 0.

nnU-Net looks for a trainer in all of its own modules before it looks elsewhere, and one of them
needs torchvision. A torchvision built for CUDA can't be imported beside a torch built for the CPU:
it describes operators that only its compiled part declares. Where these are missing they are
declared here, by name alone; nothing in a U-Net calls them.
"""

from __future__ import annotations

import importlib.metadata
import sys

OPERATORS = ("nms", "qnms")


def declare_missing_operators() -> None:
    """Let a torchvision of another build be imported."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in OPERATORS:
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)


def main() -> None:
    declare_missing_operators()
    sys.argv = sys.argv[1:]
    [script] = importlib.metadata.entry_points(group="console_scripts", name=sys.argv[0])
    sys.exit(script.load()())


if __name__ == "__main__":  # nnU-Net's worker processes load this file too
    main()
