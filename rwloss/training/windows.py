"""Labels of whole images from a network of slices or patches, by overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rwloss.errors import RWLossError
from rwloss.training.environment import require_monai
from rwloss.training.volumes import AXIAL, stacked, unstacked

OVERLAP = 0.5

_VOXELS_AT_A_TIME = 2**20


@torch.no_grad()
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

    size: the window that the network was trained on: (h w) for a network of slices, which sees
    those across `axis` of a volume one by one, or three lengths for a network of volumes. An image
    that fits is padded with 0 on all sides, as in training, and predicted at once. A larger one is
    covered by windows that overlap by this fraction of their length or more. Their probabilities
    are averaged with Gaussian weights (standard deviation an eighth of the window, minimum 0.001),
    so that the middle of a window counts more than its border.
    batch_size: windows at a time, by default about a million voxels. device: that of the network.
    The probabilities of the whole image (or of batch_size slices), 4 bytes per voxel and class,
    are held in main memory.

    Leaves the network in eval mode. Raises RWLossError for an image that does not fit the network's
    axes, an overlap outside 0..1, and if MONAI is not installed.
    """
    spatial, axes = image.ndim - 1, len(size)
    if spatial not in {2, 3} or axes not in {2, 3} or spatial < axes:
        raise RWLossError(
            f"expected an image (c *s) for windows of {axes} axes, got the shape {image.shape}"
        )
    check_overlap(overlap)
    require_monai()
    from monai.inferers.utils import sliding_window_inference

    def probabilities(windows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(windows)
        return logits.float().softmax(dim=1)

    window = tuple(size)
    if batch_size is None:
        batch_size = min(max(_VOXELS_AT_A_TIME // math.prod(window), 1), 64)
    images = image[None] if axes == 3 else stacked(image, spatial, axis)
    network.eval()
    labels = []
    for batch in torch.split(torch.from_numpy(np.ascontiguousarray(images)), batch_size):
        probs = sliding_window_inference(
            batch,
            window,
            batch_size,
            probabilities,
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device="cpu",
        )
        assert isinstance(probs, torch.Tensor)
        labels.append(probs.argmax(dim=1))
    found: NDArray[np.int64] = torch.cat(labels).numpy()
    return found[0] if axes == 3 else unstacked(found, spatial, axis)


def check_overlap(overlap: float) -> None:
    """Raise RWLossError unless the overlap is from 0 to below 1."""
    if not 0 <= overlap < 1:
        raise RWLossError(f"expected an overlap from 0 to below 1, got {overlap}")
