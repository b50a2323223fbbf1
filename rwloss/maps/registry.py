"""Generators by name: the entry-point group `rwloss.maps`, for built-ins and plug-ins alike."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, build
from rwloss.spelling import nearest

GROUP = "rwloss.maps"


def names() -> list[str]:
    """Names of all generators that are installed, sorted. Imports none of them."""
    return sorted(_entries())


def load(name: str) -> type[MapGenerator]:
    """The generator class of this name; imports only that one.

    Raises RWLossError for an unknown name (with the nearest ones), and for an entry point that
    fails to import or is no generator.
    """
    entries = _entries()
    if name not in entries:
        raise RWLossError(
            f"unknown map {name!r}{nearest(name, entries)}; there are: {', '.join(sorted(entries))}"
        )
    entry = entries[name]
    try:
        generator = entry.load()
    except Exception as error:
        raise RWLossError(f"map {name!r} ({entry.value}) failed to import: {error}") from error
    if not (isinstance(generator, type) and issubclass(generator, MapGenerator)):
        raise RWLossError(f"map {name!r} ({entry.value}) is not a subclass of maps.MapGenerator")
    return generator


def get(name: str, /, **parameters: Any) -> MapGenerator:
    """The generator of this name with these parameters.

    >>> str(get("boundary", convention="valverde"))
    "boundary(convention='valverde')"
    """
    return build(load(name), parameters)


@cache
def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise RWLossError(
                f"two maps are named {entry.name!r}: {other.value} and {entry.value}: "
                "uninstall one of the packages"
            )
        found[entry.name] = entry
    return found
