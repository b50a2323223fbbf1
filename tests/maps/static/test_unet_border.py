"""U-Net border weights: closed forms, then all pairs of objects without any cropping."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, RWLossError, maps


def border(labels, num_classes=2, spacing=None, **parameters):
    """w(x) of one image without class weights, and its map. labels (*s) -> (*s)."""
    parameters = {"weights": None, **parameters}
    found = maps.UNetBorder(**parameters)(Regions(labels[None], num_classes, spacing))
    np.testing.assert_array_equal(found.true, 0)
    return found.other[0]


def naive_border(labels, num_classes, spacing, w0, sigma):
    """Ronneberger's eq. 2 without w_c: the distances to all objects, sorted. labels (*s)."""
    places = np.indices(labels.shape).reshape(labels.ndim, -1).T * np.array(spacing)
    far = []
    for k in range(1, num_classes):
        for one in plain.flood(labels == k):
            pairs = places[:, None] - places[one.ravel()][None]
            far.append(np.sqrt((pairs**2).sum(axis=-1)).min(axis=1).reshape(labels.shape))
    if len(far) < 2:
        return np.zeros(labels.shape)
    first, second = np.sort(far, axis=0)[:2]
    return w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))


# --- Closed forms


def two_voxels(shape, first, second):
    labels = np.zeros(shape, dtype=np.uint8)
    labels[first] = labels[second] = 1
    return labels


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.5)], ids=str)
def test_between_two_voxels(spacing):
    """On the line between them d1 + d2 is their distance; beyond it grows by two a voxel."""
    labels = two_voxels((3, 12), (1, 3), (1, 8))
    mm = spacing[1]
    sums = mm * np.array([11, 9, 7, *[5] * 6, 7, 9, 11])
    found = border(labels, 2, spacing, w0=4.0, sigma_mm=3.0)
    np.testing.assert_allclose(found[1], 1 + 4 * np.exp(-(sums**2) / 18), rtol=1e-6)


def test_touching_objects_of_two_classes_are_two():
    """d1 = 0 and d2 = 1 in each of them."""
    labels = np.repeat([1, 2], 3)[None].astype(np.uint8) * np.ones((4, 1), dtype=np.uint8)
    found = border(labels, 3, w0=10.0, sigma_mm=5.0)
    sums = np.array([3, 2, 1, 1, 2, 3])
    np.testing.assert_allclose(found[0], 1 + 10 * np.exp(-(sums**2) / 50), rtol=1e-6)


def test_fewer_than_two_objects():
    for labels in [
        np.zeros((6, 7), dtype=np.uint8),
        np.ones((6, 7), dtype=np.uint8),
        two_voxels((6, 7), (2, 3), (2, 3)),
        two_voxels((5, 5), (1, 1), (2, 2)),  # they touch at a corner
        np.zeros((1, 1), dtype=np.uint8),
        np.ones((2, 3, 2), dtype=np.uint8),
    ]:
        np.testing.assert_array_equal(border(labels), 1)


def test_the_background_is_no_object():
    labels = np.ones((5, 9), dtype=np.uint8)
    labels[:, 4] = 0  # two objects
    assert border(labels)[0, 4] == pytest.approx(1 + 10 * np.exp(-4 / 50))
    labels[0, 4] = 1  # one object, two parts of background if the bridge is on the edge
    np.testing.assert_array_equal(border(labels), 1)


def test_far_objects_and_those_without_weight_do_not_matter():
    far = two_voxels((1, 400), (0, 0), (0, 399))
    np.testing.assert_array_equal(border(far, sigma_mm=2.0), 1)
    np.testing.assert_array_equal(border(two_voxels((3, 12), (1, 3), (1, 8)), w0=0.0), 1)


# --- Naive: every object, every pair of voxels


CASES = [
    ((14, 11), (1.0, 1.0)),
    ((14, 11), (0.7, 2.5)),
    ((8, 7, 6), (1.0, 1.0, 1.0)),
    ((8, 7, 6), (0.8, 1.0, 2.5)),
]


@pytest.mark.parametrize(("shape", "spacing"), CASES, ids=str)
def test_anatomy(shape, spacing):
    """Small sigma leave far objects out of the box that is looked at."""
    for labels in batch(121, shape):
        for sigma in [0.05, 1.0, 100.0]:
            found = border(labels, 4, spacing, w0=7.0, sigma_mm=sigma)
            wanted = 1 + naive_border(labels, 4, spacing, 7.0, sigma)
            np.testing.assert_allclose(found, wanted, rtol=2e-6)


def test_many_objects_of_one_voxel():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = (rng.random((16, 15)) < 0.1).astype(np.uint8) * rng.integers(1, 4, (16, 15))
        found = border(labels, 4, (1.0, 1.5), sigma_mm=1.0)
        wanted = 1 + naive_border(labels, 4, (1.0, 1.5), 10.0, 1.0)
        np.testing.assert_allclose(found, wanted, rtol=2e-6)


def test_class_weights_and_spacing_of_each_image(kind):
    labels, spacings = batch(122, (14, 11)), [(1.0, 1.0), (0.7, 2.5), (3.0, 0.5)]
    labels[1] = 2  # fills the image
    found = maps.UNetBorder(w0=3.0, sigma_mm=2.0)(Regions(kind(labels), 4, spacings))
    assert found.is_compact
    weights = -plain.class_weighted(labels, 4, lambda n: 1 / n).sum(axis=1)
    between = [naive_border(a, 4, mm, 3.0, 2.0) for a, mm in zip(labels, spacings, strict=True)]
    other, dense = (torch.as_tensor(part).cpu().numpy() for part in (found.other, found.dense()))
    np.testing.assert_allclose(other, weights + between, rtol=2e-6)
    assert not dense[np.arange(4).reshape(1, 4, 1, 1) == labels[:, None]].any()


@pytest.mark.parametrize("weights", ["inverse_square", "effective_number", (0.5, 1.0, 2.0, 4.0)])
def test_rules_of_class_weights(weights):
    labels = batch(123, (14, 11))
    given = Regions(labels, 4)
    found = (
        maps.UNetBorder(weights=weights)(given).other - maps.UNetBorder(weights=None)(given).other
    )
    wanted = maps.ClassWeighted(weights=weights)(given).weight() - 1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_ignored_voxels_are_no_object_and_part_objects():
    """A bridge of ignored voxels: without it the two ends are two objects."""
    labels = np.zeros((1, 5, 9), dtype=int)
    labels[0, 2, 1:8] = 1
    labels[0, 2, 3:6] = -1
    found = maps.UNetBorder(weights=None)(Regions(labels, 2, ignore_label=-1)).dense()
    wanted = 1 + naive_border(labels[0], 2, (1, 1), 10.0, 5.0)
    wanted[labels[0] == -1] = 0
    np.testing.assert_allclose(found[0].sum(axis=0), wanted, rtol=2e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"w0": -1.0}, {"sigma_mm": 0.0}, {"sigma_mm": -1.0}, {"weights": (1.0, 0.0)}, {"beta": 1.0}],
    ids=str,
)
def test_parameters_out_of_range(wrong):
    with pytest.raises(RWLossError, match=r"unet_border.* number (greater than|at least) 0"):
        maps.UNetBorder(**wrong)
