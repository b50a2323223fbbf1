"""Skeleton recall: closed forms, then the published recipe written out."""

import sys

import numpy as np
import pytest
import torch
from anatomy import anatomy, batch
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, label

from rwloss import Regions, RegionWiseLoss, RWLossError, maps

pytest.importorskip("skimage", reason="the extra `skeleton` brings scikit-image")


def skeleton_map(labels, num_classes, **parameters):
    """Value at the true class. labels (b *s) -> (b *s)."""
    found = maps.SkeletonRecall(**parameters)(Regions(labels, num_classes))
    assert found.is_compact
    np.testing.assert_array_equal(found.other, 0)
    return np.asarray(found.true)


def in_diamond(mask, radius):
    """Voxels at most `radius` steps along the axes from the mask. (*s)."""
    places = np.argwhere(mask)
    everywhere = np.indices(mask.shape).reshape(mask.ndim, -1).T
    if not len(places):
        return np.zeros(mask.shape, dtype=bool)
    steps = np.abs(everywhere[:, None] - places[None]).sum(axis=-1).min(axis=1)
    return (steps <= radius).reshape(mask.shape)


def naive(labels, num_classes, radius):
    """Kirchhoff's recipe: skeleton of all foreground, thickened, times the classes. (*s)."""
    from skimage.morphology import skeletonize

    foreground = labels > 0
    skeleton = skeletonize(foreground).astype(bool) if foreground.any() else foreground
    tube = in_diamond(skeleton, radius)
    values = np.zeros(labels.shape)
    for k in range(1, num_classes):
        here = tube & (labels == k)
        if here.any():
            values[here] = -(labels >= 0).sum() / here.sum()
    return values


# --- Closed forms


def test_a_thin_line_is_its_own_skeleton():
    labels = np.zeros((1, 5, 9), dtype=np.uint8)
    labels[0, 2, 1:8] = 1
    found = skeleton_map(labels, 2, radius=0)
    np.testing.assert_array_equal(found, np.where(labels == 1, -np.float32(45) / 7, 0))
    np.testing.assert_array_equal(skeleton_map(labels, 2), found)  # the tube is cut to the class


def test_a_thin_line_in_space():
    labels = np.zeros((1, 4, 5, 6), dtype=np.uint8)
    labels[0, 2, 2, 1:5] = 2
    np.testing.assert_array_equal(skeleton_map(labels, 3), np.where(labels == 2, -120 / 4, 0))


