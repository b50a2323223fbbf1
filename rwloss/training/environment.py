"""Packages and devices of a training run."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rwloss import distance
from rwloss._version import versions_of
from rwloss.errors import RWLossError
from rwloss.metrics.registry import require, select
from rwloss.words import count_of
from rwloss.work.tasks import available_cores

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    from rwloss.training.settings import RunSettings


def require_monai() -> None:
    """Raise RWLossError with the fix if MONAI is not installed. Imports nothing."""
    _require({"monai": "MONAI"})


def require_training() -> None:
    """Raise RWLossError with the fix if MONAI or Fabric is missing. Imports neither."""
    _require({"monai": "MONAI", "lightning_fabric": "Lightning Fabric"})


def _require(modules: dict[str, str]) -> None:
    for module, name in modules.items():
        if find_spec(module) is None:
            raise RWLossError(
                f"training needs {name}, which is not installed: pip install 'rwloss[train]'"
            )


def fabric_of(settings: RunSettings) -> Fabric:
    """The devices to train on. Raises RWLossError if this machine does not have them.

    Also raises it, before training, if a package is missing that the test metrics need.
    """
    require_training()
    require(select(settings.metrics))
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    if settings.precision == "16-mixed" and not (
        settings.accelerator != "cpu" and torch.cuda.is_available()
    ):
        raise RWLossError(
            "--precision 16-mixed needs an NVIDIA or AMD GPU: use bf16-mixed or 32-true"
        )
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            precision=settings.precision,
            strategy="ddp" if settings.devices > 1 else "auto",
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise RWLossError(
            f"this machine has no --accelerator {settings.accelerator} with --devices "
            f"{settings.devices} and --precision {settings.precision} ({error}): try "
            "--accelerator cpu, or fewer --devices"
        ) from error


def description(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Hardware, distance engine and versions, for the log of a run.

    The engine is that of maps made on the fly for labels on this device. The hardware is described
    in general words, without the name of the machine.

    >>> import torch
    >>> description(torch.device("cpu"), processes=2)["hardware"][:20]
    '2 processes, each CP'
    """
    import torch

    hardware = device.type
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        hardware = (
            f"CPU: {count_of(torch.get_num_threads(), 'thread')}, {available_cores()} cores "
            f"({platform.system()}, {platform.machine()})"
        )
    named = ("torch", "monai", "lightning-fabric", "numpy", "scipy", "edt")
    versions = {"Python": platform.python_version(), **versions_of(*named)}
    return {
        "hardware": hardware if processes == 1 else f"{processes} processes, each {hardware}",
        "distance_engine": distance.engine_name(like=torch.empty(0, device=device)),
        "versions": versions,
    }
