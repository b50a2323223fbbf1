"""Predict the labels of whole cases with a network of slices or patches, and score them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import nn

from rwloss.errors import RWLossError
from rwloss.training.architectures import outputs_of
from rwloss.training.environment import require_monai
from rwloss.training.scores import CaseScore, Scores, check_labels, score
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import AXIAL, TrainingVolume, stacked

OVERLAP = 0.5

_VOXELS_AT_A_TIME = 2**20
# Of all networks that predict together, in windows and in images: some 100 bytes each, and 4 per
# class. An image with more is held in main memory.
_VOXELS_OF_ALL = 2**23


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks that predict together.

    count: how many. logits: of some of them, by their rows: windows (b c *w) -> (m b k *w).
    at_once: for how many it may be called together.
    """

    count: int
    logits: Callable[[slice, torch.Tensor], torch.Tensor]
    device: torch.device | str
    at_once: int = 1


def predict_labels(
    network: nn.Module,
    image: NDArray[Any],
    size: Sequence[int],
    *,
    axis: int = AXIAL,
    batch_size: int | None = None,
    overlap: float = OVERLAP,
    device: torch.device | str = "cpu",
) -> NDArray[np.int64]:
    """The most probable class of each voxel. image (c *s), normalized -> labels (*s).

    size: the window that the network was trained on: (h w) for a network of slices, which are
    predicted one by one along `axis` of a volume, or three lengths for a network of volumes. An
    image that fits is padded with 0 on all sides, as in training, and predicted at once. A larger
    one is covered by windows that overlap by at least `overlap`, a fraction of their length. Their
    probabilities are averaged with Gaussian weights (standard deviation an eighth of the window,
    minimum 0.001), so that the middle of a window counts more than its border. batch_size: windows
    at a time, by default about a million voxels. device: that of the network. The probabilities of
    the whole image (or of batch_size slices), 4 bytes per voxel and class, are held on the device
    for up to 8 million voxels, and else in main memory.
    overlap: from 0 to 1.

    Leaves the network in eval mode. Raises RWLossError for an image that does not fit the network's
    axes, an overlap outside 0..1, and if MONAI is not installed.
    """
    one = _alone(network, len(size), device)
    found = labels_of_each(one, image, size, axis=axis, batch_size=batch_size, overlap=overlap)
    return found[0].cpu().numpy().astype(np.int64)


def _alone(network: nn.Module, axes: int, device: torch.device | str) -> Networks:
    """One network, which may have several outputs."""

    def logits(_: slice, windows: torch.Tensor) -> torch.Tensor:
        network.eval()
        return outputs_of(network(windows), axes)[0][None]

    return Networks(1, logits, device)


