"""Static terms against their documented formulas, computed plainly and slowly."""

from functools import partial

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, maps

COSTS = ((0.0, 1.0, 1.0, 1.0), (0.9, 0.0, 0.2, 0.6), (1.0, 0.2, 0.0, 0.4), (1.0, 0.6, 0.4, 0.0))
RULES = {**plain.WEIGHT_RULES, (0.25, 1.0, 8.0, 3.0): (0.25, 1.0, 8.0, 3.0)}


def weighted_by_voxel(labels, num_classes, spacings, rule, scope):
    """Each voxel of `rectified` times the weight of its true class, at all classes alike."""
    weight = -plain.class_weighted(labels, num_classes, rule).sum(axis=1)
    return plain.rectified(labels, num_classes, spacings, scope) * weight[:, None]


FORMULAS = {
    maps.ActiveContour(): lambda labels, k, mm: plain.active_contour(labels, k),
    **{
        maps.Boundary(convention, normalize): partial(
            plain.boundary, convention=convention, normalize=normalize
        )
        for convention in ("kervadec", "valverde", "edge", "maurer")
        for normalize in ("none", "max", *["sides"] * (convention == "maurer"))
    },
    **{
        maps.ClassCost(costs) if costs else maps.ClassCost(): lambda labels, k, mm, costs=costs: (
            plain.class_cost(labels, k, costs)
        )
        for costs in (None, COSTS)
    },
    maps.ContourWeighted(0.5): lambda labels, k, mm: plain.contour_weighted(labels, k, 0.5),
    maps.DistancePenalty(3.0): partial(plain.distance_penalty, scale=3.0),
    **{
        maps.ClassWeighted(weights): lambda labels, k, mm, rule=rule: plain.class_weighted(
            labels, k, rule
        )
        for weights, rule in RULES.items()
    },
    **{
        maps.Rectified(scope, clip_mm): partial(
            plain.rectified, scope=scope, clip_mm=clip_mm or np.inf
        )
        for scope, clip_mm in [
            ("image", None),
            ("component", None),
            ("component", 0.5),
            ("image", 1.7),
            ("component", 3.0),
        ]
    },
    **{
        maps.Rectified(scope, weights=weights): partial(
            weighted_by_voxel, rule=RULES[weights], scope=scope
        )
        for scope, weights in zip(["image", "component"] * 2, RULES, strict=True)
    },
}
each_term = pytest.mark.parametrize("term", FORMULAS, ids=str)


def assert_plain(term, labels, num_classes, spacings, kind=np.asarray):
    regions = Regions(kind(labels), num_classes, spacings, ignore_label=-1)
    rwmap = term(regions)
    wanted = FORMULAS[term](labels, num_classes, regions.spacings_mm)
    is_boundary = isinstance(term, maps.Boundary)
    is_dense = isinstance(term, (maps.Boundary, maps.ClassCost))
    # Small values of `boundary` are differences of distances.
    atol = 1e-6 * max(1, np.abs(wanted).max()) if is_boundary else 0
    found = np.asarray(rwmap.dense())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=atol)
    assert rwmap.is_compact != is_dense
    assert found.dtype == np.float32
    assert isinstance(rwmap.parts[0], type(regions.labels))


@each_term
def test_anatomy(term):
    """An image with ignored voxels, one of one class, and one with a spacing of its own."""
    for shape, spacing in [((21, 16), (0.7, 2.5)), ((10, 9, 7), (0.8, 1.0, 2.5))]:
        labels = batch(34, shape, 4).astype(np.int64)
        labels[0, :, 6:] = -1
        labels[1] = 2
        spacings = [spacing, spacing, spacing[::-1]]
        for kind in (np.asarray, torch.as_tensor):
            assert_plain(term, labels, 4, spacings, kind)
    assert_plain(term, batch(21, (17, 15)), 4, None)


@each_term
def test_every_label_map_of_three_classes(term):
    if any(isinstance(getattr(term, name, None), tuple) for name in ("weights", "costs")):
        pytest.skip("its numbers are those of four classes")
    for shape in plain.shapes_up_to((3, 2)):
        assert_plain(term, plain.every_label_map(shape, 3), 3, (1.0, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("term", [maps.Boundary(), maps.Rectified(), maps.ActiveContour()], ids=str)
def test_every_partition(term):
    assert_plain(term, plain.every_partition((3, 3), 3), 3, None)
