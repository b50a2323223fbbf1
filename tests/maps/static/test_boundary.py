"""Boundary map: values by hand. See test_plain_formulas and test_closed_forms for the rest."""

import numpy as np
import pytest
from anatomy import ball, batch

from rwloss import Regions, RWLossError, maps


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.5)], ids=str)
def test_ball(spacing):
    """Within a voxel's diagonal of the signed distance to the sphere."""
    radius = 9.0
    labels, from_centre = ball(spacing, radius)
    found = maps.Boundary("valverde")(Regions(labels, 2, spacing)).dense()[0, 1]
    assert np.abs(found - (from_centre - radius)).max() <= np.linalg.norm(spacing)
    assert (found[labels[0] == 1] < 0).all()
    assert (found[labels[0] == 0] > 0).all()


def test_max_divides_each_class_of_each_image_by_its_largest():
    labels = np.zeros((2, 1, 8), dtype=np.uint8)
    labels[0, 0, :6] = 1  # class 1: -5 .. 0, then 1, 2
    labels[1, 0, 0] = 1  # class 1: 0, then 1 .. 7
    found = maps.Boundary(normalize="max")(Regions(labels, 2)).dense()
    wanted = [np.array([-5, -4, -3, -2, -1, 0, 1, 2]) / 5, np.arange(8) / 7]
    np.testing.assert_allclose(found[:, 1, 0], wanted, rtol=1e-6)


def test_the_inner_edge_at_anisotropic_spacing():
    """A box of 3 x 4 x 4 voxels of 5 x 0.5 x 0.5 mm: s away it is 0, at its other faces below."""
    labels = np.zeros((1, 5, 6, 6), dtype=np.uint8)
    labels[0, 1:4, 1:5, 1:5] = 1
    regions = Regions(labels, 2, (5.0, 0.5, 0.5))
    kervadec, edge = (maps.Boundary(c)(regions).dense()[0, 1] for c in ("kervadec", "edge"))
    assert kervadec[2, 1, 2] == edge[2, 1, 2] == 0
    assert (kervadec[1, 2, 2], edge[1, 2, 2]) == (-0.5, 0)  # its face along z is an edge too
    assert kervadec[2, 2, 2] == -0.5
    assert edge[2, 2, 2] == -1.0


@pytest.mark.parametrize("shape", [(11, 13), (7, 8, 9)], ids=str)
def test_maurer_is_the_distance_map_of_itk(shape):
    """Of every class, at any spacing; MIST divides each side by its largest value."""
    itk = pytest.importorskip("SimpleITK", reason="the extra `dev` brings SimpleITK")
    labels, spacing = batch(41, shape, 3), (0.8, 2.5, 1.0)[: len(shape)]
    wanted = np.zeros((len(labels), 3, *shape))
    for b, k in np.ndindex(len(labels), 3):
        mask = itk.GetImageFromArray((labels[b] == k).astype(np.uint8))
        mask.SetSpacing(spacing[::-1])
        settings = {"squaredDistance": False, "useImageSpacing": True}
        if 0 < (labels[b] == k).sum() < labels[b].size:
            found = itk.SignedMaurerDistanceMap(mask, **settings)
            wanted[b, k] = itk.GetArrayFromImage(found)
    regions = Regions(labels, 3, spacing)
    found = maps.Boundary("maurer")(regions).dense()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    axes = tuple(range(2, wanted.ndim))
    for side in (wanted < 0, wanted > 0):
        largest = abs(wanted * side).max(axis=axes, keepdims=True)
        wanted = np.where(side, wanted / np.where(largest > 0, largest, 1), wanted)
    sides = maps.Boundary("maurer", "sides")(regions).dense()
    np.testing.assert_allclose(sides, wanted, rtol=1e-5, atol=1e-5)


def test_without_parameters_it_is_kervadec():
    assert maps.Boundary() == maps.Boundary(convention="kervadec", normalize="none")


@pytest.mark.parametrize(
    "parameter", [{"convention": "kerfadec"}, {"normalize": "mean"}, {"convention": None}], ids=str
)
def test_parameter_that_it_does_not_know(parameter):
    [(name, value)] = parameter.items()
    with pytest.raises(RWLossError, match=rf"boundary\({name}={value!r}\): must be '"):
        maps.Boundary(**parameter)
