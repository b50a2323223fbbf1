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
    "rectified(scope='component')",
    "rectified(clip_mm=2.0)",
    "rectified(scope='component', clip_mm=2.0, weights='inverse')",
    "skeleton_recall",
    "unet_border(sigma_mm=2.0)",
    "unet_border(sigma_mm=2.0, weights=None)",
    "active_contour_length",
    "cross_entropy",
    "dice",
    "focal",
    "focal(gamma=0.5)",
    "focal_tversky",
    "generalized_dice",
    "hausdorff_dt",
    "hausdorff_dt(alpha=1.0)",
    "tversky",
]
SHAPES = [((13, 17), (0.8, 2.5)), ((9, 12, 11), (0.8, 1.0, 2.5))]
MOVES = {"flip", "rot90", "crop"}


# The same at every voxel of a crop, though no crop is promised.
WITHOUT_IMAGE = {"class_weighted(weights=(1.0, 2.0, 3.0, 4.0))"}


def test_every_built_in_is_here():
    assert {maps.parse(text).name for text in TEXTS} == set(maps.names())


def probabilities(given, seed=62):
    """Any prediction. (b k *s), float64."""
    drawn = np.random.default_rng(seed).dirichlet(np.ones(4), given.labels.shape)
    return np.ascontiguousarray(np.moveaxis(drawn, -1, 1))


def dense(generator, labels, spacing, probs):
    """Map values; every generator may be given probabilities."""
    return generator(Regions(labels, 4, spacing), probs).dense()


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
    values = generator(given, probabilities(given)).dense()
    is_true = np.arange(4).reshape(1, 4, *[1] * len(shape)) == given.labels[:, None]
    highest = np.where(is_true, -np.inf, values).max(axis=1)
    lowest = np.where(is_true, np.inf, values).min(axis=1)
    true = np.where(is_true, values, 0).sum(axis=1)
    violating = (highest != lowest) | (true > lowest)
    assert violating.any() != generator.tags.stable


@pytest.mark.parametrize("text", TEXTS)
def test_signed_means_values_below_zero(text):
    generator, given = maps.parse(text), regions(*SHAPES[0])
    assert (generator(given, probabilities(given)).dense() < 0).any() == generator.tags.signed


@pytest.mark.parametrize("text", [t for t in TEXTS if "flip" in maps.parse(t).tags.commutes_with])
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_flip_commutes(text, shape, spacing):
    given, generator = regions(shape, spacing), maps.parse(text)
    probs = probabilities(given)
    values = generator(given, probs).dense()
    for axis in range(1, len(shape) + 1):
        labels, turned = np.flip(given.labels, axis), np.flip(probs, axis + 1)
        assert_close(dense(generator, labels, spacing, turned), np.flip(values, axis + 1))


@pytest.mark.parametrize("text", [t for t in TEXTS if "rot90" in maps.parse(t).tags.commutes_with])
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_quarter_turn_with_its_spacing_commutes(text, shape, spacing):
    given, generator = regions(shape, spacing), maps.parse(text)
    probs = probabilities(given)
    values = generator(given, probs).dense()
    for a in range(len(shape)):
        for b in range(a + 1, len(shape)):
            turned_spacing = list(spacing)
            turned_spacing[a], turned_spacing[b] = spacing[b], spacing[a]
            labels = np.rot90(given.labels, axes=(a + 1, b + 1))
            turned = np.rot90(probs, axes=(a + 2, b + 2))
            found = dense(generator, labels, turned_spacing, turned)
            assert_close(found, np.rot90(values, axes=(a + 2, b + 2)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES, ids=str)
def test_crop_commutes_only_where_it_is_promised(text, shape, spacing):
    given, generator = regions(shape, spacing), maps.parse(text)
    box = tuple(slice(2, side - 3) for side in shape)
    probs = probabilities(given)
    of_crop = dense(generator, given.labels[:, *box], spacing, probs[:, :, *box])
    crop_of = generator(given, probs).dense()[:, :, *box]
    if "crop" in generator.tags.commutes_with:
        assert_close(of_crop, crop_of)
    elif text not in WITHOUT_IMAGE:
        assert np.abs(of_crop - crop_of).max() > 0.01
