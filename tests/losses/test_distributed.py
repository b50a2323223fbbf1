"""Several processes, each with a share of the batch."""

import pytest
import torch
from ddp_worker import CASES, gradients, images_and_labels, network, work
from loss_batches import assert_close

device = pytest.fixture(lambda: "cpu")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]


def test_two_processes_have_the_gradients_of_one(tmp_path):
    """Equal shares: the mean of their means is the mean of all."""
    torch.multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    images, labels = images_and_labels()
    for text in CASES:
        assert torch.equal(found[0][text], found[1][text])
        assert_close(found[0][text], gradients(network(), text, images, labels), 1e-5)
