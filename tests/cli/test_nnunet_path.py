import importlib.machinery
import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def nnunet_is(monkeypatch):
    """A function that has nnU-Net found, or not, whatever is installed."""
    find = importlib.util.find_spec

    def pretend(installed):
        spec = importlib.machinery.ModuleSpec("nnunetv2", None) if installed else None
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *more: spec if name == "nnunetv2" else find(name, *more),
        )

    return pretend


def test_prints_the_folder_and_nothing_else(rwloss_command, nnunet_is):
    nnunet_is(installed=True)
    code, out, err = rwloss_command("nnunet-path")
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    folder = Path(out.removesuffix("\n"))
    assert folder.is_absolute()
    # nnU-Net imports every module that it finds there.
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == [
        "rwloss_trainers.py"
    ]


def test_without_nnunet_says_what_to_install_and_prints_the_folder(rwloss_command, nnunet_is):
    nnunet_is(installed=True)
    _, there, _ = rwloss_command("nnunet-path")
    nnunet_is(installed=False)
    code, out, err = rwloss_command("nnunet-path")
    assert (code, out) == (0, there)
    assert "pip install 'rwloss[nnunet]'" in err
