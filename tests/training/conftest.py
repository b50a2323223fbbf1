"""What tests of training share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for each other's threads when tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
