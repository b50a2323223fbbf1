"""The inputs of the checks are what they say; depth by formula against the distance transform."""

import numpy as np
import pytest

from rwloss import testing
from rwloss.testing import inputs

FORMS = testing.closed_forms()


def test_depth_is_that_of_the_regions():
    for form in FORMS:
        found = form.regions.depth_mm.astype(np.float64)
        assert found.shape == form.depth_mm.shape
        assert np.abs(found - form.depth_mm).max() <= form.within_mm + 1e-6, form


def test_which_closed_forms_there_are():
    """Each shape in each direction; only the ball is not exact."""
    counted = {}
    for form in FORMS:
        counted.setdefault((form.shape, form.depth_mm.ndim - 1), []).append(form.across)
    for axes in (2, 3):
        for shape in ("half-space", "slab"):
            assert counted.pop((shape, axes)) == list(range(axes))
        for shape in ("single voxel", "ball"):
            assert counted.pop((shape, axes)) == [None]
    assert not counted
    assert {form.shape for form in FORMS if form.within_mm} == {"ball"}
    assert {form.regions.num_classes for form in testing.closed_forms(5)} == {5}
    FORMS[0].regions.labels[:] = 0
    assert FORMS[0].regions.labels.any()  # they are new each time


@pytest.mark.parametrize("num_classes", [3, 4, 9, 20])
def test_ordinary_batches_hold_every_class_and_none_fills_an_image(num_classes):
    cases = list(inputs.ordinary(num_classes))
    assert {case.labels.ndim for case in cases} == {3, 4}
    assert cases[0].labels.size <= cases[1].labels.size
    for case in cases:
        for image in case.labels:
            present = set(np.unique(image)) - {inputs.IGNORE_LABEL}
            assert len(present) > 1
            if case.ignore_label is None:
                assert present == set(range(num_classes)), case


def test_predictions_are_probabilities_apart_from_each_other():
    for case in inputs.ordinary(4):
        np.testing.assert_allclose(case.probs.sum(axis=1), 1)
        assert case.probs.min() >= 1 / 16
        steps = np.abs(np.diff(case.probs, axis=-1))
        assert steps[steps > 0].min() >= 1 / 17


def test_one_image_of_a_batch():
    case = next(case for case in inputs.ordinary(4) if len(case.labels) > 2)
    one = case.image(2)
    assert one.labels.shape[0] == one.probs.shape[0] == len(one.spacing_mm) == 1
    assert (one.labels[0] == case.labels[2]).all()
    assert one.spacing_mm[0] == case.spacing_mm[2] != case.spacing_mm[0]
