"""constraints.txt against pyproject.toml: everything that is installed has its pin."""

import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# CUDA libraries of a CUDA build of torch, which pins them itself.
LEFT_TO_TORCH = ("cuda-", "nvidia-", "triton")


def direct_requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    groups = [
        PYPROJECT["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    return [Requirement(line) for group in groups for line in group]


@cache
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "each line names one version"
    names = [canonicalize_name(name) for name, _ in pairs]
    assert len(set(names)) == len(names), "a package stands twice"
    return dict(zip(names, (pin for _, pin in pairs), strict=True))


def indirect_names() -> Iterator[str]:
    """Names of everything that the direct requirements bring along in this environment."""
    waiting, seen = direct_requirements(), set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        yield key[0]
        try:
            lines = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        for further in map(Requirement, lines):
            extras = requirement.extras or {""}
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)


def test_direct_dependencies_are_pinned_within_their_ranges() -> None:
    for requirement in direct_requirements():
        if requirement.name.startswith(LEFT_TO_TORCH):
            continue
        pin = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), requirement


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info[:2] != (3, 11),
    reason="constraints.txt is resolved for Python 3.11 on Linux",
)
def test_indirect_dependencies_are_pinned() -> None:
    names = {name for name in indirect_names() if not name.startswith(LEFT_TO_TORCH)}
    assert names - pins().keys() == set()


def test_torch_is_held_without_naming_a_build() -> None:
    assert version("torch").partition("+")[0] == pins()["torch"] == "2.13.0"
