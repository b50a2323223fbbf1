"""The inputs of the checks are what they say."""

import numpy as np
import pytest

from rwloss.testing import trial


@pytest.mark.parametrize("num_classes", [3, 4, 9, 20])
def test_ordinary_batches_hold_every_class_and_none_fills_an_image(num_classes):
    trials = list(trial.ordinary(num_classes))
    assert {of.labels.ndim for of in trials} == {3, 4}
    assert sorted(of.labels.size for of in trials[:2]) == [of.labels.size for of in trials[:2]]
    for of in trials:
        for image in of.labels:
            present = set(np.unique(image)) - {trial.IGNORE_LABEL}
            assert len(present) > 1
            if of.ignore_label is None:
                assert present == set(range(num_classes)), of


def test_predictions_are_probabilities_apart_from_each_other():
    for of in trial.ordinary(4):
        np.testing.assert_allclose(of.probs.sum(axis=1), 1)
        assert of.probs.min() >= 1 / 16
        steps = np.abs(np.diff(of.probs, axis=-1))
        assert steps[steps > 0].min() >= 1 / 17


def test_small_inputs_are_shown_whole():
    first = next(trial.ordinary(4))
    assert str(first.labels.tolist()) in str(first)
    assert len(str(list(trial.ordinary(4))[-1])) < 200


def test_one_image_of_a_batch():
    of = next(of for of in trial.ordinary(4) if len(of.labels) > 2)
    one = of.image(2)
    assert one.labels.shape[0] == one.probs.shape[0] == len(one.spacing_mm) == 1
    assert (one.labels[0] == of.labels[2]).all()
    assert one.spacing_mm[0] == of.spacing_mm[2] != of.spacing_mm[0]
