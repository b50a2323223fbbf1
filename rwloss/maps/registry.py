"""Generators by name: the entry-point group `rwloss.maps`, for built-ins and plug-ins alike.

`maps.register` adds names in this process; `path/to/file.py:Name` loads a file.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import os
import re
import sys
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, as_dataclass, build
from rwloss.maps.plugin_file import is_place, load_module, place_of, shown
from rwloss.words import nearest

GROUP = "rwloss.maps"
RESERVED = frozenset({"blend", "file", "stabilized", "with_link"})
"""Words of expressions that can't name a map."""

_registered: dict[str, type[MapGenerator]] = {}
_accepted: set[tuple[str, type]] = set()  # checked before: it takes reading a package's metadata


def names() -> list[str]:
    """Names of all generators that are installed or registered, sorted. Imports none of them."""
    return sorted({*_entries(), *_registered})


def load(name: str, *, files: bool = True) -> type[MapGenerator]:
    """The generator class of a name, or of a text such as "path/to/file.py:Name".

    Imports no other. files: False refuses to execute a file; see `maps.parse`.

    Raises RWLossError for an unknown name (with the nearest ones), for a name that two packages
    have, and for anything that fails to import or is not a generator. The message names the
    package or the file.
    """
    if name in _registered:
        return _registered[name]
    entries = _entries().get(name, ())
    if not entries and is_place(name):
        return _load_place(name, files)
    if not entries:
        raise unknown(name, names())
    entry, *others = entries
    if others:
        raise _two_of(name, *map(_whose, entries))
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        raise RWLossError(
            f"map {name!r} ({_whose(entry)}) failed to import: {type(error).__name__}: {error}"
        ) from error
    if isinstance(found, type) and (name, found) in _accepted:
        return found
    where = f"map {name!r} ({_whose(entry)})"
    generator = _generator(found, where)
    if generator.name != name:
        raise RWLossError(
            f"{where} calls itself {generator.name!r}: give the entry point and the generator the "
            "same name"
        )
    _accepted.add((name, generator))
    return generator


def get(name: str, /, **parameters: Any) -> MapGenerator:
    """The generator of this name (or "path/to/file.py:Name") with these parameters.

    >>> str(get("boundary", convention="valverde"))
    "boundary(convention='valverde')"
    """
    generator = load(name)
    if parameters:
        return build(generator, parameters)
    usual = _with_defaults(generator)
    return usual if usual.is_static else build(generator, {})  # a loss remembers its checks


@lru_cache(maxsize=64)
def _with_defaults(generator: type[MapGenerator]) -> MapGenerator:
    return build(generator, {})


def add(generator: type[MapGenerator]) -> None:
    """Make a generator known by its name in this process.

    A reloaded generator replaces its older self. Raises RWLossError that names both if another
    generator has the name.
    """
    name = generator.name
    for entry in _entries().get(name, ()):
        if entry is not _entry_of(generator):
            raise _two_of(name, _whose(entry), _where(generator))
    known = _registered.get(name)
    if known is not None and _home(known) != _home(generator):
        raise _two_of(name, _where(known), _where(generator))
    _registered[name] = generator


def unknown(name: str, known: list[str]) -> RWLossError:
    """The error for a name that no map has: it suggests the nearest, or how to name one's own."""
    if name.endswith(".py"):
        return RWLossError(f"{name!r} is a file: also name the map in it, as in {name}:NAME")
    near = nearest(name, known) or "."
    own = ""
    if name.isidentifier() and near == ".":
        own = (
            f". For your own map in a file, write FILE.py:{name}, and @maps.register({name!r}) "
            "above its function"
        )
    return RWLossError(f"unknown map {name!r}{near} There are: {', '.join(known)}{own}")


def check_name(name: object, where: str) -> None:
    """Raise RWLossError for a name that can't stand in an expression."""
    fits = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    if not fits or name in RESERVED:
        raise RWLossError(
            f"{where}: expected a name of letters, digits and _ that has no other meaning in "
            f"expressions, got {name!r}"
        )


def built_in_kind(name: str) -> str:
    """ "static" or "dynamic" for the name of a generator of rwloss itself, else "". No import."""
    kinds = [re.match(r"rwloss\.maps\.(\w+)\.", e.value) for e in _entries().get(name, ())]
    return kinds[0][1] if len(kinds) == 1 and kinds[0] else ""


