"""The checkpoints of a run: files of tensors and plain values."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors, whole_file
from rwloss.files.journal import read_regular
from rwloss.training.architectures import build, is_code, network_class
from rwloss.training.loop import Diverged, TrainingState
from rwloss.training.run_folder import RunFolder
from rwloss.training.settings import RunSettings
from rwloss.words import must

CheckpointName = Literal["best", "last"]

_FIX = "put the run's own file back, or train in another folder"


_Count = Annotated[int, Field(gt=0, lt=2**16)]


@dataclass(frozen=True)
class SegmentationTask:
    """The task of a network. class_names: one per class, the background first."""

    in_channels: _Count
    num_classes: _Count
    class_names: tuple[str, ...]


class Checkpoint(BaseModel):
    """The content of a checkpoint: last.pt also has the optimizer and the progress of the run.

    layout: in 1, the optimizer is not `_folded`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    layout: Literal[1, 2]
    settings: dict[str, Any]
    task: SegmentationTask
    step: NonNegativeInt
    weights: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    state: TrainingState | None = None


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A network in eval mode with the weights of a step, and how it was trained."""

    network: nn.Module
    settings: RunSettings
    task: SegmentationTask
    step: int


def build_network(settings: RunSettings, task: SegmentationTask) -> nn.Module:
    """The network of a run with its initial weights."""
    return build(settings, task.in_channels, task.num_classes)


def num_parameters(network: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(weight.numel() for weight in network.parameters())


def save_checkpoint(
    path: Path,
    weights: Mapping[str, Tensor],
    settings: RunSettings,
    task: SegmentationTask,
    step: int,
    **more: Any,
) -> None:
    """Write a checkpoint. weights: a network's state_dict.

    more: other tensors and plain values, such as the optimizer's state.

    Raises Diverged if a weight is not finite, and RWLossError if the disk is full; the previous
    file is then kept.
    """
    packed, are_finite = _packed(weights)
    if not are_finite:
        name = next(name for name, weight in packed.items() if not bool(weight.isfinite().all()))
        raise Diverged(
            step, f"weight {name} is not finite after step {step}: training has diverged"
        )
    # Copies, because torch saves all memory behind a view, and runs that train together are views.
    optimizer = {"optimizer": _folded(more.pop("optimizer"))} if "optimizer" in more else {}
    content = {
        "layout": 2,
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "task": {**asdict(task), "class_names": list(task.class_names)},
        "step": step,
        "weights": packed,
        **tree_map_only(Tensor, Tensor.clone, more),
        **optimizer,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    fix = "the previous checkpoint is kept, if there is one; free some space and rerun"
    with naming_write_errors(path, fix), whole_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def _packed(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Copies on the host, and whether all are finite.

    Those of a dtype share one memory, because many small ones are slow to copy from a GPU, and to
    write.
    """
    alike: dict[torch.dtype, list[str]] = {}
    for name, weight in weights.items():
        alike.setdefault(weight.dtype, []).append(name)
    found, are_finite = dict(weights), True
    for names in alike.values():
        flat = torch.cat([weights[name].detach().flatten() for name in names]).cpu()
        are_finite = are_finite and bool(flat.isfinite().all())
        shapes = [weights[name].shape for name in names]
        found.update(zip(names, _unflattened(flat, shapes), strict=True))
    return found, are_finite


