"""Squared distances with `edt`: one multi-label pass in C++ for all labels, with threads."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.work.tasks import available_cores

_chosen: int | None = None

# From this many voxels, a second thread gains more than it costs to start.
_WORTH_THREADS = 2**16


def set_num_threads(count: int | None) -> None:
    """Set the number of threads of one distance transform; None restores the default.

    count: 1 or more, or None.
    """
    global _chosen  # noqa: PLW0603 - one setting for the process, like torch.set_num_threads
    if count is not None and (isinstance(count, bool) or count != int(count) or count < 1):
        raise RWLossError(f"expected a number of threads of 1 or more, got {count!r}")
    _chosen = None if count is None else int(count)


def num_threads() -> int:
    """Threads of one distance transform.

    What `set_num_threads` chose, else the environment variable RWLOSS_NUM_THREADS, else 1 inside a
    worker process (the pool already uses the cores), else all cores that this process may use.
    """
    if _chosen is not None:
        return _chosen
    text = os.environ.get("RWLOSS_NUM_THREADS")
    if text and not (text.strip().isdecimal() and int(text) > 0):
        raise RWLossError(
            f"expected RWLOSS_NUM_THREADS to be a whole number of 1 or more, got {text!r}"
        )
    if text:
        return int(text)
    return 1 if multiprocessing.parent_process() else available_cores()


def squared_to_other_label_mm2(
    labels: NDArray[Any], spacings_mm: Sequence[tuple[float, ...]]
) -> NDArray[np.float32]:
    """Squared distance in mm² of each voxel to the nearest voxel of another label.

    labels (b *s), whole numbers of 0 or more, with a spacing for each image -> (b *s) float32;
    infinite in an image that holds one label only.
    The result has the memory order of the labels. With fractional spacings the last bit may depend
    on that order, because edt rounds to float32 in another sequence.
    """
    flags = labels[0].flags
    if flags.f_contiguous and not flags.c_contiguous:  # as NIfTI volumes are read
        turned = (0, *range(labels.ndim - 1, 0, -1))
        squared = squared_to_other_label_mm2(
            labels.transpose(turned), [spacing_mm[::-1] for spacing_mm in spacings_mm]
        )
        return squared.transpose(turned)

    # edt takes 0 for background and gives it no distance, so every label moves up by one, in a
    # type where the largest one can't wrap around. One memory order, so that the same labels give
    # the same bytes.
    top = int(labels.max()) + 1
    shifted = np.add(labels, 1, dtype=np.min_scalar_type(top), casting="unsafe", order="C")
    threads = num_threads() if shifted[0].size >= _WORTH_THREADS else 1
    if len(shifted) == 1 and not _is_single(shifted[0]):  # the usual volume: no copy
        return _of_image(shifted[0], spacings_mm[0], threads)[None]
    squared = np.empty(shifted.shape, dtype=np.float32)
    for image, spacing_mm, out in zip(shifted, spacings_mm, squared, strict=True):
        out[...] = np.inf if _is_single(image) else _of_image(image, spacing_mm, threads)
    return squared


def _is_single(image: NDArray[Any]) -> bool:
    """Whether it holds one label only: edt would need a full transform to find out."""
    first = image.flat[0]
    return bool(image.flat[-1] == first and image.min() == image.max())


def _of_image(
    shifted: NDArray[Any], spacing_mm: tuple[float, ...], threads: int
) -> NDArray[np.float32]:
    import edt

    # Along the last axis edt adds the spacing up voxel by voxel in float32: exact for whole
    # numbers only, wrong by 1e-6 after a hundred voxels of 0.3 mm. So that axis has step 1.
    whole = all(float(spacing).is_integer() for spacing in spacing_mm)
    step = 1.0 if whole else spacing_mm[-1]
    # Its anisotropy follows the axes of the array, whatever the memory order (its documentation
    # says otherwise).
    result: NDArray[np.float32] = edt.edtsq(
        shifted,
        anisotropy=tuple(spacing / step for spacing in spacing_mm),
        black_border=False,
        parallel=threads,
    )
    if not whole:
        result *= np.float32(step) ** 2
    return result
