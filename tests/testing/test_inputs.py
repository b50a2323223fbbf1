"""The inputs of the checks are what they say."""

import numpy as np
import pytest

from rwloss.testing import inputs


@pytest.mark.parametrize("num_classes", [3, 4, 9, 20])
def test_ordinary_batches_hold_every_class_and_none_fills_an_image(num_classes):
    cases = list(inputs.ordinary(num_classes))
    assert {case.labels.ndim for case in cases} == {3, 4}
    assert sorted(case.labels.size for case in cases[:2]) == [
        case.labels.size for case in cases[:2]
    ]
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


def test_small_inputs_are_shown_whole():
    first = next(inputs.ordinary(4))
    assert str(first.labels.tolist()) in str(first)
    assert len(str(list(inputs.ordinary(4))[-1])) < 200


def test_one_image_of_a_batch():
    case = next(case for case in inputs.ordinary(4) if len(case.labels) > 2)
    one = case.image(2)
    assert one.labels.shape[0] == one.probs.shape[0] == len(one.spacing_mm) == 1
    assert (one.labels[0] == case.labels[2]).all()
    assert one.spacing_mm[0] == case.spacing_mm[2] != case.spacing_mm[0]