def summary(name: str) -> str:
    """First line about a built-in, read from its source: to import all of them takes longer.

    >>> summary("dice").split()[0]
    '1'
    """
    [entry] = _entries()[name]
    file = Path(__file__).parents[2] / (entry.module.replace(".", "/") + ".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    [found] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == entry.attr]
    return str(ast.get_docstring(found)).splitlines()[0]


def origin(name: str) -> str:
    """Where a generator comes from: its package and class, or its file. Imports no package.

    >>> origin("boundary").split()[0]
    'rwloss.maps.static.boundary:Boundary'
    """
    if is_place(name):
        return _where(load(name))
    if name in _registered:
        return _where(_registered[name])
    return " and ".join(map(_whose, _entries().get(name, ())))


def revision(generator: type[MapGenerator]) -> str:
    """The version of a plug-in: its package and version, or the SHA-256 of its file.

    Of a built-in its `map_version`, empty until its values change: older stores are then stale.

    >>> from rwloss import maps
    >>> revision(maps.Boundary)
    ''
    """
    if generator.__module__.startswith("rwloss."):
        return generator.map_version
    place = place_of(generator)
    if place is not None:
        return f"sha256:{place.sha256}"
    entry = _entry_of(generator)
    if entry is not None and entry.dist is not None:
        return f"{entry.dist.name} {entry.dist.version}"
    file = Path(_home(generator)[0])
    return f"sha256:{sha256(file.read_bytes()).hexdigest()}" if file.is_file() else "unknown"


@cache
def _entries() -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points by name: several if packages use one name for different things."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        known = found.get(entry.name, ())
        if all(entry.value != other.value for other in known):
            found[entry.name] = (*known, entry)
    return found


def _load_place(text: str, execute: bool) -> type[MapGenerator]:
    place, _, name = text.rpartition(":")
    path = Path(os.path.abspath(place))
    module = load_module(path, execute=execute)
    if not hasattr(module, name):
        there = [
            value.__name__
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, MapGenerator)
            and value.__module__ == module.__name__
        ]
        raise RWLossError(
            f"{shown(path)} has no {name!r}{nearest(name, there) or '.'} Its maps are: "
            f"{', '.join(there) or 'none'}"
        )
    generator = _generator(getattr(module, name), f"{shown(path)}:{name}")
    if place_of(generator) is not None:  # not one that the file only imports
        add(generator)
    return generator


def _generator(found: Any, where: str) -> type[MapGenerator]:
    """The class behind a name, checked: a generator that is complete and has a valid name."""
    wrong = ""
    if inspect.isfunction(found):
        wrong = f"a plain function: put @maps.register({found.__name__!r}) above it"
    elif isinstance(found, MapGenerator):
        wrong = (
            f"an instance of {type(found).__name__}, expected a class: put "
            '@maps.register("name") above the function of a loss, or name the class'
        )
    elif not (isinstance(found, type) and issubclass(found, MapGenerator)):
        wrong = "not a subclass of maps.MapGenerator"
    elif inspect.isabstract(found):
        wrong = f"abstract: it does not define {', '.join(sorted(found.__abstractmethods__))}"
    if wrong:
        raise RWLossError(f"{where} is {wrong}")
    check_name(getattr(found, "name", None), f"{where}, name")
    generator: type[MapGenerator] = found
    as_dataclass(generator)
    return generator


def _two_of(name: str, *owners: str) -> RWLossError:
    return RWLossError(
        f"two maps are named {name!r}: {' and '.join(owners)}: rename one, or uninstall one of the "
        "packages"
    )


def _whose(entry: EntryPoint) -> str:
    """An entry point with its package, if that is known."""
    return entry.value if entry.dist is None else f"{entry.value} of {_release(entry.dist)}"


@cache
def _release(package: Distribution) -> str:
    """Name and version: each takes reading all of a package's metadata."""
    return f"{package.name} {package.version}"


def _where(generator: type[MapGenerator]) -> str:
    """A class with its package or its file."""
    place = place_of(generator)
    if place is not None:
        return f"{place} (sha256 {place.sha256[:12]})"
    entry = _entry_of(generator)
    if entry is not None:
        return _whose(entry)
    home, name = _home(generator)
    return f"{home if home == generator.__module__ else shown(Path(home))}:{name}"


def _entry_of(generator: type[MapGenerator]) -> EntryPoint | None:
    target = f"{generator.__module__}:{generator.__qualname__}"
    return next((e for e in _entries().get(generator.name, ()) if e.value == target), None)


def _home(generator: type[MapGenerator]) -> tuple[str, str]:
    """File (module if there is none) and name: a reloaded module has the same."""
    place = place_of(generator)
    file = place.path if place else getattr(sys.modules.get(generator.__module__), "__file__", None)
    return os.path.abspath(file) if file else generator.__module__, generator.__qualname__
