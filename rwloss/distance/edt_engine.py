"""Squared distances with `edt`: one multi-label pass in C++ for all labels, with threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.distance.threads import num_threads


def squared_to_other_label_mm2(
    labels: NDArray[Any], spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """Squared distance in mm² of each voxel to the nearest voxel of another label.

    labels (*s), whole numbers of 0 or more -> (*s) float32; infinite where there is one label only.
    """
    import edt

    # edt takes 0 for background and gives it no distance, so every label moves up by one, in a
    # type where the largest one can't wrap around. Its anisotropy follows the axes of the array,
    # whatever the memory order (its documentation says otherwise).
    top = int(labels.max()) + 1
    shifted = np.add(labels, 1, dtype=np.min_scalar_type(top), casting="unsafe")
    result: NDArray[np.float32] = edt.edtsq(
        shifted, anisotropy=spacing_mm, black_border=False, parallel=num_threads()
    )
    return result
