"""Regions against naive formulas, and what they accept and refuse."""

import re
import sys

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

import rwloss
from rwloss import Regions, RWLossError
from rwloss.arrays import to_numpy

BUILT_IN = ["active_contour", "boundary", "class_weighted", "rectified"]


@pytest.fixture(params=["edt", "scipy"])
def engine(request, monkeypatch):
    """The engine that Regions will use."""
    if request.param == "edt":
        pytest.importorskip("edt")
    else:
        monkeypatch.setitem(sys.modules, "edt", None)
    return request.param


def same_kind(found, labels):
    """Whether a result is of the kind, and on the device, of the labels."""
    if isinstance(labels, torch.Tensor):
        return isinstance(found, torch.Tensor) and found.device == labels.device
    return type(found) is np.ndarray


def assert_close(found, wanted):
    np.testing.assert_allclose(to_numpy(found), wanted, rtol=1e-6, atol=0)


def assert_equal(found, wanted):
    np.testing.assert_array_equal(to_numpy(found), to_numpy(wanted))


# --- Geometry against naive formulas


def assert_geometry(regions, labels, spacing):
    """labels (b *s) with -1 where ignored."""
    depths = np.stack([plain.depth(one, spacing) for one in labels])
    depths[labels == -1] = 0
    classes = range(regions.num_classes)
    assert_close(regions.depth_mm, depths)
    pairs = zip(labels, depths, strict=True)
    assert_close(
        regions.peak_depth_mm, [[d[m == k].max(initial=0) for k in classes] for m, d in pairs]
    )
    assert_equal(regions.counts, [[(one == k).sum() for k in classes] for one in labels])
    for k in classes:
        signed = np.stack([plain.signed_distance(one == k, spacing) for one in labels])
        assert_close(regions.signed_distance_mm(k), signed)
        assert_close(regions.distance_to_mm(k), np.maximum(signed, 0))
        assert_equal(regions.mask(k), labels == k)


@pytest.mark.usefixtures("engine")
def test_geometry_of_anatomy(kind):
    for shape, spacing in [((13, 17), (0.8, 2.5)), ((9, 12, 11), (0.8, 0.8, 2.5))]:
        labels = batch(1, shape)
        assert_geometry(Regions(kind(labels), 5, spacing), labels, spacing)  # class 4 is absent
        fortran = np.asfortranarray(labels[:1])
        assert_geometry(Regions(kind(fortran), 20, spacing), fortran, spacing)


# --- Components against a flood fill


def assert_components(found, labels):
    """Each flooded part has one number of its own; numbers run from 1 by class; 0 where ignored."""
    for numbers, image in zip(to_numpy(found), labels, strict=True):
        parts = [
            (k, part) for k in np.unique(image[image >= 0]) for part in plain.flood(image == k)
        ]
        of_part = [np.unique(numbers[part]).tolist() for _, part in parts]
        assert all(len(one) == 1 for one in of_part)
        assert sorted(one[0] for one in of_part) == list(range(1, len(parts) + 1))
        by_number = sorted((one[0], k) for one, (k, _) in zip(of_part, parts, strict=True))
        assert [k for _, k in by_number] == [k for k, _ in parts]
        assert not numbers[image < 0].any()


def test_components_of_every_label_map_of_two_classes():
    for shape in plain.shapes_up_to((3, 3)):
        labels = plain.every_label_map(shape, 2)
        assert_components(Regions(labels, 2).components, labels)


@pytest.mark.parametrize("shape", [(13, 17), (7, 8, 6)], ids=str)
def test_components_of_noise_and_anatomy(kind, shape):
    rng = np.random.default_rng(7)
    for density in (0.05, 0.4, 0.9):
        labels = np.where(rng.random((3, *shape)) < density, rng.integers(1, 4, (3, *shape)), 0)
        labels[1] = 2
        labels[2][rng.random(shape) < 0.3] = -1
        assert_components(Regions(kind(labels), 4, ignore_label=-1).components, labels)
    labels = batch(8, shape)
    assert_components(Regions(kind(labels), 4).components, labels.astype(int))


