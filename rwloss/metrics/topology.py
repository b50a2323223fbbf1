"""Betti numbers of masks, and their errors: components, holes and tunnels, cavities."""

from __future__ import annotations

import itertools

import numpy as np

from rwloss.metrics.class_pair import ClassPair, Mask


def betti_numbers(mask: Mask) -> tuple[int, ...]:
    """The Betti numbers of a mask, as many as it has axes. (*s) boolean, 2-D or 3-D.

    Voxels are closed squares or cubes, which join where they share a corner: components are 8- or
    26-connected, and the background between them is 4- or 6-connected. This is the cubical complex
    of GUDHI's `top_dimensional_cells`. In 2-D: components, holes. In 3-D: components, tunnels,
    cavities; tunnels follow from the Euler number, because b0 - b1 + b2 is that of the complex.
    What lies beyond the image is background.

    >>> betti_numbers(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
    (1, 1)
    """
    from scipy.ndimage import label

    components = int(label(mask, np.ones((3,) * mask.ndim))[1])
    enclosed = int(label(~np.pad(mask, 1))[1]) - 1
    if mask.ndim == 2:
        return components, enclosed
    return components, components + enclosed - _euler_number(mask), enclosed


def _euler_number(mask: Mask) -> int:
    """Number of even-dimensional minus odd-dimensional cells, in the complex of closed voxels.

    The cells that run along some axes and are thin along the others belong to the mask where one
    of the voxels on either side does.
    """
    total = 0
    for thin in itertools.product((False, True), repeat=mask.ndim):
        cells = mask
        for axis, is_thin in enumerate(thin):
            if is_thin:
                wide = np.pad(np.moveaxis(cells, axis, 0), [(1, 1)] + [(0, 0)] * (mask.ndim - 1))
                cells = np.moveaxis(wide[1:] | wide[:-1], 0, axis)
        sign = -1 if (mask.ndim - sum(thin)) % 2 else 1
        total += sign * int(np.count_nonzero(cells))
    return total


def betti_error(pair: ClassPair, number: int) -> float | None:
    """|b(P) - b(T)| of a Betti number; at least 1 where one side lacks the class.

    So a model that misses a class without holes does not get the best error. None for a number that
    does not exist: b2 in 2-D.
    """
    if number >= pair.truth.ndim:
        return None
    predicted, truth = (numbers[number] for numbers in pair.betti_numbers)
    return float(max(abs(predicted - truth), 0 if pair.both else 1))
