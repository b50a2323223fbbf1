import pytest
import torch

from rwloss import distance


@pytest.fixture(autouse=True)
def one_thread():
    """Starting more threads takes longer than the work on a small image."""
    threads = torch.get_num_threads()
    distance.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    distance.set_num_threads(None)
    torch.set_num_threads(threads)
