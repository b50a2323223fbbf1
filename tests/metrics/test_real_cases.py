"""Metrics of real masks against the numbers of others' code, and published Betti numbers.

The code was run on the same masks: google-deepmind/surface-distance at 1f805cea, Boundary IoU
(bowenc0221/boundary-iou-api at 37d25586), clDice (jocpae/clDice at 47d31a6c), GUDHI 3.13, and the
lesion detection of the WMH challenge (hjkuijf/wmhchallenge at 2e628cbe).
"""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rwloss import data, metrics


def slice_of(folder, name):
    return np.asarray(Image.open(folder / name)) > 0


def hippocampus(shared_data):
    """A structure, moved by a voxel along two axes of different spacing."""
    folder = shared_data("hippocampus") / "labelsTr"
    truth = data.read_labels(folder / "hippocampus_003.nii.gz").labels == 1
    return np.roll(truth, (1, 1), (0, 2)), truth, (0.7, 1.0, 2.5)


def lesions(shared_data):
    """Lesions without those that are small: a median over 27 voxels."""
    folder = shared_data("ms_lesions") / "labelsTr"
    truth = data.read_labels(folder / "ms_07.nii.gz").labels > 0
    return ndimage.median_filter(truth, 3), truth, (1.0, 1.0, 1.0)


def vessels(shared_data):
    """Vessels, broken where they are thin, which touch the border."""
    truth = slice_of(shared_data("hrf_vessels") / "labelsTr", "hrf_01_dr.png")
    return ndimage.median_filter(truth, 3), truth, (0.5, 1.0)


def mortar(shared_data):
    """Labels that a program made against those of a person."""
    folder = shared_data("topomortar")
    return *(slice_of(folder / f"labelsTr{by}", "topomortar_001.png") for by in ("_pseudo", "")), (
        1,
        1,
    )


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (
            hippocampus,
            {
                "surface_dice": 0.8879732423717001, "surface_dice_at_2": 0.9651229739387427,
                "cl_dice": 0.832, "lesion_recall": 1.0, "lesion_f1": 1.0,
                "betti_0_error": 0, "betti_1_error": 0, "betti_2_error": 0,
            },
        ),
        (
            lesions,
            {
                "surface_dice": 0.7956169958674757, "surface_dice_at_2": 0.8300824604286343,
                "cl_dice": 0.5207100591715976,
                "lesion_recall": 0.4594594594594595, "lesion_f1": 0.6296296296296297,
                "betti_0_error": 37 - 17, "betti_1_error": 1, "betti_2_error": 0,
            },
        ),
        (
            vessels,
            {
                "surface_dice": 0.8430470803873131, "surface_dice_at_2": 0.8765829234497879,
                "boundary_iou": 0.7700414369147444, "cl_dice": 0.7567576753808662,
                "lesion_recall": 1.0, "lesion_f1": 0.9991755976916735,
                "betti_0_error": 607 - 1, "betti_1_error": 50 - 9,
            },
        ),
        (
            mortar,
            {
                "surface_dice": 0.8664258083252978, "surface_dice_at_2": 0.9207594756567492,
                "boundary_iou": 0.8933223669586093, "cl_dice": 0.9717039193088423,
                "lesion_recall": 0.5, "lesion_f1": 0.6666666666666666,
                "betti_0_error": 2 - 1, "betti_1_error": 38 - 30,
            },
        ),
    ],
)  # fmt: skip
def test_metrics_equal_those_of_their_authors(case, wanted, shared_data):
    predicted, truth, spacing_mm = case(shared_data)
    found = metrics.measure(predicted, truth, wanted, spacing_mm=spacing_mm)
    assert found == pytest.approx(wanted, rel=1e-8)


PUBLISHED = {
    71: (1, 41),
    72: (1, 33),
    73: (2, 259),
    74: (1, 124),
    75: (1, 38),
    76: (1, 321),
    77: (1, 66),
    78: (1, 68),
    79: (1, 7),
    80: (1, 63),
    81: (1, 43),
    82: (1, 282),
    83: (1, 53),
    84: (1, 70),
    85: (1, 45),
    86: (1, 48),
    87: (1, 55),
    88: (1, 11),
    89: (2, 31),
    90: (1, 46),
    91: (1, 36),
    92: (1, 56),
    93: (1, 93),
    94: (1, 36),
    95: (1, 239),
}
"""Test image -> components and holes: dataset/betti_numbers.csv of jmlipman/TopoMortar at f709b3c7,
which GUDHI counted."""


def test_betti_numbers_equal_the_published_ones(shared_data):
    folder = shared_data("topomortar") / "labelsTs"
    files = sorted(folder.glob("*.png"))
    found = {
        int(file.stem[-3:]): metrics.betti_numbers(slice_of(folder, file.name)) for file in files
    }
    assert found == PUBLISHED