@torch.no_grad()
def labels_of_each(
    networks: Networks,
    image: NDArray[Any],
    size: Sequence[int],
    *,
    axis: int = AXIAL,
    batch_size: int | None = None,
    overlap: float = OVERLAP,
) -> torch.Tensor:
    """As `predict_labels` for each of m networks. image (c *s) -> (m *s), of a small integer type.

    As many networks at a time as memory is meant for, or fewer if it is too small even so.
    """
    spatial, axes = image.ndim - 1, len(size)
    if spatial not in {2, 3} or axes not in {2, 3} or spatial < axes:
        raise RWLossError(
            f"expected an image (c *s) for windows of {axes} axes, got the shape {image.shape}"
        )
    check_overlap(overlap)
    require_monai()
    window = tuple(size)
    if batch_size is None:
        batch_size = min(max(_VOXELS_AT_A_TIME // math.prod(window), 1), 64)
    images = image[None] if axes == 3 else stacked(image, spatial, axis)
    batches = torch.split(torch.from_numpy(np.ascontiguousarray(images)), batch_size)
    # As the first one, which is the largest: the last one may have a few slices.
    voxels = len(batches[0]) * math.prod(map(max, images.shape[2:], window))
    device = networks.device if voxels <= _VOXELS_OF_ALL else "cpu"
    found = [_labels(networks, batch, window, batch_size, overlap, device) for batch in batches]
    labels = found[0] if len(found) == 1 else torch.cat(found, dim=1)
    return labels[:, 0] if spatial == axes else labels.movedim(1, 1 + axis)


def _labels(
    networks: Networks,
    images: torch.Tensor,
    window: tuple[int, ...],
    batch_size: int,
    overlap: float,
    device: torch.device | str,
) -> torch.Tensor:
    """images (b c *s) -> (m b *s). device: that of the probabilities."""
    from monai.inferers.utils import sliding_window_inference

    voxels = len(images) * math.prod(map(max, images.shape[2:], window))
    per_axis = [
        max(math.ceil((n - w) / max(int(w * (1 - overlap)), 1)), 0) + 1
        for n, w in zip(images.shape[2:], window, strict=True)
    ]
    voxels_at_once = math.prod(window) * min(batch_size, len(images) * math.prod(per_axis))
    images = images.to(device)

    def labels(rows: slice) -> torch.Tensor:
        count = rows.stop - rows.start

        def probabilities(windows: torch.Tensor) -> torch.Tensor:
            """(b c *w) -> (b m*k *w): the members are channels."""
            probs = networks.logits(rows, windows).float().softmax(dim=2)
            return rearrange(probs, "m b k ... -> b (m k) ...")

        probs = sliding_window_inference(
            images,
            window,
            batch_size,
            probabilities,
            overlap=overlap,
            mode="gaussian",
            sw_device=networks.device,
            device=device,
        )
        assert isinstance(probs, torch.Tensor)
        classes = rearrange(probs, "b (m k) ... -> m b k ...", m=count).argmax(dim=2)
        num_classes = probs.shape[1] // count
        return classes.to(torch.uint8 if num_classes <= 256 else torch.int32)

    fit = max(_VOXELS_OF_ALL // max(voxels, voxels_at_once), 1)
    return torch.cat(_in_parts(networks.count, min(fit, networks.at_once), labels))


def _in_parts(
    count: int, at_once: int, call: Callable[[slice], torch.Tensor]
) -> list[torch.Tensor]:
    """The results for all rows, at most `at_once` together; where memory is short, fewer."""
    found: list[torch.Tensor] = []
    start, at_once = 0, min(at_once, count)
    while start < count:
        rows = slice(start, min(start + at_once, count))
        try:
            found.append(call(rows))
        except RuntimeError as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
        else:
            start = rows.stop
            continue
        # Not inside `except`, where the error still holds the tensors.
        at_once = (at_once + 1) // 2
        torch.cuda.empty_cache()
    return found


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a device has too little memory: for a tensor, or for a graph or a kernel, of which
    drivers tell in words. MONAI raises an error of its own from that."""
    return isinstance(error, RuntimeError) and (
        "out of memory" in str(error) or is_out_of_memory(error.__cause__)
    )


def check_overlap(overlap: float) -> None:
    """Raise RWLossError unless the overlap is from 0 to below 1."""
    if not 0 <= overlap < 1:
        raise RWLossError(f"expected an overlap from 0 to below 1, got {overlap}")


def label_map(
    network: nn.Module, volume: TrainingVolume, settings: RunSettings
) -> NDArray[np.int64]:
    """The most probable class at each voxel of a case. -> labels (*s)."""
    found = _of_volume(_of_run(network, settings), volume, settings)
    return found[0].cpu().numpy().astype(np.int64)


def _of_run(network: nn.Module, settings: RunSettings) -> Networks:
    """The network of one run."""
    return _alone(network, settings.dims, next(network.parameters()).device)


def _of_volume(networks: Networks, volume: TrainingVolume, settings: RunSettings) -> torch.Tensor:
    """The most probable class at each voxel of a case, by each network. -> (m *s)."""
    assert settings.patch_size is not None  # run.toml holds the value it took
    axis = settings.slice_axis or 0
    return labels_of_each(networks, volume.image, settings.patch_size, axis=axis)


def score_volumes(
    network: nn.Module,
    volumes: Iterable[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
) -> Scores:
    """Scores of the label maps that a network predicts, by the metrics of the settings, and Dice,
    which studies compare."""
    networks = _of_run(network, settings)
    return score_each(networks, volumes, settings, class_names)[0]


def score_each(
    networks: Networks,
    volumes: Iterable[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
) -> list[Scores]:
    """As `score_volumes` for each network. A case is in memory while it is scored."""
    cases: list[list[CaseScore]] = [[] for _ in range(networks.count)]
    for volume in volumes:
        found = _of_volume(networks, volume, settings).cpu().numpy()
        for own, labels in zip(cases, found, strict=True):
            scores = score(
                labels,
                volume.labels,
                len(class_names),
                volume.spacing_mm,
                name=volume.name,
                metrics=("dice", *settings.metrics),
                tolerance_mm=settings.nsd_tolerance,
            )
            own.append(scores)
    return [Scores(tuple(own), tuple(class_names)) for own in cases]


Dice: TypeAlias = dict[str, float | None]
"""Mean Dice by the name of the class."""


def mean_dice(
    network: nn.Module,
    volumes: Sequence[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
) -> Dice:
    """Mean Dice per foreground class over whole cases.

    Missed classes and false alarms count as 0; None if no case has the class in either.
    """
    networks = _of_run(network, settings)
    return mean_dice_of_each(networks, volumes, settings, class_names)[0]


def mean_dice_of_each(
    networks: Networks,
    volumes: Sequence[TrainingVolume],
    settings: RunSettings,
    class_names: Sequence[str],
) -> list[Dice]:
    """As `mean_dice` for each network. The device is waited for once, after all cases."""
    num_classes = len(class_names)
    # (v m k + 1 k), of true and predicted classes; the first row is of ignored voxels.
    tables = torch.empty(
        (len(volumes), networks.count, num_classes + 1, num_classes),
        dtype=torch.int64,
        device=networks.device,
    )
    for table, volume in zip(tables, volumes, strict=True):
        table.copy_(_table(_of_volume(networks, volume, settings), volume.labels, num_classes))
    found = tables.cpu().numpy()[:, :, 1:]
    common = found.diagonal(axis1=2, axis2=3)
    sizes = found.sum(axis=2) + found.sum(axis=3)
    return [
        {
            name: _mean(common[:, member, label], sizes[:, member, label])
            for label, name in enumerate(class_names[1:], start=1)
        }
        for member in range(networks.count)
    ]


def _mean(common: NDArray[np.int64], sizes: NDArray[np.int64]) -> float | None:
    """The mean Dice over the cases that have the class in truth or prediction. (v), (v)."""
    dice = [2 * both / of for both, of in zip(common.tolist(), sizes.tolist(), strict=True) if of]
    return statistics.fmean(dice) if dice else None


def _table(found: torch.Tensor, labels: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Numbers of voxels by network, true class + 1 (or 0 if ignored), and predicted class.

    found (m *s), labels (*s) -> (m k + 1 k).
    """
    check_labels(labels, num_classes)
    truth = torch.from_numpy(labels).to(found.device).flatten().clamp(min=-1) + 1

    def tables(rows: slice) -> torch.Tensor:
        shape = rows.stop - rows.start, num_classes + 1, num_classes
        at = truth * num_classes + found[rows].flatten(1)
        at += math.prod(shape[1:]) * torch.arange(len(at), device=at.device)[:, None]
        return at.flatten().bincount(minlength=math.prod(shape)).view(shape)

    return torch.cat(_in_parts(len(found), max(_VOXELS_OF_ALL // labels.size, 1), tables))


def selection_score(dice: Mapping[str, float | None]) -> float:
    """The score that selects the checkpoint: the mean over foreground classes of their mean Dice.

    Classes that no validation case has, in truth or prediction, are left out. The highest score
    wins; if several are equal, the earliest.

    >>> round(selection_score({"anterior": 0.8, "posterior": 0.0, "absent": None}), 3)
    0.4
    """
    known = [value for value in dice.values() if value is not None]
    return sum(known) / len(known) if known else 0.0
