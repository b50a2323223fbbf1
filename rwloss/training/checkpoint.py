"""Checkpoints: tensors and plain values in a file that appears whole or not at all."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.training import settings as settings_file
from rwloss.training.divergence import Diverged
from rwloss.training.settings import RunSettings
from rwloss.training.unet import unet

Which = Literal["best", "last"]

_INSTEAD = "put the run's own file back, or train in another folder"


@dataclass(frozen=True)
class Task:
    """What a network is for. class_names: one for each class, the background's first."""

    in_channels: int
    num_classes: int
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with its weights of some step, in eval mode, and all that made it."""

    network: nn.Module
    settings: RunSettings
    task: Task
    step: int


def build(settings: RunSettings, task: Task) -> nn.Module:
    """The network of a run before its first step."""
    return unet(
        settings.dims,
        task.in_channels,
        task.num_classes,
        preset=settings.preset,
        seed=settings.seed,
    )


def save(
    path: Path, network: nn.Module, settings: RunSettings, task: Task, step: int, **more: Any
) -> None:
    """Write a checkpoint. more: other tensors and plain values, such as the optimizer's state.

    Raises Diverged where weights are not finite, and RWLossError where the disk is full; the file
    of before is left as it was.
    """
    weights = network.state_dict()
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise Diverged(
                step, f"weight {name} is not finite after step {step}: training has diverged"
            )
    content = {
        "layout": 1,
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "task": {
            "in_channels": task.in_channels,
            "num_classes": task.num_classes,
            "class_names": list(task.class_names),
        },
        "step": step,
        "weights": weights,
        **more,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        with whole_file(path) as part:
            part.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise RWLossError(
            f"cannot write {str(path)!r} ({error.strerror or error}): the one before it is "
            "kept, if any; make room and start again"
        ) from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save` wrote. Raises RWLossError for a file that is missing or damaged."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise RWLossError(
            f"there is no checkpoint {str(path)!r}: the run has not got so far"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        [reason, *_] = [*str(error).split(". ")[0].splitlines(), type(error).__name__]
        raise RWLossError(
            f"{str(path)!r} is no checkpoint, or damaged ({reason}): {_INSTEAD}"
        ) from error
    if not isinstance(content, Mapping) or content.get("layout") != 1:
        raise RWLossError(f"{str(path)!r} is no checkpoint of this version of rwloss: {_INSTEAD}")
    return dict(content)


def restore(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put weights in place. Raises RWLossError where they are of another network."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RWLossError(
            f"the checkpoint {str(path)!r} is of another network than run.toml says: "
            f"{str(error).splitlines()[-1].strip()}; {_INSTEAD}"
        ) from error


def load_network(run: str | Path, which: Which = "best", device: str = "cpu") -> Trained:
    """The network of a run, to predict with.

    which: "best" on validation, or "last". Raises RWLossError where there is no such run or
    checkpoint, and where it was made with other settings than run.toml holds.
    """
    folder = Path(run)
    if not (folder / "run.toml").is_file():
        raise RWLossError(
            f"{str(run)!r} is no run: expected a folder with run.toml and checkpoints, as rwloss "
            "train leaves it"
        )
    settings = settings_file.read(folder / "run.toml")
    path = folder / "checkpoints" / f"{which}.pt"
    content = load(path, device)
    check_settings(content, settings, path)
    task = Task(**{**content["task"], "class_names": tuple(content["task"]["class_names"])})
    network = build(settings, task).to(device)
    restore(network, content["weights"], path)
    network.eval()
    return Trained(network, settings, task, int(content["step"]))


def check_settings(content: Mapping[str, Any], settings: RunSettings, path: Path) -> None:
    """Raise RWLossError where a checkpoint was made with other settings than these."""
    made_with = settings_file.make(**content["settings"])
    if different := made_with.difference(settings):
        raise RWLossError(
            f"the checkpoint {str(path)!r} was made with other settings than run.toml holds: "
            f"{'; '.join(different)}; {_INSTEAD}"
        )
