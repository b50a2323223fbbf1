import numpy as np
import pytest

from rwloss.training.slices import stacked, unstacked


@pytest.mark.parametrize("shape", [(5, 9, 3), (7, 6, 2), (8, 4)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stacked_slices_make_the_volume_again(shape, axis):
    values = np.arange(2 * np.prod(shape)).reshape(2, *shape)
    slices = stacked(values, len(shape), axis)
    assert slices.shape[0] == (shape[axis] if len(shape) == 3 else 1)
    assert slices.shape[1] == 2
    assert np.array_equal(unstacked(slices, len(shape), axis), values)
