"""Depth by formula against the distance transform."""

import numpy as np
import pytest

from rwloss import Regions, testing

FORMS = testing.closed_forms()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_depth_is_that_of_the_regions(form):
    found = form.regions.depth_mm.astype(np.float64)
    assert found.shape == form.depth_mm.shape
    assert np.abs(found - form.depth_mm).max() <= form.within_mm + 1e-6


def test_there_is_each_shape_in_each_direction():
    counted = {}
    for form in FORMS:
        counted.setdefault((form.shape, form.depth_mm.ndim - 1), []).append(form.across)
    assert counted == {
        ("half-space", 2): [0, 1],
        ("half-space", 3): [0, 1, 2],
        ("slab", 2): [0, 1],
        ("slab", 3): [0, 1, 2],
        ("single voxel", 2): [None],
        ("single voxel", 3): [None],
        ("ball", 2): [None],
        ("ball", 3): [None],
    }


def test_only_the_ball_is_not_exact():
    assert {form.shape for form in FORMS if form.within_mm} == {"ball"}


def test_regions_are_new_each_time():
    form = FORMS[0]
    assert isinstance(form.regions, Regions)
    form.regions.labels[:] = 0
    assert form.regions.labels.any()


def test_number_of_classes():
    assert {form.regions.num_classes for form in testing.closed_forms(5)} == {5}
