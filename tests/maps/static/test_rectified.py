"""Rectified map: a ball, then naive SciPy class by class. See test_closed_forms for the rest."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import ball, batch

from rwloss import Regions, RWLossError, maps


def rectified(labels, num_classes, spacing=None, **more):
    return maps.Rectified()(Regions(labels, num_classes, spacing, **more))


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=0)


# --- Closed forms


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5)], ids=str)
def test_ball(spacing):
    """-1 at the centre, and towards 0 with the distance from it."""
    radius = 9.0
    labels, from_centre = ball(spacing, radius)
    true = rectified(labels, 2, spacing).true[0]
    inside = labels[0] == 1
    assert true[13, 13, 13] == -1
    slack = 2 * np.linalg.norm(spacing) / radius
    assert np.abs(true[inside] - (from_centre[inside] / radius - 1)).max() <= slack


def test_small_component_beside_a_large_one_of_its_class():
    """The maximum is of the class, so the small one is worth little."""
    labels = np.zeros((1, 30, 30), dtype=np.uint8)
    labels[0, 2:21, 2:21] = 1  # 10 deep
    labels[0, 27, 27] = 1
    assert rectified(labels, 2).true[0, 27, 27] == np.float32(-0.1)


# --- Naive SciPy, class by class


@pytest.mark.parametrize("shape", plain.shapes_up_to((3, 3)), ids=str)
def test_every_label_map_of_three_classes(shape):
    every = plain.every_partition if shape == (3, 3) else plain.every_label_map
    labels = every(shape, 3)
    assert_close(rectified(labels, 3).dense(), plain.rectified(labels, 3, [(1, 1)] * len(labels)))


ANATOMY = [
    ((31, 23), (1.0, 1.0)),
    ((31, 23), (0.7, 2.5)),
    ((13, 11, 8), (0.8, 0.8, 2.5)),
    ((13, 11, 8), (3.0, 1.0, 1.0)),
]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("shape", "spacing"), ANATOMY, ids=str)
def test_anatomy(kind, shape, spacing):
    labels = batch(31, shape)
    found = rectified(kind(labels), 5, spacing)
    assert found.is_compact
    assert isinstance(found.true, type(kind(labels)))
    dense = np.asarray(found.dense())
    assert dense.dtype == np.float32
    assert_close(dense, plain.rectified(labels, 5, [spacing] * 3))
    assert dense.min() == -1
    assert dense.max() == 1


def test_each_image_has_its_spacing_and_its_maximum():
    labels, spacings = batch(32, (15, 12)), [(1.0, 1.0), (0.8, 2.5), (3.0, 0.5)]
    assert_close(rectified(labels, 4, spacings).dense(), plain.rectified(labels, 4, spacings))


def test_ignored_voxels():
    labels = batch(33, (15, 12)).astype(int)
    labels[:, :, 8:] = 9
    found = rectified(labels, 4, (0.8, 2.5), ignore_label=9).dense()
    wanted = plain.rectified(np.where(labels == 9, -1, labels), 4, [(0.8, 2.5)] * 3)
    assert_close(found, wanted)


# --- Each component its own maximum


def component(labels, num_classes, spacing=None, **parameters):
    regions = Regions(labels, num_classes, spacing, ignore_label=-1)
    return maps.Rectified(scope="component", **parameters)(regions)


def test_small_component_beside_a_large_one_has_its_own_maximum():
    labels = np.zeros((1, 30, 30), dtype=np.uint8)
    labels[0, 2:21, 2:21] = 1  # 10 deep
    labels[0, 24:27, 24:27] = 1  # 2 deep
    labels[0, 29, 29] = 1
    found = component(labels, 2).true[0]
    assert found[29, 29] == found[11, 11] == found[25, 25] == -1
    assert found[24, 24] == -0.5
    assert found[2, 5] == np.float32(-0.1)


def test_components_that_touch_at_a_corner_are_one():
    labels = np.zeros((1, 8, 8), dtype=np.uint8)
    labels[0, :3, :3] = 1  # 2 deep on the edges of the image: 3
    labels[0, 3, 3] = 1
    assert component(labels, 2).true[0, 3, 3] == np.float32(-1 / 3)


@pytest.mark.parametrize("shape", plain.shapes_up_to((3, 2)), ids=str)
def test_components_of_every_label_map_of_three_classes(shape):
    labels = plain.every_label_map(shape, 3)
    wanted = plain.rectified(labels, 3, [(1, 2)] * len(labels), "component")
    assert_close(component(labels, 3, (1, 2)).dense(), wanted)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("shape", "spacing"), ANATOMY, ids=str)
def test_components_of_anatomy(kind, shape, spacing):
    labels = batch(34, shape).astype(np.int64)
    labels[1] = 2  # fills the image
    labels[2, 3:6] = -1
    found = component(kind(labels), 4, spacing)
    assert found.is_compact
    wanted = plain.rectified(labels, 4, [spacing] * 3, "component")
    assert_close(np.asarray(found.dense()), wanted)


def test_one_component_is_the_whole_class():
    labels = np.zeros((1, 12, 9), dtype=np.uint8)
    labels[0, 3:9, 2:7] = 1
    found = component(labels, 2, (0.8, 2.5))
    np.testing.assert_array_equal(found.true, rectified(labels, 2, (0.8, 2.5)).true)


def test_components_of_no_images():
    labels = np.zeros((0, 4, 5), dtype=np.uint8)
    assert component(labels, 2).dense().shape == (0, 2, 4, 5)


# --- Clipped


def test_clipped_by_hand():
    """Depths 1, 2, 3, 4 and 1, 2 in rows of 2 mm, clipped at 5 mm."""
    labels = np.repeat([0, 1], [4, 2])[None, :, None] * np.ones((1, 6, 3), dtype=int)
    found = maps.Rectified(clip_mm=5.0)(Regions(labels, 2, (2.0, 9.0)))
    np.testing.assert_allclose(found.true[0, :, 0], [-1, -1, -0.8, -0.4, -0.5, -1], rtol=1e-6)
    np.testing.assert_array_equal(found.other, 1)


@pytest.mark.parametrize(
    ("scope", "clip_mm"), [("component", 0.5), ("image", 1.7), ("component", 3.0)]
)
@pytest.mark.parametrize(("shape", "spacing"), ANATOMY, ids=str)
def test_clipped_anatomy(scope, clip_mm, shape, spacing):
    labels = batch(35, shape).astype(np.int64)
    labels[1] = 2  # fills the image
    labels[2, 3:6] = -1
    regions = Regions(labels, 4, spacing, ignore_label=-1)
    found = maps.Rectified(scope=scope, clip_mm=clip_mm)(regions).dense()
    assert_close(found, plain.rectified(labels, 4, [spacing] * 3, scope, clip_mm))


def test_clip_beyond_every_depth_changes_nothing():
    labels = batch(36, (15, 12))
    found = maps.Rectified(clip_mm=1e6)(Regions(labels, 4)).true
    np.testing.assert_array_equal(found, rectified(labels, 4).true)


def test_clip_below_every_depth_leaves_no_depth():
    found = maps.Rectified(clip_mm=1e-3)(Regions(batch(36, (15, 12)), 4)).true
    np.testing.assert_array_equal(found, -1)


# --- Weighted by the true class

RULES = {**plain.WEIGHT_RULES, (0.25, 1.0, 8.0, 3.0): (0.25, 1.0, 8.0, 3.0)}


@pytest.mark.parametrize("scope", ["image", "component"])
@pytest.mark.parametrize("weights", RULES, ids=str)
@pytest.mark.parametrize(("shape", "spacing"), ANATOMY[1:3], ids=str)
def test_weights_multiply_the_voxel(scope, weights, shape, spacing):
    """By the weight of its true class, at all classes alike: never a channel."""
    labels = batch(37, shape).astype(np.int64)
    labels[1] = 2
    labels[2, 3:6] = -1
    regions = Regions(labels, 4, spacing, ignore_label=-1)
    found = maps.Rectified(scope=scope, weights=weights)(regions).dense()
    weight = -plain.class_weighted(labels, 4, RULES[weights]).sum(axis=1)
    plainly = maps.Rectified(scope=scope)(regions).dense()
    np.testing.assert_allclose(found, plainly * weight[:, None], rtol=1e-5)


def test_weights_by_hand():
    """Three voxels of class 0 and one of class 1: 2/3 and 2."""
    found = maps.Rectified(weights="inverse")(Regions(np.array([[[0, 0], [1, 0]]]), 2))
    depths = np.array([[1, 2**0.5], [1, 1]]) / np.array([[2**0.5, 2**0.5], [1, 2**0.5]])
    weight = np.array([[2 / 3, 2 / 3], [2, 2 / 3]])
    np.testing.assert_allclose(found.true[0], -weight * depths, rtol=1e-6)
    np.testing.assert_allclose(found.other[0], weight, rtol=1e-6)


def test_equal_weights_change_nothing():
    regions = Regions(batch(38, (15, 12)), 4)
    found = maps.Rectified(weights=(1.0, 1.0, 1.0, 1.0))(regions)
    np.testing.assert_array_equal(found.dense(), maps.Rectified()(regions).dense())


# --- Parameters


@pytest.mark.parametrize("scope", ["volume", "", None, 1])
def test_scope_that_it_does_not_know(scope):
    with pytest.raises(RWLossError, match=r"rectified\(scope="):
        maps.Rectified(scope=scope)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip_mm": 0.0}, r"rectified\(clip_mm=0.0\): Input should be greater than 0"),
        ({"clip_mm": -1}, "should be greater than 0"),
        ({"clip_mm": np.inf}, "should be a finite number"),
        ({"clip_mm": "far"}, r"rectified\(clip_mm='far'\)"),
        ({"weights": (1.0, 0.0)}, "should be greater than 0"),
        ({"weights": "inverze"}, r"rectified\(weights='inverze'\)"),
        ({"weights": "inverse", "beta": 1.0}, "should be less than 1"),
    ],
    ids=str,
)
def test_parameters_out_of_range(wrong, message):
    with pytest.raises(RWLossError, match=message):
        maps.Rectified(**wrong)


def test_weights_of_another_number_of_classes():
    with pytest.raises(RWLossError, match="rectified: 2 weights given for 4 classes"):
        maps.Rectified(weights=(1.0, 2.0))(Regions(batch(39, (6, 7)), 4))