def test_components_by_hand():
    """Corners connect; of nothing there is none."""
    cube = np.zeros((1, 3, 3, 3), dtype=np.uint8)
    cube[0, 0, 0, 0] = cube[0, 1, 1, 1] = cube[0, 2, 2, 2] = 1
    assert Regions(cube, 2).components.max() == 2  # the background and the diagonal
    assert Regions(np.zeros((0, 4, 5), dtype=int), 2).components.shape == (0, 4, 5)
    assert not Regions(np.full((1, 4, 5), -1), 2, ignore_label=-1).components.any()


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_kind_and_type_of_results(kind, ignore_label):
    labels = kind(batch(2, (6, 7)))
    regions = Regions(labels, 4, ignore_label=ignore_label)
    xp = regions.xp
    results = {
        "depth_mm": (regions.depth_mm, (3, 6, 7), xp.float32),
        "peak_depth_mm": (regions.peak_depth_mm, (3, 4), xp.float32),
        "counts": (regions.counts, (3, 4), xp.int64),
        "components": (regions.components, (3, 6, 7), xp.int32),
        "signed_distance_mm": (regions.signed_distance_mm(1), (3, 6, 7), xp.float32),
        "distance_to_mm": (regions.distance_to_mm(1), (3, 6, 7), xp.float32),
        "mask": (regions.mask(1), (3, 6, 7), xp.bool),
        "per_voxel": (regions.per_voxel(regions.peak_depth_mm), (3, 6, 7), xp.float32),
        "full": (regions.full(2.0), (3, 6, 7), xp.float32),
        "signed_distances_mm": (regions.signed_distances_mm(), (3, 4, 6, 7), xp.float32),
        "smallest_spacing_mm": (regions.smallest_spacing_mm, (3, 1, 1), xp.float32),
    }
    for name, (found, shape, dtype) in results.items():
        assert same_kind(found, labels), name
        assert tuple(found.shape) == shape, name
        assert found.dtype == dtype, name
    for name in BUILT_IN:
        assert same_kind(rwloss.maps.get(name)(regions).dense(), labels), name
    for name in ("depth_mm", "peak_depth_mm", "counts"):  # computed once
        assert getattr(regions, name) is getattr(regions, name)
    for k in (-1, 4):
        with pytest.raises(RWLossError, match=rf"expected a class of 0\.\.3, got {k}"):
            regions.mask(k)


def test_per_voxel_takes_the_value_of_the_class(kind):
    labels = batch(4, (6, 7))
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = Regions(kind(labels), 4).per_voxel(kind(values))
    assert_equal(found, np.stack([row[image] for row, image in zip(values, labels, strict=True)]))


# --- Spacing


def test_spacing_for_all_images():
    assert Regions(batch(5, (4, 5, 6), size=2), 4).spacings_mm == ((1.0, 1.0, 1.0),) * 2
    for spacing in [(1, 2.5), [1.0, 2.5], np.array([1, 2.5]), torch.tensor([1, 2.5])]:
        assert Regions(batch(5, (4, 5), size=2), 4, spacing).spacings_mm == ((1.0, 2.5),) * 2


@pytest.mark.usefixtures("engine")
def test_each_image_has_its_spacing(kind):
    labels = batch(6, (13, 17), size=3)
    spacings = [(1.0, 1.0), (0.8, 2.5), (3.0, 0.5)]
    regions = Regions(kind(labels), 4, spacings)
    assert regions.spacings_mm == tuple(spacings)
    assert_equal(regions.smallest_spacing_mm, np.float32([1.0, 0.8, 0.5])[:, None, None])
    for i, spacing in enumerate(spacings):
        assert_close(regions.depth_mm[i], plain.depth(labels[i], spacing))
        assert_close(
            regions.signed_distance_mm(1)[i], plain.signed_distance(labels[i] == 1, spacing)
        )


def test_wrong_spacing():
    labels = batch(7, (4, 5), size=2)
    wanted = "spacing in mm for each of 2 axes, or one such row for each of 2 images, got "
    wrong = [1.0, (1.0,), (1.0, 1.0, 1.0), [(1, 1)], [(1, 1)] * 3, "mm", "ab", [(1, 2), (1,)]]
    for spacing in wrong:
        with pytest.raises(RWLossError, match=re.escape(wanted + repr(spacing))):
            Regions(labels, 4, spacing)
    for bad in (0, -1, np.nan, np.inf, None, 1e-10, 1e10):
        with pytest.raises(RWLossError, match="expected a spacing of 1e-9 to 1e9 mm on every axis"):
            Regions(labels, 4, (1, bad))
    assert Regions(labels, 4, (1e-9, 1e9)).spacings_mm == ((1e-9, 1e9),) * 2


# --- Ignored voxels belong to no class


