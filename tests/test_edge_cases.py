"""What every known implementation gets wrong somewhere: each case by name, with both engines.

Everything is finite, and has the documented value.
"""

import sys
from itertools import product

import numpy as np
import pytest
import torch
from anatomy import anatomy

import rwloss
from rwloss import Regions, RegionWiseLoss, distance, maps

SPACINGS = [(1.0, 1.0), (0.8, 2.5), (0.65, 0.65), (1 / 3, 4.0)]
BOUNDARIES = [
    maps.Boundary(convention, normalize)
    for convention in ("kervadec", "valverde")
    for normalize in ("none", "max")
]
STATIC = [
    *BOUNDARIES,
    maps.Rectified(),
    maps.ActiveContour(),
    *(maps.ClassWeighted(rule) for rule in ("inverse", "inverse_square", "effective_number")),
    maps.ClassWeighted((1.0, 2.0, 3.0)),
]


@pytest.fixture(params=["edt", "scipy"], autouse=True)
def engine(request, monkeypatch):
    if request.param == "edt":
        pytest.importorskip("edt")
    else:
        monkeypatch.setitem(sys.modules, "edt", None)
    assert distance.engine_name() == request.param


def finite(generator, regions):
    """The dense map, finite everywhere, as is the loss with it."""
    values = generator(regions).dense()
    assert np.isfinite(values).all(), generator
    logits = torch.linspace(-3, 3, values.size).reshape(values.shape).requires_grad_()
    target = torch.as_tensor(regions.labels)
    ignore_index = None if regions.ignore_label is None else -1
    loss = RegionWiseLoss(generator, ignore_index=ignore_index)(
        logits, target, torch.as_tensor(values)
    )
    loss.backward()
    assert torch.isfinite(loss), generator
    assert torch.isfinite(logits.grad).all(), generator
    return values


def filled(k, shape=(5, 6), dtype=np.uint8):
    return np.full((1, *shape), k, dtype=dtype)


# --- A class that fills the image


def test_class_that_fills_the_image():
    for k, spacing in product(range(3), SPACINGS):
        regions = Regions(filled(k), 3, spacing)
        values = finite(maps.Rectified(), regions)
        for channel in range(3):
            assert (values[:, channel] == (-1 if channel == k else 1)).all(), spacing
        for generator in BOUNDARIES:
            assert (finite(generator, regions) == 0).all(), (generator, k, spacing)
    for rule in ("inverse", "inverse_square", "effective_number"):
        values = finite(maps.ClassWeighted(rule), Regions(filled(2), 3))
        np.testing.assert_allclose(values[:, 2], -1, rtol=1e-6)
        assert (values[:, :2] == 0).all(), rule


def test_depth_of_a_class_that_fills_the_image():
    """That of a class of one voxel: the smallest spacing, exactly, and no phantom voxel outside."""
    for spacing in SPACINGS:
        regions = Regions(filled(1), 2, spacing)
        assert (regions.depth_mm == np.float32(min(spacing))).all()
        assert regions.peak_depth_mm.tolist() == [[0, np.float32(min(spacing))]]
        assert (regions.signed_distance_mm(0) == 0).all()
        assert (regions.signed_distance_mm(1) == 0).all()


def test_image_that_is_filled_beside_one_that_is_not():
    """Each image of a batch is on its own."""
    labels = np.stack([filled(1)[0], anatomy(1, (5, 6), 3), filled(0)[0]])
    for generator in STATIC:
        together = finite(generator, Regions(labels, 3))
        alone = [finite(generator, Regions(labels[i : i + 1], 3)) for i in range(3)]
        np.testing.assert_array_equal(together, np.concatenate(alone), err_msg=str(generator))


