import itertools

import numpy as np
import pytest

from rwloss import RWLossError
from rwloss.training import Frame

PAIRS = list(itertools.product(range(1, 8), repeat=2))


@pytest.mark.parametrize(("length", "size"), PAIRS)
def test_puts_the_middle_in_the_middle(length, size):
    values = np.arange(1, length + 1)
    moved = Frame((length,), (size,)).put(values, fill=0)
    before, over = max(size - length, 0) // 2, max(length - size, 0) // 2
    naive = [
        values[i - before + over] if 0 <= i - before < min(length, size) else 0 for i in range(size)
    ]
    assert moved.tolist() == naive


@pytest.mark.parametrize(("length", "size"), PAIRS)
def test_back_is_the_inverse(length, size):
    frame = Frame((length, 3), (size, 4))
    values = np.arange(1, 3 * length + 1).reshape(length, 3)
    again = frame.back(frame.put(values, fill=0), fill=0)
    kept = again != 0
    assert np.array_equal(again[kept], values[kept])
    assert kept.sum() == min(length, size) * 3
    assert np.array_equal(frame.put(again, fill=0), frame.put(values, fill=0))


def test_leading_axes_stay():
    values = np.arange(24.0).reshape(2, 3, 2, 2)
    moved = Frame((2, 2), (4, 2)).put(values, fill=-1)
    assert moved.shape == (2, 3, 4, 2)
    assert np.array_equal(moved[:, :, 1:3], values)
    assert (moved[:, :, [0, 3]] == -1).all()


@pytest.mark.parametrize("size", [(3,), (3, 0), (3, 3, 3)])
def test_size_must_fit_the_axes(size):
    with pytest.raises(RWLossError, match="expected a size for each axis"):
        Frame((2, 2), size)


def test_another_shape_is_an_error():
    with pytest.raises(RWLossError, match=r"expected an array \(\.\.\. \(2, 2\)\), got \(2, 3\)"):
        Frame((2, 2), (4, 4)).put(np.zeros((2, 3)), fill=0)
