"""Voxel spacing as MONAI keeps it: in the affine of a MetaTensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def spacing_of(tensor: Tensor, axes: int) -> Any:
    """Millimetres for each spatial axis in the order of the array; None without an affine.

    One image gives a number for each axis, a batch such a row an image.
    """
    affine = getattr(tensor, "affine", None)  # of a MetaTensor
    if affine is None:
        return None
    affine = torch.as_tensor(affine, dtype=torch.float64).as_subclass(Tensor)
    return torch.linalg.vector_norm(affine[..., :-1, :axes], dim=-2).tolist()