def _unflattened(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The tensors of which `flat` (n) has the numbers, one after another."""
    parts = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


def _folded(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state_dict with one tensor instead of one per weight, for each of its names.

    Such as the moments of Adam. Many tensors are slow to write. All are copies, on the host.
    """
    state = {at: dict(values) for at, values in optimizer["state"].items()}
    folded = {}
    for name in dict.fromkeys(name for values in state.values() for name in values):
        having = [at for at, values in state.items() if isinstance(values.get(name), Tensor)]
        tensors = [state[at][name].detach() for at in having]
        if len({(each.dtype, each.device) for each in tensors}) == 1:
            shapes = [tuple(state[at].pop(name).shape) for at in having]
            flat = torch.cat([each.flatten() for each in tensors]).cpu()
            folded[name] = {"weights": having, "shapes": shapes, "values": flat}
    rest = tree_map_only(Tensor, Tensor.clone, {**optimizer, "state": state})
    return {**rest, "folded": folded}


def _unfolded(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_folded`. A state that is not folded remains the same."""
    found = dict(optimizer)
    state = {at: dict(values) for at, values in found.get("state", {}).items()}
    for name, each in found.pop("folded", {}).items():
        tensors = _unflattened(each["values"], each["shapes"])
        for at, tensor in zip(each["weights"], tensors, strict=True):
            state[at][name] = tensor.clone()
    return {**found, "state": state} if "state" in found else found


def load_checkpoint(
    path: Path, settings: RunSettings, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Read what `save_checkpoint` wrote, its weights on a device. No code in the file is run.

    Raises RWLossError for a file that is missing, damaged (even by one bit), or was written with
    other settings.
    """
    try:
        content = read_regular(path)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch compares no checksums
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # Each in its own memory: those of a file share it.
        found = tree_map_only(Tensor, Tensor.clone, found)
    except FileNotFoundError as error:
        raise RWLossError(
            f"there is no checkpoint {str(path)!r}: the run has not reached it yet"
        ) from error
    except (
        *(OSError, RuntimeError, EOFError, ValueError, LookupError),
        *(NotImplementedError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
    ) as error:
        text = str(getattr(error, "strerror", None) or error)
        [reason, *_] = [*text.split(". ", maxsplit=1)[0].splitlines(), type(error).__name__]
        raise RWLossError(
            f"{str(path)!r} is not a checkpoint, or it is damaged ({reason}): {_FIX}"
        ) from error
    try:
        checkpoint = Checkpoint.model_validate(found)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "its content"
        raise RWLossError(
            f"{str(path)!r} is not a checkpoint of this version of rwloss ({where} {must(error)}): "
            f"{_FIX}"
        ) from error
    made_with = RunSettings.of(repr(str(path)), checkpoint.settings)
    if different := made_with.difference(settings):
        raise RWLossError(
            f"the checkpoint {str(path)!r} was written with settings other than those in run.toml: "
            f"{'; '.join(different)}; {_FIX}"
        )
    # The optimizer moves its own state, and counts steps on the host: each count that lies on a GPU
    # it would wait for, at every step.
    checkpoint.weights = {name: weight.to(device) for name, weight in checkpoint.weights.items()}
    return checkpoint


def restore_weights(
    network: nn.Module, checkpoint: Checkpoint, path: Path, *, assign: bool = False
) -> None:
    """Load the weights of a checkpoint: copied, or assigned to a network without memory.

    Raises RWLossError if they belong to another network, or are not finite.
    """
    try:
        network.load_state_dict(checkpoint.weights, assign=assign)
        state = network.state_dict()
        broken = [name for name, weight in state.items() if not bool(weight.isfinite().all())]
    except RuntimeError as error:
        raise RWLossError(
            f"the checkpoint {str(path)!r} belongs to another network than the one in run.toml: "
            f"{str(error).splitlines()[-1].strip()}; {_FIX}"
        ) from error
    if broken:
        raise RWLossError(
            f"the checkpoint {str(path)!r} is damaged: weight {broken[0]} is not finite (NaN or "
            f"infinity); {_FIX}"
        )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], path: Path) -> None:
    """Load the state of an optimizer. Raises RWLossError if it does not fit, or contains NaN."""
    try:
        optimizer.load_state_dict(_unfolded(state))
        for value in (value for each in optimizer.state.values() for value in each.values()):
            if isinstance(value, Tensor) and bool(value.isnan().any()):
                raise ValueError("it contains NaN")
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise RWLossError(
            f"the optimizer in {str(path)!r} is not that of the run ({type(error).__name__}: "
            f"{error}): {_FIX}"
        ) from error


def load_network(
    run: str | Path,
    which: CheckpointName = "best",
    device: str = "cpu",
    *,
    network: str | None = None,
) -> TrainedNetwork:
    """The network of a run, to predict with.

    run: the folder of the run. which: "best" on the validation cases, or "last". network: the
    user's own class that the run was trained with, as FILE.py:Class or module:Class; it is never
    taken from the run's folder. Raises RWLossError if there is no such run or checkpoint, or if the
    checkpoint was written with settings other than those in run.toml.
    """
    folder = RunFolder(run)
    settings, path = folder.read_settings(), folder.checkpoint(which)
    checkpoint = load_checkpoint(path, settings, device)
    if network is not None:
        network_class(network)
        settings = settings.model_copy(update={"network": network})
    # Without memory, because a damaged task could ask for any amount; a user's class may need some.
    with torch.device(device if is_code(settings.network) else "meta"):
        made = build_network(settings, checkpoint.task)
    restore_weights(made, checkpoint, path, assign=True)
    return TrainedNetwork(made.eval(), settings, checkpoint.task, checkpoint.step)
