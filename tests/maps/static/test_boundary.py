"""Boundary map: a ball, then naive SciPy class by class. See test_closed_forms for the rest."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import ball, batch

from rwloss import Regions, RWLossError, maps

CONVENTIONS = ["kervadec", "valverde"]
NORMALIZE = ["none", "max"]
PARAMETERS = [(c, n) for c in CONVENTIONS for n in NORMALIZE]


def dense(labels, num_classes, spacing=None, **parameters):
    return maps.Boundary(**parameters)(Regions(labels, num_classes, spacing)).dense()


def assert_close(found, wanted):
    """1e-6 relative to the distances, of which small values are differences."""
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * max(1, np.abs(wanted).max()))


# --- Closed forms


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5)], ids=str)
def test_ball(spacing):
    """Within a voxel's diagonal of the signed distance to the sphere."""
    radius = 9.0
    labels, from_centre = ball(spacing, radius)
    found = dense(labels, 2, spacing, convention="valverde")[0, 1]
    assert np.abs(found - (from_centre - radius)).max() <= np.linalg.norm(spacing)
    assert (found[labels[0] == 1] < 0).all()
    assert (found[labels[0] == 0] > 0).all()


def test_max_divides_each_class_of_each_image_by_its_largest():
    labels = np.zeros((2, 1, 8), dtype=np.uint8)
    labels[0, 0, :6] = 1  # class 1: -5 .. 0, then 1, 2
    labels[1, 0, 0] = 1  # class 1: 0, then 1 .. 7
    found = dense(labels, 2, normalize="max")
    np.testing.assert_allclose(
        found[0, 1, 0], np.array([-5, -4, -3, -2, -1, 0, 1, 2]) / 5, rtol=1e-6
    )
    np.testing.assert_allclose(found[1, 1, 0], np.arange(8) / 7, rtol=1e-6)


# --- Naive SciPy, class by class


@pytest.mark.parametrize("shape", plain.shapes_up_to((3, 3))[:-1], ids=str)
def test_every_label_map_of_three_classes(shape):
    labels = plain.every_label_map(shape, 3)
    assert_close(dense(labels, 3), plain.boundary(labels, 3, [(1.0, 1.0)] * len(labels)))


@pytest.mark.parametrize(
    ("shape", "convention", "normalize"),
    [
        ((3, 3), "kervadec", "none"),
        ((3, 3), "valverde", "max"),
        ((3, 2), "kervadec", "max"),
        ((3, 2), "valverde", "none"),
    ],
)
def test_every_partition_into_three_classes(shape, convention, normalize):
    labels = plain.every_partition(shape, 3)
    found = dense(labels, 3, convention=convention, normalize=normalize)
    spacings = [(1.0, 1.0)] * len(labels)
    assert_close(found, plain.boundary(labels, 3, spacings, convention, normalize))


ANATOMY = [
    ((31, 23), (1.0, 1.0)),
    ((31, 23), (0.7, 2.5)),
    ((17, 15, 12), (0.8, 0.8, 2.5)),
    ((17, 15, 12), (3.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("convention", "normalize"), PARAMETERS)
@pytest.mark.parametrize(("shape", "spacing"), ANATOMY, ids=str)
def test_anatomy(convention, normalize, shape, spacing):
    labels = batch(21, shape)
    found = dense(labels, 5, spacing, convention=convention, normalize=normalize)
    assert found.dtype == np.float32
    assert_close(found, plain.boundary(labels, 5, [spacing] * 3, convention, normalize))


def test_each_image_has_its_spacing():
    labels, spacings = batch(22, (15, 12)), [(1.0, 1.0), (0.8, 2.5), (3.0, 0.5)]
    assert_close(dense(labels, 4, spacings), plain.boundary(labels, 4, spacings))


@pytest.mark.parametrize(("convention", "normalize"), PARAMETERS)
def test_ignored_voxels(convention, normalize):
    """They end a region, are 0, and do not count for the largest value."""
    labels = batch(23, (15, 12)).astype(int)
    labels[:, :, 8:] = 9
    regions = Regions(labels, 4, (0.8, 2.5), ignore_label=9)
    found = maps.Boundary(convention=convention, normalize=normalize)(regions).dense()
    plain_labels = np.where(labels == 9, -1, labels)
    assert_close(found, plain.boundary(plain_labels, 4, [(0.8, 2.5)] * 3, convention, normalize))
    assert not found[:, :, :, 8:].any()


def test_torch_gives_the_same():
    labels = batch(24, (9, 8, 7))
    for convention, normalize in PARAMETERS:
        found = dense(
            torch.as_tensor(labels), 4, (1, 2, 3), convention=convention, normalize=normalize
        )
        assert isinstance(found, torch.Tensor)
        wanted = dense(labels, 4, (1, 2, 3), convention=convention, normalize=normalize)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


# --- Parameters


def test_without_parameters_it_is_kervadec():
    assert maps.Boundary() == maps.Boundary(convention="kervadec", normalize="none")


@pytest.mark.parametrize(
    "parameter", [{"convention": "kerfadec"}, {"normalize": "mean"}, {"convention": None}], ids=str
)
def test_parameter_that_it_does_not_know(parameter):
    [(name, value)] = parameter.items()
    with pytest.raises(RWLossError, match=rf"boundary\({name}={value!r}\): Input should be '"):
        maps.Boundary(**parameter)
