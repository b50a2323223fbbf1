"""What tests of every room share."""

import gc
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from rwloss.maps import registry

# A shell that starts something in the background lets it ignore Ctrl-C, and what it starts too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the tests import stays to the end: searched for garbage again and again while it is imported
# and then by every test, it would cost a fifth of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


# Without a GPU, Triton's interpreter runs its kernels. This must be said before it is imported.
if not any(Path("/dev").glob("nvidia[0-9]")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def no_new_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, or loads from a file, is unknown to the next."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture(autouse=True)
def values_are_read_on_a_gpu_too(request: pytest.FixtureRequest) -> Iterator[None]:
    """So that a refusal is an exception, as on the CPU: an assertion there ends the process.

    `waiting_raises` takes it back.
    """
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    import torch

    import rwloss

    rwloss.check_values()
    yield
    rwloss.check_values(False)
    if torch.cuda.is_available() and torch.cuda.get_sync_debug_mode():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each call says that the mode is a prototype
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that maps and losses must work on: the CPU, and a GPU where there is one."""
    return _available(request.param)


@pytest.fixture(params=["numpy", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def kind(request: pytest.FixtureRequest) -> Callable[[object], object]:
    """Gives NumPy values as each kind of array: NumPy's own, and torch's on each device."""
    if request.param == "numpy":
        import numpy as np

        return np.asarray
    import torch

    return partial(torch.as_tensor, device=_available(request.param))


def _available(device: str) -> str:
    """The device, or the test is skipped."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    return device


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, which calls nobody by itself; the test is skipped without it or playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: make chromium")
    quiet = (
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    )  # fmt: skip
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=path, args=quiet)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def small_networks() -> Iterator[None]:
    """In the place of "tiny", networks of a hundredth of its weights: quick to build and save.

    And Fabric does not search all that is installed for callbacks at each start.
    """
    from rwloss.training.architectures import PRESETS, NetworkPreset

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", NetworkPreset((2, 4, 8, 16), residual_units=1))
        if find_spec("lightning_fabric"):
            patch.setattr("lightning_fabric.fabric._load_external_callbacks", lambda group: [])
        yield


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The place of a network in a file that nobody has named yet."""
    from own_network import OWN

    from rwloss.training import architectures

    monkeypatch.setattr(architectures, "_NAMED", {})
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return f"{path}:Own"


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nnU-Net raw folder of eight 2-D cases of 16 x 16 with three classes."""
    from raw_folders import make_raw

    folder = tmp_path_factory.mktemp("squares")
    return make_raw(folder, [f"case{i}" for i in range(8)])


@pytest.fixture(scope="session")
def original_stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Gives a folder with labels of four cases, and a store of their maps, not to be changed."""
    from stored import FOUR_CASES, write_nifti

    from rwloss.precompute import precompute

    top = tmp_path_factory.mktemp("originals")
    (top / "labels").mkdir()
    for seed, case in enumerate(FOUR_CASES):
        write_nifti(top / "labels" / f"{case}.nii.gz", seed)

    @cache
    def made(kind: str, expression: str) -> Path:
        out = top / f"{kind} {expression}"
        precompute(top / "labels", out, expression, format=kind, num_classes=3, jobs=0)
        return out

    return made


@pytest.fixture
def four_cases(original_stores: Callable[[str, str], Path], tmp_path: Path) -> Path:
    """A folder of labels of four cases, to change."""
    labels = original_stores("nifti", "rectified").parent / "labels"
    return Path(shutil.copytree(labels, tmp_path / "labels"))


@pytest.fixture
def store_of_four(
    original_stores: Callable[[str, str], Path], four_cases: Path
) -> Callable[..., Path]:
    """Gives a store of the four cases, to change."""

    def made(kind: str = "nifti", expression: str = "rectified") -> Path:
        original = original_stores(kind, expression)
        out = Path(shutil.copytree(original, four_cases.with_name("maps")))
        log, labels = out / "log.jsonl", json.dumps(str(original.parent / "labels"))
        log.write_text(log.read_text().replace(labels, json.dumps(str(four_cases))))
        return out

    return made


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Gives the folder of a shared dataset by name, or skips the test with the reason."""

    def folder(name: str) -> Path:
        root = os.environ.get("RWLOSS_TEST_DATA")
        if not root:
            pytest.skip("RWLOSS_TEST_DATA is not set: it names the folder of the shared data")
        place = Path(root) / name
        if not place.is_dir():
            pytest.skip(f"RWLOSS_TEST_DATA has no folder {name!r}")
        return place

    return folder
