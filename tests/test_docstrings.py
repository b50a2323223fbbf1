"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import rwloss

OPTIONAL = {"edt", "matplotlib", "monai", "nnunetv2", "SimpleITK"}
ROOMS = sorted({module.name for module in pkgutil.iter_modules(rwloss.__path__)} - {"__main__"})


def modules_of(room):
    yield f"rwloss.{room}"
    package = importlib.import_module(f"rwloss.{room}")
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"rwloss.{room}."):
        yield module.name


@pytest.mark.parametrize("room", ROOMS)
def test_examples(room, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what an example writes stays here
    for name in modules_of(room):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in OPTIONAL:
                raise
            continue
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert result.failed == 0, name
