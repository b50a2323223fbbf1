"""Labels of whole volumes from a network of slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rwloss.training.frame import Frame, padded
from rwloss.training.slices import AXIAL, stacked, unstacked


@torch.no_grad()
def predict(
    network: nn.Module,
    image: NDArray[Any],
    size: Sequence[int],
    *,
    multiple_of: int = 1,
    axis: int = AXIAL,
    batch_size: int = 16,
) -> NDArray[np.int64]:
    """The most probable class of each voxel. image (c *s), normalised -> labels (*s).

    size: slices (h w) that the network was trained on; a larger image gets a larger window (in
    multiples of `multiple_of`), so that no voxel is left out. Leaves the network in eval mode.
    """
    spatial = image.ndim - 1
    slices = stacked(image, spatial, axis)
    lengths = slices.shape[2:]
    window = tuple(map(max, padded(lengths, multiple_of), size))
    frame = Frame(lengths, window)
    images = torch.from_numpy(frame.put(slices, 0.0))
    network.eval()
    labels = torch.cat([network(batch).argmax(dim=1) for batch in torch.split(images, batch_size)])
    return unstacked(frame.back(labels.numpy(), 0), spatial, axis)
