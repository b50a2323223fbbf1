import numpy as np
import pytest
import torch
from torch import nn

from rwloss.training import predict


class Reader(nn.Module):
    """Gives each pixel the class that its first channel holds, and notes what it was shown."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def forward(self, images):
        self.sizes.add(tuple(images.shape[2:]))
        assert not self.training
        return -(images[:, :1] - torch.arange(3.0)[None, :, None, None]).abs()


@pytest.mark.parametrize(
    ("shape", "window"),
    [((5, 9, 3), (8, 12)), ((13, 9, 2), (16, 12)), ((13, 30, 2), (16, 32)), ((6, 5), (8, 12))],
)
def test_every_voxel_gets_its_class(shape, window):
    """In windows of the training's size (8, 12), or of larger multiples of 4 where it must."""
    labels = np.random.default_rng(0).integers(0, 3, shape)
    image = np.stack([labels, np.ones(shape)]).astype(np.float32)
    network = Reader()
    found = predict(network, image, (8, 12), multiple_of=4, batch_size=2)
    assert np.array_equal(found, labels)
    assert network.sizes == {window}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_each_axis(axis):
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    found = predict(Reader(), labels[None].astype(np.float32), (8, 8), axis=axis)
    assert np.array_equal(found, labels)