def test_class_that_fills_all_but_the_ignored_voxels():
    """The ignored voxels end it, so it has a boundary."""
    labels = filled(1, (1, 5))
    labels[0, 0, 4] = 255
    regions = Regions(labels, 2, ignore_label=255)
    assert regions.depth_mm.tolist() == [[[4, 3, 2, 1, 0]]]
    assert finite(maps.Rectified(), regions).tolist() == [
        [[[1, 1, 1, 1, 0]], [[-1, -0.75, -0.5, -0.25, 0]]]
    ]
    assert finite(maps.Boundary(), regions)[0, :, 0].tolist() == [[0] * 5, [-3, -2, -1, 0, 0]]


# --- One slice: an axis of length 1 has a spacing that nothing depends on


def test_spacing_across_one_slice_changes_nothing():
    """The smallest spacing of `boundary` too is that of the other axes."""
    flat = anatomy(6, (12, 15), 3)
    labels = np.stack([flat, np.full_like(flat, 1)])
    for generator, axis in product(STATIC, (1, 2, 3)):
        wanted = finite(generator, Regions(labels, 3, (1.5, 2.5)))
        for thin in (0.2, 1.0, 30.0):
            spacing = [1.5, 2.5]
            spacing.insert(axis - 1, thin)
            regions = Regions(np.expand_dims(labels, axis), 3, spacing)
            assert regions.smallest_spacing_mm.ravel().tolist() == [1.5, 1.5]
            found = finite(generator, regions).squeeze(axis + 1)
            np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=f"{generator} {spacing}")


def test_image_of_one_voxel():
    """All axes have length 1: the smallest spacing is that of all of them."""
    for generator, spacing in product(STATIC, [(0.9, 0.7), (0.7, 0.9, 0.8)]):
        regions = Regions(filled(1, (1,) * len(spacing)), 3, spacing)
        assert regions.depth_mm.item() == np.float32(0.7)
        values = finite(generator, regions)
        if isinstance(generator, maps.Boundary):
            assert (values == 0).all()
        elif isinstance(generator, maps.Rectified):
            assert values.ravel().tolist() == [1, -1, 1]


# --- An absent class


def test_boundary_of_an_absent_class():
    for generator, absent in product(BOUNDARIES, range(4)):
        labels = anatomy(2, (12, 15), 4)
        labels[labels == absent] = (absent + 1) % 4
        values = finite(generator, Regions(labels[None], 4))
        for k in range(4):
            assert (values[0, k] != 0).any() == (k != absent), (generator, absent, k)


def test_absent_class_does_not_inherit_the_class_before():
    """In the same image, nor from the image before."""
    labels = np.zeros((2, 6, 7), dtype=np.uint8)
    labels[:, 2:4, 2:5] = 1
    labels[0, 5, 5] = 2
    values = finite(maps.Boundary(), Regions(labels, 4))
    assert (values[0, 2] != 0).any()
    assert (values[1, 2] == 0).all()
    assert (values[:, 3] == 0).all()


# --- A class of one voxel


def test_single_voxel():
    for spacing, voxel in product(SPACINGS, [(2, 3), (0, 0)]):
        labels = filled(0)
        labels[0, *voxel] = 1
        regions = Regions(labels, 2, spacing)
        smallest = pytest.approx(min(spacing), rel=1e-6)
        assert regions.depth_mm[0, *voxel] == smallest
        assert finite(maps.Rectified(), regions)[0, 1, *voxel] == -1
        assert finite(maps.Boundary("kervadec"), regions)[0, 1, *voxel] == 0
        assert finite(maps.Boundary("valverde"), regions)[0, 1, *voxel] * -1 == smallest


# --- Kervadec's inner edge


