"""Active contour map: 0 at the true class, 1 at every other."""

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import batch

from rwloss import Regions, maps


def test_one_voxel():
    found = maps.ActiveContour()(Regions(np.array([[[2]]]), 4)).dense()
    assert found[0, :, 0, 0].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [(31, 23), (9, 8, 7)], ids=str)
def test_anatomy(kind, shape):
    labels = batch(41, shape)
    found = maps.ActiveContour()(Regions(kind(labels), 5))
    assert found.is_compact
    np.testing.assert_array_equal(found.dense(), plain.active_contour(labels, 5))


def test_every_label_map_of_three_classes():
    labels = plain.every_label_map((3, 3), 3)
    found = maps.ActiveContour()(Regions(labels, 3)).dense()
    np.testing.assert_array_equal(found, plain.active_contour(labels, 3))


def test_ignored_voxels():
    labels = batch(42, (15, 12)).astype(int)
    labels[:, :, 8:] = 9
    found = maps.ActiveContour()(Regions(labels, 4, ignore_label=9)).dense()
    plain_labels = np.where(labels == 9, -1, labels)
    np.testing.assert_array_equal(found, plain.active_contour(plain_labels, 4))


def test_constant_parts_need_no_memory():
    found = maps.ActiveContour()(Regions(batch(43, (6, 7)), 4))
    assert found.true.strides == found.other.strides == (0, 0, 0)


def test_spacing_does_not_matter():
    labels = batch(43, (6, 7))
    wanted = maps.ActiveContour()(Regions(labels, 4)).dense()
    found = maps.ActiveContour()(Regions(labels, 4, (0.1, 9.0))).dense()
    np.testing.assert_array_equal(found, wanted)
