"""Packages with plug-ins as pip installs them: modules, and a folder of metadata."""

from __future__ import annotations

import sys

from rwloss.maps import registry

MINE = '''
from dataclasses import dataclass
from typing import ClassVar

from rwloss import RWMap, maps


@dataclass(frozen=True)
class Mine(maps.MapGenerator):
    """Minus the depth at the true class, 0 elsewhere."""

    factor: float = 2.0
    name: ClassVar[str] = "mine"

    def compute(self, regions):
        true = -self.factor * regions.depth_mm
        return RWMap.compact(regions.labels, regions.num_classes, true, regions.full(0.0))
'''
"""A module with one generator."""


def install(folder, package, names, modules, version="1.0"):
    """Write a package. names: entry points by name. modules: their text by module name."""
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    header = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    (metadata / "METADATA").write_text(header)
    lines = [f"[{registry.GROUP}]", *(f"{name} = {target}" for name, target in names.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def use(monkeypatch, *folders):
    """Make these folders importable for one test, and forget their modules afterwards."""
    monkeypatch.setattr(registry, "_registered", {})
    for folder in folders:
        monkeypatch.syspath_prepend(folder)
        for module in folder.glob("*.py"):  # of another test
            sys.modules.pop(module.stem, None)
    monkeypatch.setattr(registry, "_entries", registry._entries.__wrapped__)
