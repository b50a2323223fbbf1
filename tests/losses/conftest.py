import loss_batches
import pytest
import torch

from rwloss import distance


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)][: 1 + torch.cuda.is_available()]
)
def device(request):
    """As for all tests, but without a line per test that is skipped: here that is every test."""
    return request.param


@pytest.fixture(autouse=True)
def batches_on_the_device(device, monkeypatch):
    """Every loss test runs on each device; one that needs the CPU says `device = "cpu"`."""
    monkeypatch.setattr(loss_batches, "device", device)


@pytest.fixture(autouse=True)
def one_thread():
    """Starting more threads takes longer than the work on a small image."""
    threads = torch.get_num_threads()
    distance.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    distance.set_num_threads(None)
    torch.set_num_threads(threads)
