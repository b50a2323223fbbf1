"""What the built-ins promise of themselves holds on real-looking labels."""

import numpy as np
import pytest
from anatomy import batch

from rwloss import Regions, maps

TEXTS = [
    "active_contour",
    "boundary",
    "class_weighted",
    "rectified",
    "boundary(convention='valverde')",
    "boundary(normalize='max')",
    "class_weighted(weights='inverse_square')",
    "class_weighted(weights='effective_number')",
    "class_weighted(weights=(1.0, 2.0, 3.0, 4.0))",
]
SHAPES = [((13, 17), (0.8, 2.5)), ((9, 12, 11), (0.8, 1.0, 2.5))]
MOVES = {"flip", "rot90", "crop"}


def regions(shape, spacing):
    labels = batch(61, shape, 4, size=4)
    labels[2] = 1  # fills the image
    labels[3][labels[3] == 2] = 0  # absent
    return Regions(labels, 4, spacing)


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("text", TEXTS)
def test_moves_are_known(text):
    assert maps.parse(text).tags.commutes_with <= MOVES


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_stable_means_no_violating_voxel(text, shape, spacing):
    """All wrong classes share one value, and the true class has no higher one."""
    given = regions(shape, spacing)
    generator = maps.parse(text)
    values = generator(given).dense()
    is_true = np.arange(4).reshape(1, 4, *[1] * len(shape)) == given.labels[:, None]
    highest = np.where(is_true, -np.inf, values).max(axis=1)
    lowest = np.where(is_true, np.inf, values).min(axis=1)
    true = np.where(is_true, values, 0).sum(axis=1)
    violating = (highest != lowest) | (true > lowest)
    assert violating.any() != generator.tags.stable


@pytest.mark.parametrize("text", TEXTS)
def test_signed_means_values_below_zero(text):
    generator = maps.parse(text)
    assert (generator(regions(*SHAPES[0])).dense() < 0).any() == generator.tags.signed


@pytest.mark.parametrize("text", [t for t in TEXTS if "flip" in maps.parse(t).tags.commutes_with])
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_flip_commutes(text, shape, spacing):
    given, generator = regions(shape, spacing), maps.parse(text)
    values = generator(given).dense()
    for axis in range(1, len(shape) + 1):
        flipped = Regions(np.flip(given.labels, axis), 4, spacing)
        assert_close(generator(flipped).dense(), np.flip(values, axis + 1))


@pytest.mark.parametrize("text", [t for t in TEXTS if "rot90" in maps.parse(t).tags.commutes_with])
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_quarter_turn_with_its_spacing_commutes(text, shape, spacing):
    given, generator = regions(shape, spacing), maps.parse(text)
    values = generator(given).dense()
    for a in range(len(shape)):
        for b in range(a + 1, len(shape)):
            turned_spacing = list(spacing)
            turned_spacing[a], turned_spacing[b] = spacing[b], spacing[a]
            turned = Regions(np.rot90(given.labels, axes=(a + 1, b + 1)), 4, turned_spacing)
            assert_close(generator(turned).dense(), np.rot90(values, axes=(a + 2, b + 2)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_crop_commutes_only_where_it_is_promised(text, shape, spacing):
    given, generator = regions(shape, spacing), maps.parse(text)
    box = tuple(slice(2, side - 3) for side in shape)
    of_crop = generator(Regions(given.labels[:, *box], 4, spacing)).dense()
    crop_of = generator(given).dense()[:, :, *box]
    if "crop" in generator.tags.commutes_with:
        np.testing.assert_array_equal(of_crop, crop_of)
    elif "(1.0, 2.0, 3.0, 4.0)" not in text:  # given weights know no image
        assert np.abs(of_crop - crop_of).max() > 0.01
