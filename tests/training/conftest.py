"""What tests of training share."""

import pytest
import torch
from raw_folders import make_raw

from rwloss.training import RunSettings


@pytest.fixture(autouse=True, scope="module")
def quick_training(request):
    """Small networks, but for modules about networks, real runs, and processes of their own."""
    whole = {"test_loop", "test_network", "test_real_runs", "test_several_processes"}
    if request.path.stem not in whole:
        request.getfixturevalue("small_networks")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for each other's threads when tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def boxes(tmp_path_factory):
    """Five 3-D cases of 12 x 10 x 4, thick along the last axis, in mm."""
    folder, names = tmp_path_factory.mktemp("boxes"), [f"case{i}" for i in range(5)]
    return make_raw(folder, names, (12, 10, 4), spacing=(1.0, 1.0, 3.0))


@pytest.fixture(scope="session")
def short_settings():
    """Settings of a short run on the CPU."""

    def settings(data, out, **changes):
        short = {"map": "rectified", "steps": 4, "batch_size": 2, "accelerator": "cpu"}
        return RunSettings(**{**short, "data": str(data), "out": str(out), **changes})

    return settings


@pytest.fixture
def settings_of(tmp_path, short_settings):
    """Settings of a short run, in a folder of its own unless given."""
    return lambda data, **changes: short_settings(data, **{"out": tmp_path / "run", **changes})
