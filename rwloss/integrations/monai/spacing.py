"""Voxel spacing as MONAI keeps it: in the affine of a MetaTensor."""

from __future__ import annotations

from itertools import combinations, cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor

MADE_AT = "rwmap_spacing_mm"
"""A key of a map's metadata: its spacing when it was made, a tensor of one row."""


def spacing_of(tensor: Tensor, axes: int) -> Any:
    """Millimetres for each spatial axis in the order of the array; None without an affine.

    One image gives a number for each axis, a batch such a row an image.
    """
    affine = getattr(tensor, "affine", None)  # of a MetaTensor
    if affine is None:
        return None
    affine = torch.as_tensor(affine, dtype=torch.float64).as_subclass(Tensor)
    return torch.linalg.vector_norm(affine[..., :-1, :axes], dim=-2).tolist()


def kept_its_spacing(packed: Tensor) -> bool:
    """Whether no transform changed the spacing of a batch of maps (b m *s) since they were made.

    True where there is no affine that could tell. A slice of a volume keeps what is left.
    """
    axes = packed.ndim - 2
    spacing_mm = spacing_of(packed, axes)
    if spacing_mm is None:
        return True
    made_at = getattr(packed, "meta", {}).get(MADE_AT, [1.0] * axes)  # MONAI's, where none is known
    rows = np.atleast_2d(np.sort(np.asarray(spacing_mm)))
    made_rows = np.atleast_2d(np.sort(np.asarray(torch.as_tensor(made_at).cpu())))
    return all(
        any(np.allclose(row, some, rtol=1e-3) for some in combinations(made_row, axes))
        for row, made_row in zip(rows, cycle(made_rows))
    )
