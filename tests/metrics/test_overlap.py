"""Overlap of volumes, boundaries and center lines against plain formulas and MONAI."""

import numpy as np
import pytest
from scipy import ndimage

from rwloss.metrics import measure


def blobs(shape, seed=0):
    """Two smooth masks that overlap and touch the border."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((2, *shape)), (0, *(2,) * len(shape)))
    return noise > np.median(noise, axis=tuple(range(1, noise.ndim)), keepdims=True)


def test_iou_equals_that_of_monai():
    import torch
    from monai.metrics import compute_iou

    predicted, truth = blobs((30, 40))
    masks = (torch.from_numpy(mask)[None, None] for mask in (predicted, truth))
    assert measure(predicted, truth, ["iou"])["iou"] == pytest.approx(float(compute_iou(*masks)))


@pytest.mark.parametrize("shape", [(40, 50), (90, 170), (30, 40, 60)])
def test_boundaries_are_what_erosions_take(shape):
    """As the paper says it: d erosions by a square, d of 2 % of the diagonal."""
    predicted, truth = blobs(shape)
    width = max(1, round(0.02 * np.linalg.norm(shape)))
    element = np.ones((3,) * len(shape))
    first, second = (
        mask & ~ndimage.binary_erosion(mask, element, iterations=width)
        for mask in (predicted, truth)
    )
    wanted = (first & second).sum() / (first | second).sum()
    found = measure(predicted, truth, ["boundary_iou"])["boundary_iou"]
    assert 0 < found < 1
    assert found == pytest.approx(wanted)


def test_center_lines():
    """A bar and its half: the half's line lies in the bar, half of the bar's line in the half."""
    bar = np.zeros((9, 44), bool)
    bar[3:6, 2:42] = True
    half = bar.copy()
    half[:, 22:] = False
    found = measure(half, bar, ["cl_dice", "dice"])
    assert found["dice"] == pytest.approx(2 / 3)
    assert found["cl_dice"] == pytest.approx(2 / 3, abs=0.02)
    gap = bar.copy()
    gap[:, 20] = False
    assert measure(gap, bar, ["cl_dice"])["cl_dice"] > 0.95


def test_parts_of_even_thickness_have_a_center_line():
    """scikit-image deletes them in 3-D, so that the official code knows no overlap of them."""
    cube = np.zeros((8, 8, 8), bool)
    cube[2:6, 2:6, 2:6] = True
    assert measure(cube, cube, ["cl_dice"])["cl_dice"] == 1.0


def test_volumes():
    truth = np.zeros((4, 10), bool)
    truth[1, :8] = True
    for length, difference in ((2, -0.75), (8, 0.0), (10, 0.25)):
        predicted = np.zeros_like(truth)
        predicted[1, :length] = True
        found = measure(predicted, truth, ["relative_volume_difference", "relative_volume_error"])
        assert found["relative_volume_difference"] == difference
        assert found["relative_volume_error"] == abs(difference)