def with_ignored(labels, value, dtype):
    """A block and a stray voxel of each image set to the ignored label."""
    out = labels.astype(dtype)
    out[:, 3:6, 2:5] = value
    out[:, 0, 0] = value
    return out, out == value


IGNORED = [
    (255, np.uint8),
    (-1, np.int16),
    (-1, np.float32),
    (0, np.uint8),
    (2, np.int64),
    (99, np.int8),
]


@pytest.mark.parametrize(("value", "dtype"), IGNORED, ids=str)
@pytest.mark.usefixtures("engine")
def test_ignored_voxels_end_a_region(kind, value, dtype):
    labels, ignored = with_ignored(batch(12, (13, 17)), value, dtype)
    regions = Regions(kind(labels), 4, (0.8, 2.5), ignore_label=value)
    plain_labels = np.where(ignored, -1, labels.astype(int))
    assert_equal(regions.labels, plain_labels)
    assert_equal(regions.ignored, ignored)
    assert_geometry(regions, plain_labels, (0.8, 2.5))
    per_voxel = to_numpy(regions.per_voxel(kind(np.full((3, 4), 7.0, dtype=np.float32))))
    assert_equal(per_voxel, np.where(ignored, 0, 7))


def test_ignored_label_that_never_occurs(kind):
    labels = batch(13, (6, 7))
    assert Regions(kind(labels), 4).ignored is None
    regions = Regions(kind(labels), 4, ignore_label=255)
    assert_equal(regions.labels, labels)
    assert_equal(regions.depth_mm, Regions(labels, 4).depth_mm)
    assert not to_numpy(regions.ignored).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_ignored_label_beyond_the_type_does_not_wrap(kind, dtype):
    """In eight bits 300 is 44: a class of its own, not to be ignored."""
    labels = np.full((1, 2, 2), 44, dtype=dtype)
    regions = Regions(kind(labels), 100, ignore_label=300)
    assert_equal(regions.labels, labels)


def test_minus_one_beside_another_ignored_label(kind):
    labels = np.array([[[0, 255], [-1, 1]]])
    with pytest.raises(RWLossError, match="label -1 found"):
        Regions(kind(labels), 2, ignore_label=255)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.usefixtures("engine")
def test_largest_label_beside_ignored_ones(kind, dtype):
    """The engines get labels moved up by one: that must not wrap around."""
    top = np.iinfo(dtype).max
    labels = np.array([[[top, top, 0], [top, top, -1]]], dtype=dtype)
    regions = Regions(kind(labels), int(top) + 1, ignore_label=-1)
    assert_equal(regions.depth_mm, [[[2, 1, 1], [2, 1, 0]]])


def test_all_voxels_ignored(kind):
    regions = Regions(kind(np.full((1, 3, 4), 255, dtype=np.uint8)), 3, ignore_label=255)
    assert not to_numpy(regions.depth_mm).any()
    assert not to_numpy(regions.peak_depth_mm).any()
    for name in BUILT_IN:
        assert not to_numpy(rwloss.maps.get(name)(regions).dense()).any(), name


# --- Overlapping masks


def test_masks_are_two_class_problems_one_after_the_other(kind):
    masks = np.random.default_rng(5).random((2, 3, 6, 7)) < 0.3
    spacings = [(1.0, 2.0), (3.0, 0.5)]
    regions = Regions.from_masks(kind(masks), spacings)
    assert regions.num_classes == 2
    for image in range(2):
        for mask in range(3):
            alone = Regions.single(masks[image, mask].astype(np.uint8), 2, spacings[image])
            assert_equal(regions.depth_mm[3 * image + mask], alone.depth_mm[0])


def test_masks_of_other_values_or_shapes():
    with pytest.raises(RWLossError, match="label 2 found, but num_classes=2"):
        Regions.from_masks(np.full((1, 1, 2, 2), 2))
    with pytest.raises(RWLossError, match=r"expected masks \(b k \*s\)"):
        Regions.from_masks(np.zeros((2, 3, 3), bool))


def test_masks_for_the_sigmoid_loss(device):
    masks = (torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(1)) < 0.3).to(device)
    logits = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(2)).to(device)
    loss = rwloss.RegionWiseLoss("rectified", activation="sigmoid")
    stored = rwloss.maps.get("rectified")(Regions.from_masks(masks))
    torch.testing.assert_close(loss(logits, masks, stored), loss(logits, masks))
