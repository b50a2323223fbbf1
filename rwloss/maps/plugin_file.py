"""Generators in your own file, named `path/to/file.py:Name`.

The file is loaded as a module when it is named; its folder is not added to the import path. Worker
processes load it again from the same path. If the file is also imported, before or after, both
are the same module.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rwloss.errors import RWLossError

PLACE = re.compile(r"(?P<path>[^'\"()]+?\.py):(?P<name>[^\W\d]\w*)")
"""A file and a name without quotes; a path that holds quotes or brackets needs quotes."""


@dataclass(frozen=True)
class ClassInFile:
    """The place of a generator class: absolute path, name in the file, SHA-256 of the file."""

    path: Path
    name: str
    sha256: str

    def __str__(self) -> str:
        """As `maps.get` and `file(...)` read it, relative to the current folder if it is inside.

        Recorded expressions are then the same in every copy of that folder.
        """
        return f"{shown(self.path)}:{self.name}"


def is_place(text: str) -> bool:
    """Whether this text names a file, such as "path/to/file.py:Name".

    >>> is_place("maps/mine.py:Mine"), is_place("rectified")
    (True, False)
    """
    return re.fullmatch(r".+\.py:[^\W\d]\w*", text, re.DOTALL) is not None


def shown(path: Path) -> str:
    """A path as text: relative to the current folder if it is inside, else absolute."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def load_module(path: Path, *, execute: bool = True) -> ModuleType:
    """The module of a file, executed once per content; the imported module if there is one.

    execute: False finds only a module that this process has loaded before.

    Raises RWLossError that names the file if it is missing, fails, or would be executed.
    """
    refusal = RWLossError(
        f"{shown(path)} is Python code, and text from a file must not choose which code runs: "
        f"if you trust it, name it yourself first, for example --map {f'{shown(path)}:Name'!r}"
    )
    # Not even read: it may be any file, or a pipe.
    if not execute and all(path != known for known, _ in _SOURCES.values()):
        raise refusal
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RWLossError(
            f"no file {shown(path)!r} to load a map from: {error.strerror}"
        ) from error
    source = path, hashlib.sha256(content).hexdigest()
    for name, known in _SOURCES.items():
        if known == source and name in sys.modules:
            _BY_PATH.add(name)  # its generators are named by their place from now on
            return sys.modules[name]
    if not execute:
        raise refusal
    name = _module_name(*source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _SOURCES[name] = module, source
    _BY_PATH.add(name)
    try:
        # Not through the loader: its byte-code cache misses a change within one second, and
        # would write into a folder that is not ours.
        exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name], _SOURCES[name]
        kind = "" if isinstance(error, RWLossError) else f"{type(error).__name__}: "
        raise RWLossError(f"{shown(path)} failed to load: {kind}{error}") from error
    _let_it_be_imported(path, module)
    return module


def is_loaded(module_name: str) -> bool:
    """Whether a module was loaded by its path: its name then means nothing to a user."""
    return module_name in _BY_PATH


def remember_source(module_name: str) -> None:
    """Record the file of a module that defines a generator, and its current SHA-256."""
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if module_name.startswith("rwloss.") or file is None or not os.path.isfile(file):
        return
    path = Path(os.path.abspath(file))
    source = path, hashlib.sha256(path.read_bytes()).hexdigest()
    if _SOURCES.get(module_name, source) != source:  # imported again, from what is there now
        _BY_PATH.discard(module_name)
    _SOURCES[module_name] = source


def _let_it_be_imported(path: Path, module: ModuleType) -> None:
    """Let a later `import` of the file find this module, if its folder is on the import path."""
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        same = known.__name__ in _BY_PATH and _SOURCES[known.__name__][0] == path
    else:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        same = spec is not None and os.path.abspath(spec.origin or "") == str(path)
    if same:
        sys.modules[name] = module


def place_of(generator: type[Any]) -> ClassInFile | None:
    """The place of a class that was loaded from a file by its path; else None."""
    if generator.__module__ not in _BY_PATH:
        return None
    path, digest = _SOURCES[generator.__module__]
    return ClassInFile(path, generator.__qualname__, digest)


def empty_instance(place: ClassInFile) -> object:
    """An instance without its fields, for pickle to fill; a worker process first loads the file.

    Raises RWLossError if the file has changed.
    """
    found: Any = sys.modules.get(_module_name(place.path, place.sha256)) or load_module(place.path)
    for name in place.name.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, type) or place_of(found) != place:
        raise RWLossError(f"{place} changed while it was in use: start again")
    new: Any = found.__new__
    return new(found)


def _module_name(path: Path, sha256: str) -> str:
    return f"rwloss_file_{hashlib.sha256(f'{path}:{sha256}'.encode()).hexdigest()[:20]}"


_SOURCES: dict[str, tuple[Path, str]] = {}
"""Path and SHA-256 of the file of each module that defines generators, by the module's name."""

_BY_PATH: set[str] = set()
"""Names of those modules that were loaded by their path."""
