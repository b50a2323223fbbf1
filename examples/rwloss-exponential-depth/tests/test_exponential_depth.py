"""The map through its entry point: the kit, and the formula where the depth is known."""

import numpy as np
import pytest

from rwloss import RWLossError, maps
from rwloss.testing import closed_forms, parametrize_with_map_checks


def test_it_is_installed():
    """Its name is known, and its text reads back."""
    assert "exponential_depth" in maps.names()
    expression = maps.parse("exponential_depth(tau_mm=2) + 0.1 * boundary")
    assert str(expression) == "exponential_depth(tau_mm=2.0) + 0.1 * boundary"


def test_tau_is_above_zero():
    """The type of a parameter may carry its limits."""
    with pytest.raises(RWLossError, match="tau_mm=0"):
        maps.get("exponential_depth", tau_mm=0)


@parametrize_with_map_checks(
    [maps.get("exponential_depth"), maps.get("exponential_depth", tau_mm=0.5)]
)
def test_it_is_a_map(generator, check):
    """What must be true of any map, and what the tags promise."""
    check(generator)


@pytest.mark.parametrize("form", closed_forms(), ids=str)
def test_formula(form):
    """Half-spaces, slabs, balls and single voxels, in 2-D and 3-D."""
    rwmap = maps.get("exponential_depth", tau_mm=2)(form.regions)
    depth_mm = -2 * np.log1p(rwmap.true)
    assert np.abs(depth_mm - form.depth_mm).max() <= form.within_mm + 1e-4
    assert (rwmap.other == 1).all()
