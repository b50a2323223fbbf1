"""Tables of classes by Triton's kernels against NumPy; the regions test all other ways."""

import numpy as np
import pytest
import torch
from anatomy import batch
from interpreted import needs_triton

from rwloss import regions


@pytest.mark.parametrize("block", [64, 4096])
def test_kernels_against_numpy(device, monkeypatch, block):
    """Ignored voxels, absent classes, blocks that end within an image."""
    needs_triton(device)
    from rwloss.distance import triton_classes

    monkeypatch.setattr(triton_classes, "BLOCK", block)
    labels = batch(5, (13, 9), size=2).astype(np.int8)
    labels[0, :4], labels[1][labels[1] == 2] = -1, 0
    values = np.random.default_rng(0).uniform(0.5, 9, labels.shape).astype(np.float32)
    tensors = [torch.as_tensor(array, device=device) for array in (values, labels)]
    found = triton_classes.maxima(*tensors, 5)
    np.testing.assert_array_equal(found.cpu(), regions.class_maxima(values, labels, 5))
    looked_up = triton_classes.look_up(found, tensors[1])
    np.testing.assert_array_equal(looked_up.cpu(), regions.look_up(found.cpu().numpy(), labels))
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = np.where(labels < 0, 0, values / looked_up.cpu().numpy())
    for negative in (False, True):
        shares = triton_classes.divided(tensors[0], found, tensors[1], negative).cpu().numpy()
        np.testing.assert_array_equal(shares, -wanted if negative else wanted)
        assert not np.signbit(shares[labels < 0]).any()
    found = triton_classes.counts(tensors[1], 5)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.cpu(), regions.class_counts(labels, 5))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_labels_in_range(device, monkeypatch, dtype):
    """The first, the last and a middle voxel may be wrong, below and above."""
    needs_triton(device)
    from rwloss.distance import triton_classes

    monkeypatch.setattr(triton_classes, "BLOCK", 64)
    labels = batch(4, (13, 9), size=2).astype(dtype)
    for place in (0, 100, -1):
        for wrong, least, fine in ((4, 0, 0), (127, 0, 0), (-1, 0, 0), (-1, -1, 1), (-2, -1, 0)):
            if wrong >= 0 or dtype != np.uint8:
                changed = labels.copy()
                changed.flat[place] = wrong
                found = triton_classes.in_range(torch.as_tensor(changed, device=device), least, 4)
                assert int(found) == fine, (place, wrong)
    wrong = np.full((1, 3, 3), 2**32, dtype=np.int64)  # 0 in 32 bits
    assert not triton_classes.in_range(torch.as_tensor(wrong, device=device), 0, 4)
    assert triton_classes.in_range(torch.as_tensor(labels, device=device), 0, 4)
