"""How far a stored value is from the exact one."""

import numpy as np
import pytest

from rwloss import RWLossError
from rwloss.store.precision import MAX_ERROR, allowed_error, as_float32, largest_error


@pytest.mark.parametrize(
    ("largest", "allowed"),
    [
        (1e6, 3e-4),
        (1.5, 3e-4),
        (1.0, 3e-4),
        (0.75, 3e-4),
        (0.5, 1.5e-4),
        (0.26, 1.5e-4),
        (0.25, 0.75e-4),
        (2.0**-40, 3e-4 * 2.0**-40),
        (0.0, 0.0),
    ],
)
def test_maps_below_one_are_stored_in_proportion(largest, allowed):
    assert allowed_error(largest) == pytest.approx(allowed, rel=1e-12)
    assert allowed_error(largest) <= MAX_ERROR


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_error_of_either_sign(sign, dtype):
    exact = np.array([1.0, -2.0, 0.5], dtype)
    stored = exact + np.array([0.0, sign * 0.25, -sign * 0.125], dtype)
    assert largest_error(stored, exact) == 0.25


def test_no_error():
    values = np.linspace(-3, 3, 11, dtype=np.float32)
    assert largest_error(values, values) == 0.0
    assert largest_error(values[:0], values[:0]) == 0.0


def test_an_overflow_is_an_infinite_error():
    assert largest_error(np.float32([np.inf, 1]), np.float32([1e6, 1])) == np.inf
    assert largest_error(np.float32([-np.inf]), np.float32([-1e6])) == np.inf


def test_float64_is_compared_in_float64():
    exact = np.array([1.0 + 1e-9])
    assert largest_error(exact.astype(np.float32), exact) == pytest.approx(1e-9)


def test_float32_where_it_is_enough():
    values = np.linspace(-3, 3, 11)
    single, error = as_float32(values)
    assert single.dtype == np.float32
    assert error == np.abs(single - values).max() > 0
    assert as_float32(single) == (single, 0.0)


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_values_beyond_float32(value):
    with pytest.raises(RWLossError, match=r"up to 1e\+.*beyond float32: give .* a smaller weight"):
        as_float32(np.array([0.0, value]))
