"""Lesions found and invented, against an independent count by SimpleITK's components."""

import numpy as np
import pytest

from rwloss.metrics import measure

NAMES = ("lesion_precision", "lesion_recall", "lesion_f1")


def by_simpleitk(predicted, truth):
    """Precision, recall and F1 of fully connected components that share a voxel."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    shares = []
    for mask, other in ((predicted, truth), (truth, predicted)):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
        touched = {int(part) for part, there in zip(parts.flat, other.flat, strict=True) if there}
        shares.append(len(touched - {0}) / parts.max())
    return [*shares, 2 * shares[0] * shares[1] / sum(shares)]


@pytest.mark.parametrize("shape", [(25, 30), (12, 14, 10)])
def test_against_simpleitk(shape):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = rng.random(shape) < 0.08
        predicted = (truth & (rng.random(shape) < 0.6)) | (rng.random(shape) < 0.02)
        found = measure(predicted, truth, NAMES)
        wanted = by_simpleitk(predicted, truth)
        assert [found[name] for name in NAMES] == pytest.approx(wanted)
        assert 0 < min(wanted) < 1


def test_one_prediction_may_find_two_lesions():
    """And a lesion that touches by a corner is the same one."""
    truth = np.zeros((5, 9), bool)
    truth[1, 1] = truth[2, 2] = truth[2, 6] = truth[4, 8] = True
    predicted = np.zeros_like(truth)
    predicted[2, 1:7] = predicted[0, 8] = True
    found = measure(predicted, truth, NAMES)
    assert [found[name] for name in NAMES] == pytest.approx([1 / 2, 2 / 3, 4 / 7])
