"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import rwloss

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(rwloss.__path__, "rwloss.")
    if not module.name.endswith("__main__")
)
OPTIONAL = {"edt", "matplotlib", "monai", "nnunetv2", "SimpleITK"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    if not any(test.examples for test in doctest.DocTestFinder().find(module)):
        return
    monkeypatch.chdir(tmp_path)  # what an example writes stays here
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
