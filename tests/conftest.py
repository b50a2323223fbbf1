"""What tests of every room share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rwloss.maps import registry

# A shell that starts something in the background lets it ignore Ctrl-C, and what it starts too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_new_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, or loads from a file, is unknown to the next."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that maps and losses must work on: the CPU, and a GPU where there is one."""
    if request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    return str(request.param)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nnU-Net raw folder of eight 2-D cases of 16 x 16 with three classes."""
    from raw_folders import make_raw

    folder = tmp_path_factory.mktemp("squares")
    return make_raw(folder, [f"case{i}" for i in range(8)])


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Gives the folder of a shared data set by name, or skips the test with the reason."""

    def folder(name: str) -> Path:
        root = os.environ.get("RWLOSS_TEST_DATA")
        if not root:
            pytest.skip("RWLOSS_TEST_DATA is not set: it names the folder of the shared data")
        place = Path(root) / name
        if not place.is_dir():
            pytest.skip(f"RWLOSS_TEST_DATA has no folder {name!r}")
        return place

    return folder
