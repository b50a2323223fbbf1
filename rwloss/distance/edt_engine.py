"""Squared distances with `edt`: one multi-label pass in C++ for all labels, with threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.distance.threads import num_threads

# Voxels from which a second thread gains more than it costs to start.
_WORTH_THREADS = 2**16


def squared_to_other_label_mm2(
    labels: NDArray[Any], spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """Squared distance in mm² of each voxel to the nearest voxel of another label.

    labels (*s), whole numbers of 0 or more -> (*s) float32; infinite where there is one label only.
    The result lies in memory as the labels do. Spacings that are no whole numbers are rounded to
    float32 in another order then, so the last bit may follow the memory order.
    """
    import edt

    if labels.flags.f_contiguous and not labels.flags.c_contiguous:  # as NIfTI volumes are read
        return squared_to_other_label_mm2(labels.T, spacing_mm[::-1]).T

    # edt takes 0 for background and gives it no distance, so every label moves up by one, in a
    # type where the largest one can't wrap around. One memory order, so that the same labels give
    # the same bytes. Its anisotropy follows the axes of the array, whatever the memory order (its
    # documentation says otherwise).
    top = int(labels.max()) + 1
    shifted = np.add(labels, 1, dtype=np.min_scalar_type(top), casting="unsafe", order="C")
    # Along the last axis edt adds the spacing up voxel by voxel in float32: exact for whole
    # numbers only, wrong by 1e-6 after a hundred voxels of 0.3 mm. So that axis has step 1.
    whole = all(float(spacing).is_integer() for spacing in spacing_mm)
    step = 1.0 if whole else spacing_mm[-1]
    result: NDArray[np.float32] = edt.edtsq(
        shifted,
        anisotropy=tuple(spacing / step for spacing in spacing_mm),
        black_border=False,
        parallel=num_threads() if labels.size >= _WORTH_THREADS else 1,
    )
    if not whole:
        result *= np.float32(step) ** 2
    return result
