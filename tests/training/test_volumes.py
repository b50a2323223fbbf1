import itertools

import numpy as np
import pytest

from rwloss import RWLossError, data
from rwloss.training import read_volume
from rwloss.training.volumes import TrainingVolume, slice_axis_of, stacked, unstacked


@pytest.fixture
def case(tmp_path):
    """A 2-D case with two channels and an ignored voxel."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (6, 7)).astype(np.uint8)
    labels[0, 0] = 255
    np.save(tmp_path / "case.npy", labels)
    images = []
    for channel in range(2):
        images.append(tmp_path / f"case_{channel:04d}.npy")
        np.save(images[-1], rng.normal(100 * channel, 5, (6, 7)).astype(np.float32))
    return data.Case("case", tmp_path / "case.npy", tuple(images))


def test_reads_a_real_case():
    volume = read_volume(data.find(data.sample_dir("hippocampus")).cases[0])
    assert volume.image.shape == (1, *volume.labels.shape)
    assert volume.image.dtype == np.float32
    assert set(np.unique(volume.labels)) == {0, 1, 2}
    assert volume.spacing_mm == (1.0, 1.0, 1.0)


def test_each_channel_is_normalised_and_ignored_voxels_are_minus_one(case):
    volume = read_volume(case, ignore_label=255)
    assert volume.image.mean(axis=(1, 2)) == pytest.approx([0, 0], abs=1e-6)
    assert volume.image.std(axis=(1, 2)) == pytest.approx([1, 1], abs=1e-6)
    assert volume.labels[0, 0] == -1
    assert (volume.labels == -1).sum() == 1


def test_negative_labels_are_no_class_and_not_ignored_unasked(case):
    labels = np.load(case.labels).astype(np.int16)
    labels[1, 1] = -1
    np.save(case.labels, labels)
    with pytest.raises(RWLossError, match=r"holds the label -1: .* pass --ignore-label -1"):
        read_volume(case, ignore_label=255)
    labels[labels == 255] = 0
    np.save(case.labels, labels)
    assert (read_volume(case, ignore_label=-1).labels == -1).sum() == 1


def test_images_that_do_not_fit(case):
    with pytest.raises(RWLossError, match="case 'case' has no image"):
        read_volume(data.Case("case", case.labels))
    np.save(case.images[1], np.zeros((7, 6), np.float32))
    with pytest.raises(RWLossError, match=r"case_0001.*shape \(7, 6\), .case_0000.npy. \(6, 7\)"):
        read_volume(case)


def test_the_digest_is_of_values_labels_and_spacing(case):
    def read(**options):
        return read_volume(case, ignore_label=255, **options)

    first, scaled = read(), read(spacing_mm=(1.0, 2.0))
    assert (first.spacing_mm, scaled.spacing_mm) == (None, (1.0, 2.0))
    assert read().digest == first.digest != scaled.digest
    image, labels = np.load(case.images[1]), np.load(case.labels)
    np.save(case.images[1], image + 1)
    assert read().digest != first.digest
    np.save(case.images[1], image)
    assert read().digest == first.digest
    labels[3, 3] = (labels[3, 3] + 1) % 3
    np.save(case.labels, labels)
    assert read().digest != first.digest


def test_slices_lie_across_the_largest_spacing():
    empty = np.zeros((2, 2, 2))
    for spacings, axis in (
        ([None], 2),
        ([(1.0, 1.0, 1.0)], 2),
        ([(1.0, 3.0, 1.0)], 1),
        ([(3.0, 1.0, 2.999)], 2),
        ([(5.0, 1.0, 1.0), (1.0, 4.0, 1.0), (1.0, 4.0, 1.0)], 1),
    ):
        volumes = [TrainingVolume("", empty[None], empty, each) for each in spacings]
        assert slice_axis_of(volumes) == axis, spacings


def test_stacked_slices_make_the_volume_again():
    for shape, axis in itertools.product([(5, 9, 3), (7, 6, 2), (8, 4)], range(3)):
        values = np.arange(2 * np.prod(shape)).reshape(2, *shape)
        slices = stacked(values, len(shape), axis)
        assert slices.shape[:2] == (shape[axis] if len(shape) == 3 else 1, 2)
        assert np.array_equal(unstacked(slices, len(shape), axis), values)
