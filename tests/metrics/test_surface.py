"""Surface Dice by area, and the Hausdorff distance, against MONAI and closed forms."""

import numpy as np
import pytest
from scipy import ndimage

from rwloss.metrics import measure


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("shape", [(20, 30), (12, 14, 9)])
def test_against_monai(shape):
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(1)
    predicted, truth = (ndimage.uniform_filter(rng.random(shape), 5) > 0.5 for _ in range(2))
    spacing_mm = (0.7, 1.3, 2.1)[: len(shape)]
    masks = [torch.from_numpy(mask)[None, None] for mask in (predicted, truth)]
    options = {"include_background": True, "spacing": spacing_mm}
    tolerances = (0.5, 1.5, 3.0)
    names = ["hd_mm", *(f"surface_dice_at_{each}" for each in tolerances)]
    found = measure(predicted, truth, names, spacing_mm=spacing_mm)
    hd = compute_hausdorff_distance(*masks, **options)
    assert found["hd_mm"] == pytest.approx(float(hd), rel=1e-6)
    for each in tolerances:
        wanted = compute_surface_dice(
            *masks, class_thresholds=[each], use_subvoxels=True, **options
        )
        assert 0 < float(wanted) < 1
        assert found[f"surface_dice_at_{each}"] == pytest.approx(float(wanted), rel=1e-5)


def test_lengths_of_a_rectangle_count_by_the_spacing():
    """2 x 6 pixels of 3 mm x 1 mm, and the same moved by 3 columns.

    Elements lie between pixels, so a side is one pixel shorter than the rectangle, and each corner
    is cut. Of its long sides, each has 3 elements and a corner where the other has elements.
    """
    truth, predicted = np.zeros((2, 8, 20), bool)
    truth[3:5, 2:8] = predicted[3:5, 5:11] = True
    corner = np.hypot(3, 1) / 2
    shared, whole = 2 * (3 + corner), 2 * 5 * 1 + 2 * 1 * 3 + 4 * corner
    found = measure(predicted, truth, ["surface_dice_at_0.5"], spacing_mm=(3.0, 1.0))
    assert found["surface_dice_at_0.5"] == pytest.approx(shared / whole)


def test_the_hausdorff_distance_forgives_nothing():
    """One voxel of 41 lies 20 mm off: HD95 does not see it."""
    truth = np.zeros((30, 60), bool)
    truth[5, 10:50] = True
    predicted = truth.copy()
    predicted[25, 30] = True
    assert measure(predicted, truth, ["hd_mm", "hd95_mm"]) == {"hd_mm": 20.0, "hd95_mm": 0.0}
