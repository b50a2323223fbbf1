"""Rectified map: values by hand. See test_plain_formulas and test_closed_forms for the rest."""

import numpy as np
import pytest
from anatomy import ball, batch

from rwloss import Regions, RWLossError, maps


def rectified(labels, spacing=None, **parameters):
    """Value at the true class, two classes. labels (b *s) -> (b *s)."""
    return maps.Rectified(**parameters)(Regions(labels, 2, spacing)).true


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5)], ids=str)
def test_ball(spacing):
    """-1 at the centre, and towards 0 with the distance from it."""
    radius = 9.0
    labels, from_centre = ball(spacing, radius)
    true = rectified(labels, spacing)[0]
    inside = labels[0] == 1
    assert true[13, 13, 13] == -1
    slack = 2 * np.linalg.norm(spacing) / radius
    assert np.abs(true[inside] - (from_centre[inside] / radius - 1)).max() <= slack


def test_small_components_beside_a_large_one():
    """The maximum is of the class, or of each component."""
    labels = np.zeros((1, 30, 30), dtype=np.uint8)
    labels[0, 2:21, 2:21] = 1  # 10 deep
    labels[0, 24:27, 24:27] = 1  # 2 deep
    labels[0, 29, 29] = 1
    of_class, of_each = rectified(labels)[0], rectified(labels, scope="component")[0]
    assert of_class[29, 29] == of_each[2, 5] == np.float32(-0.1)
    assert of_each[29, 29] == of_each[11, 11] == of_each[25, 25] == -1
    assert of_each[24, 24] == -0.5


def test_components_that_touch_at_a_corner_are_one():
    labels = np.zeros((1, 8, 8), dtype=np.uint8)
    labels[0, :3, :3] = 1  # 2 deep on the edges of the image: 3
    labels[0, 3, 3] = 1
    assert rectified(labels, scope="component")[0, 3, 3] == np.float32(-1 / 3)


def test_one_component_is_the_whole_class():
    labels = np.zeros((1, 12, 9), dtype=np.uint8)
    labels[0, 3:9, 2:7] = 1
    found = rectified(labels, (0.8, 2.5), scope="component")
    np.testing.assert_array_equal(found, rectified(labels, (0.8, 2.5)))
    assert rectified(labels[:0], scope="component").shape == (0, 12, 9)


def test_clipped_by_hand():
    """Depths 1, 2, 3, 4 and 1, 2 in rows of 2 mm, clipped at 5 mm."""
    labels = np.repeat([0, 1], [4, 2])[None, :, None] * np.ones((1, 6, 3), dtype=int)
    found = rectified(labels, (2.0, 9.0), clip_mm=5.0)
    np.testing.assert_allclose(found[0, :, 0], [-1, -1, -0.8, -0.4, -0.5, -1], rtol=1e-6)


def test_clips_beyond_every_depth_and_below():
    labels = batch(36, (15, 12)) % 2
    np.testing.assert_array_equal(rectified(labels, clip_mm=1e6), rectified(labels))
    np.testing.assert_array_equal(rectified(labels, clip_mm=1e-3), -1)


def test_weights_by_hand():
    """Three voxels of class 0 and one of class 1: 2/3 and 2."""
    found = maps.Rectified(weights="inverse")(Regions(np.array([[[0, 0], [1, 0]]]), 2))
    depths = np.array([[1, 2**0.5], [1, 1]]) / np.array([[2**0.5, 2**0.5], [1, 2**0.5]])
    weight = np.array([[2 / 3, 2 / 3], [2, 2 / 3]])
    np.testing.assert_allclose(found.true[0], -weight * depths, rtol=1e-6)
    np.testing.assert_allclose(found.other[0], weight, rtol=1e-6)


def test_equal_weights_change_nothing():
    labels = batch(38, (15, 12)) % 2
    np.testing.assert_array_equal(rectified(labels, weights=(1.0, 1.0)), rectified(labels))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *[({"scope": scope}, r"rectified\(scope=") for scope in ("volume", "", None, 1)],
        (
            {"clip_mm": 0.0},
            r"\(clip_mm=0.0\): must be a finite number greater than 0, or None",
        ),
        ({"clip_mm": -1}, "must be a finite number greater than 0"),
        ({"clip_mm": np.inf}, "must be a finite number greater than 0"),
        ({"clip_mm": "far"}, r"rectified\(clip_mm='far'\)"),
        ({"weights": (1.0, 0.0)}, "each a finite number greater than 0"),
        ({"weights": "inverze"}, r"rectified\(weights='inverze'\)"),
        ({"weights": "inverse", "beta": 1.0}, "must be a finite number at least 0 and less than 1"),
    ],
    ids=str,
)
def test_parameters_out_of_range(wrong, message):
    with pytest.raises(RWLossError, match=message):
        maps.Rectified(**wrong)
