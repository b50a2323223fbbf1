"""Rectified map: closed forms, then naive SciPy class by class."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RWLossError, maps


def rectified(labels, num_classes, spacing=None, **more):
    return maps.Rectified()(Regions(labels, num_classes, spacing, **more))


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=0)


# --- Closed forms


def test_half_space():
    labels = np.repeat([0, 1], [4, 2])[None, :, None] * np.ones((1, 6, 3), dtype=int)
    found = rectified(labels, 2, (2.0, 9.0))
    np.testing.assert_array_equal(found.true[0, :, 0], [-1, -0.75, -0.5, -0.25, -0.5, -1])
    np.testing.assert_array_equal(found.other, 1)


def test_slab():
    labels = np.zeros((1, 9, 4), dtype=np.uint8)
    labels[:, 2:7] = 1
    found = rectified(labels, 2)
    third = np.float32(1) / 3
    wanted = [-1, -0.5, -third, -2 * third, -1, -2 * third, -third, -0.5, -1]
    assert_close(found.true[0, :, 0], wanted)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5)], ids=str)
def test_ball(spacing):
    """-1 at the centre, and towards 0 with the distance from it."""
    radius = 9.0
    place = np.indices((27, 27, 27)) * np.reshape(spacing, (3, 1, 1, 1))
    centre = np.reshape(np.array(spacing) * 13, (3, 1, 1, 1))
    from_centre = np.sqrt(((place - centre) ** 2).sum(axis=0))
    labels = (from_centre <= radius).astype(np.uint8)[None]
    true = rectified(labels, 2, spacing).true[0]
    inside = labels[0] == 1
    assert true[13, 13, 13] == -1
    slack = 2 * np.linalg.norm(spacing) / radius
    assert np.abs(true[inside] - (from_centre[inside] / radius - 1)).max() <= slack


def test_single_voxel():
    labels = np.zeros((1, 5, 5), dtype=np.uint8)
    labels[0, 2, 1] = 2
    found = rectified(labels, 3).dense()
    np.testing.assert_array_equal(found[0, :, 2, 1], [1, 1, -1])


def test_small_component_beside_a_large_one_of_its_class():
    """The maximum is of the class, so the small one is worth little."""
    labels = np.zeros((1, 30, 30), dtype=np.uint8)
    labels[0, 2:21, 2:21] = 1  # 10 deep
    labels[0, 27, 27] = 1
    assert rectified(labels, 2).true[0, 27, 27] == np.float32(-0.1)


# --- Naive SciPy, class by class


@pytest.mark.parametrize("shape", plain.shapes_up_to((3, 3)), ids=str)
def test_every_label_map_of_three_classes(shape):
    labels = plain.every_label_map(shape, 3)
    assert_close(rectified(labels, 3).dense(), plain.rectified(labels, 3, [(1, 1)] * len(labels)))


ANATOMY = [
    ((31, 23), (1.0, 1.0)),
    ((31, 23), (0.7, 2.5)),
    ((17, 15, 12), (0.8, 0.8, 2.5)),
    ((17, 15, 12), (3.0, 1.0, 1.0)),
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


# --- Parameters


@pytest.mark.parametrize("scope", ["volume", "", None, 1])
def test_scope_that_it_does_not_know(scope):
    with pytest.raises(RWLossError, match=r"rectified\(scope="):
        maps.Rectified(scope=scope)