def test_a_single_voxel_and_none():
    for shape in [(1, 1), (3, 3), (5, 7), (1, 1, 1), (3, 4, 5)]:
        labels = np.zeros((1, *shape), dtype=np.uint8)
        np.testing.assert_array_equal(skeleton_map(labels, 3), 0)
        labels[(0, *[side // 2 for side in shape])] = 1
        np.testing.assert_array_equal(skeleton_map(labels, 2), -float(labels.size) * labels)


def test_two_classes_share_a_line():
    """Each class's part is counted by itself."""
    labels = np.zeros((1, 3, 10), dtype=np.uint8)
    labels[0, 1, :3], labels[0, 1, 3:] = 1, 2
    found = skeleton_map(labels, 3)
    np.testing.assert_allclose(found[0, 1], [*[-30 / 3] * 3, *[-30 / 7] * 7], rtol=1e-6)


def test_parts_of_even_thickness_are_not_lost():
    """scikit-image's thinning in 3-D deletes them whole; here a sound part lies beside each."""
    sound = np.zeros((32, 32, 32), dtype=np.uint8)
    sound[26, 26, 4:24] = 2
    for size in [(2, 2, 2), (2, 2, 20), (2, 4, 20), (4, 4, 24), (1, 4, 4), (4, 3, 4), (10, 10, 10)]:
        labels = sound.copy()
        labels[tuple(slice(4, 4 + side) for side in size)] = 1
        line = skeleton_map(labels[None], 3, radius=0)[0] < 0
        assert line[26, 26, 4:24].all()
        places = np.argwhere(line & (labels == 1)) - 4
        assert len(places), size
        middle = (np.array(size) - 1) / 2
        if size != (1, 4, 4):  # a plate has no line in its middle
            long = int(np.argmax(size))
            off = np.delete(places - middle, long, axis=1)
            assert np.abs(off).max() <= 1, size
            assert len(places) >= size[long] - 2 * max(np.delete(size, long)), size


def test_no_part_of_any_shape_is_without_reward():
    """Of these 54 parts scikit-image's thinning in 3-D deletes 11."""
    from skimage.morphology import skeletonize

    noise = gaussian_filter(np.random.default_rng(0).normal(size=(28, 28, 28)), 1.2)
    parts, count = label(noise > 2 * noise.std(), np.ones((3, 3, 3)))
    thinned = np.unique(parts[skeletonize(parts > 0)])
    assert (count, count - len(thinned)) == (54, 11)
    rewarded = skeleton_map((parts > 0)[None].astype(np.uint8), 2, radius=0)[0] < 0
    assert set(np.unique(parts[rewarded])) == {*range(1, count + 1)}
    # Deleted parts are thinned in boxes of their own: the same in the whole volume, one by one.
    wanted = skeletonize(parts > 0).astype(bool)
    for lost in sorted({*range(1, count + 1)} - set(thinned.tolist())):
        part = parts == lost
        line = skeletonize(binary_erosion(part, np.ones((2, 2, 2)))).astype(bool)
        depth = distance_transform_edt(part)
        wanted |= line if line.any() else depth == depth.max()
    np.testing.assert_array_equal(rewarded, wanted)


# --- The recipe


@pytest.mark.parametrize("shape", [(31, 23), (14, 13, 12)], ids=str)
def test_anatomy(shape):
    labels = batch(131, shape)
    labels[1] = 2  # fills the image
    for radius in [0, 1, 2, 4]:
        wanted = [naive(image, 5, radius) for image in labels]
        for kind in (np.asarray, torch.as_tensor):
            found = skeleton_map(kind(labels), 5, radius=radius)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
            assert found.dtype == np.float32


def test_ignored_voxels():
    """They are no foreground, and N does not count them."""
    labels = batch(132, (31, 23)).astype(int)
    labels[:, :, 15:] = -1
    found = maps.SkeletonRecall()(Regions(labels, 4, ignore_label=-1)).dense()
    wanted = [naive(image, 4, 2) for image in labels]
    np.testing.assert_allclose(found.sum(axis=1), wanted, rtol=1e-6)
    assert not found[:, :, :, 15:].any()


def test_the_loss_is_minus_the_soft_recall():
    """Its mean over images and all classes; the background has no skeleton."""
    labels = batch(133, (31, 23))
    logits = torch.randn(3, 4, 31, 23, dtype=torch.float64)
    probs = torch.softmax(logits, dim=1).numpy()
    recalls = np.zeros((3, 4))
    for b, image in enumerate(labels):
        tube = naive(image, 4, 2) < 0
        for k in range(1, 4):
            here = tube & (image == k)
            recalls[b, k] = probs[b, k][here].mean() if here.any() else 0
    loss = RegionWiseLoss("skeleton_recall")(logits, torch.as_tensor(labels.astype(int)))
    assert loss.item() == pytest.approx(-recalls.mean(), rel=1e-6)


def test_spacing_does_not_matter():
    labels = anatomy(134, (31, 23))[None]
    found = maps.SkeletonRecall()(Regions(labels, 4, (0.5, 3.0)))
    np.testing.assert_array_equal(found.true, skeleton_map(labels, 4))


# --- Parameters and what it needs


@pytest.mark.parametrize("radius", [-1, 1.5, "2", None, True], ids=str)
def test_radius_is_whole_and_not_below_zero(radius):
    with pytest.raises(RWLossError, match=r"skeleton_recall\(radius="):
        maps.SkeletonRecall(radius=radius)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(RWLossError, match=r"pip install 'rwloss\[skeleton\]'"):
        maps.SkeletonRecall()(Regions(np.ones((1, 4, 5), dtype=int), 2))