@pytest.mark.parametrize("normalize", ["none", "max"])
def test_inner_edge_of_kervadec_is_exactly_zero(normalize):
    """Not what rounding leaves of d - s, which is above 0 for one spacing in ten."""
    labels = np.zeros((1, 7, 8), dtype=np.uint8)
    labels[0, 1:6, 1:7] = 1
    edge = np.zeros((7, 8), dtype=bool)
    edge[[1, 5], 1:7] = True  # along the first axis, which has the smallest spacing
    inner = labels[0].astype(bool) & ~edge
    inner[:, [1, 6]] = False
    generator = maps.Boundary("kervadec", normalize)
    for spacing in np.random.default_rng(0).uniform(0.05, 5, 100):
        values = generator(Regions(labels, 2, (spacing, 1.9 * spacing))).dense()[0, 1]
        assert (values[edge] == 0).all(), spacing
        assert (values[inner] < 0).all(), spacing
        assert (values[labels[0] == 0] > 0).all(), spacing


def test_kervadec_keeps_its_sign_at_fine_resolution():
    """With a literal 1 mm the inside would be above 0."""
    labels = np.zeros((1, 9, 9), dtype=np.uint8)
    labels[0, 2:7, 2:7] = 1
    values = finite(maps.Boundary(), Regions(labels, 2, (0.01, 0.01)))[0, 1]
    assert values.min() == pytest.approx(-0.02)
    assert (values[labels[0] == 1] <= 0).all()


# --- 255, as a class and as what is ignored


def test_uint8_label_255_is_a_class_like_others():
    """edt takes 0 for background, so labels move up by one: 255 must not become 0."""
    labels = np.zeros((1, 6, 7), dtype=np.uint8)
    labels[0, 1:4, 1:5] = 255
    regions, small = Regions(labels, 256, (0.8, 2.5)), Regions(labels > 0, 2, (0.8, 2.5))
    np.testing.assert_array_equal(regions.signed_distance_mm(255), small.signed_distance_mm(1))
    np.testing.assert_array_equal(maps.Rectified()(regions).true, maps.Rectified()(small).true)


def test_uint8_255_for_ignored_voxels():
    """It is no class: no one-hot of 256 channels, no region, no cost."""
    labels = np.zeros((1, 6, 7), dtype=np.uint8)
    labels[0, 1:4, 1:5] = 1
    labels[0, 2, 2:] = 255
    ignored = labels == 255
    for generator in STATIC[:-1]:
        values = finite(generator, Regions(labels, 2, ignore_label=255))
        assert values.shape == (1, 2, 6, 7)
        assert (values.transpose(0, 2, 3, 1)[ignored] == 0).all()
    with pytest.raises(ValueError, match=r"label 255 found, .*ignore_label=255"):
        Regions(labels, 2)


# --- Half precision


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sum_over_512x512_voxels_does_not_overflow(reduction, device):
    """The sum is beyond 65504, the largest float16; so are squared distances."""
    labels = np.zeros((1, 512, 512), dtype=np.uint8)
    labels[0, 0, 0] = 1
    stored = maps.Boundary()(Regions(labels, 2))
    assert (stored.dense() ** 2).max() > torch.finfo(torch.float16).max
    target = torch.as_tensor(labels, device=device)
    wanted = 0.5 * stored.dense().astype(np.float64).sum()
    assert abs(wanted) > torch.finfo(torch.float16).max
    wanted = wanted / stored.dense().size if reduction == "mean" else wanted
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.zeros((1, 2, 512, 512), dtype=dtype, device=device, requires_grad=True)
        loss = RegionWiseLoss("boundary", reduction=reduction)(logits, target, stored)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(wanted, rel=1e-5)
        assert torch.isfinite(logits.grad).all()


def test_extreme_logits(device):
    labels = torch.as_tensor(anatomy(3, (6, 7), 3)[None], device=device)
    logits = torch.randn((1, 3, 6, 7), generator=torch.Generator().manual_seed(0)) * 1e4
    logits = logits.to(device).requires_grad_()
    for name in ("active_contour", "boundary", "class_weighted", "rectified"):
        loss = rwloss.RegionWiseLoss(name)(logits, labels)
        [gradient] = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss), name
        assert torch.isfinite(gradient).all(), name
