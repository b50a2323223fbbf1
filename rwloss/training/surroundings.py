"""What a start of a run ran on, and with which versions: words for its log."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from rwloss import distance
from rwloss._version import __version__
from rwloss.work.cores import available_cores

_PACKAGES = ("torch", "monai", "lightning-fabric", "numpy", "scipy", "edt")


def versions() -> dict[str, str]:
    """Of Python, rwloss, and the packages that results may depend on."""
    found = {"Python": platform.python_version(), "rwloss": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, processes: int = 1) -> str:
    """The devices of a training in general words: no name of a machine.

    >>> hardware(torch.device("cpu")).startswith("CPU: 1 thread") or torch.get_num_threads() > 1
    True
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = (
            f"CPU: {threads} thread{'s' * (threads > 1)}, {available_cores()} cores "
            f"({platform.system()}, {platform.machine()})"
        )
    else:
        name = device.type
    return name if processes == 1 else f"{processes} processes, each {name}"


def engine(device: torch.device) -> str:
    """The distance engine of maps that are made on the fly for labels on this device."""
    return distance.engine_name(like=torch.empty(0, device=device))
