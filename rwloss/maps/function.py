"""Generators from plain functions: `@maps.register("name")` above a function of the regions."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, ParamSpec, get_type_hints

from rwloss.errors import RWLossError
from rwloss.maps import registry
from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.regions import Regions
from rwloss.rwmap import RWMap

P = ParamSpec("P")


@dataclass(frozen=True)
class FunctionMap(MapGenerator):
    """A map whose maths is a function; `maps.register` makes a subclass for each."""

    function: ClassVar[Callable[..., RWMap]]

    def compute(self, regions: Regions) -> RWMap:
        """The function's map. labels (b *s) -> map of the same labels."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return type(self).function(regions, **given)


def register(
    name: str, *, tags: MapTags | None = None, citation: str = ""
) -> Callable[[Callable[Concatenate[Regions, P], RWMap]], Callable[P, MapGenerator]]:
    """Make a generator of a function of the regions, known as `name` in this process.

    The function: labels (b *s) as `Regions` -> RWMap. Its further arguments are the parameters of
    the map; each has a type, and may have a default. In its place comes a generator class (a
    frozen dataclass): call it with parameters, and the map with regions.

    tags, citation: as on a class; without tags nothing is promised.

    Raises RWLossError for a signature that is no list of typed parameters, and for a name that
    another map has (both are named).

    Example::

        @maps.register("flat")
        def flat(regions: Regions, cost: float = 1.0) -> RWMap:
            true, other = regions.full(0.0), regions.full(cost)
            return RWMap.compact(regions.labels, regions.num_classes, true, other)

        flat(cost=3) == maps.parse("flat(cost=3)")
    """
    if not isinstance(name, str):
        raise RWLossError('write @maps.register("name") with the name of the map in it')

    def made(
        function: Callable[Concatenate[Regions, P], RWMap],
    ) -> Callable[P, MapGenerator]:
        if not inspect.isfunction(function):
            raise RWLossError(
                f"maps.register({name!r}) is for functions, got {function!r}: a class needs no "
                "decorator but @dataclass(frozen=True)"
            )
        where = f"{function.__module__}:{function.__qualname__}"
        registry.check_name(name, f"{where}, name")
        namespace = {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": inspect.getdoc(function) or f"The map that {where} makes.",
            "name": name,
            "tags": tags or MapTags(),
            "citation": citation,
            "function": staticmethod(function),
        }
        try:
            generator = dataclasses.make_dataclass(
                function.__name__,
                _fields(function, where),
                bases=(FunctionMap,),
                namespace=namespace,
                frozen=True,
            )
        except (TypeError, ValueError) as error:  # a default that can be changed, such as a list
            raise RWLossError(f"{where}: {error}") from error
        registry.add(generator)
        return generator

    return made


def _fields(function: Callable[..., RWMap], where: str) -> list[Any]:
    """The parameters as fields of a dataclass: name, type, and default if there is one."""
    given = list(inspect.signature(function).parameters.values())
    if not given or given[0].kind not in _BY_PLACE:
        raise RWLossError(f"{where}: expected the regions as the first argument")
    parameters = given[1:]
    for parameter in parameters:
        if parameter.kind not in _BY_NAME:
            raise RWLossError(
                f"{where}: {parameter} can't be a parameter of a map: each has a name and a type, "
                "such as alpha: float = 1.0"
            )
        if parameter.annotation is parameter.empty:
            raise RWLossError(
                f"{where}: {parameter.name} has no type: write {parameter.name}: float, or what "
                "it is"
            )
        if hasattr(MapGenerator, parameter.name) or parameter.name in {"name", "function"}:
            raise RWLossError(
                f"{where}: {parameter.name!r} means something else on every map: rename the "
                "parameter"
            )
    kinds = _kinds(function, [parameter.name for parameter in parameters], where)
    return [(p.name, kinds[p.name], _field(p)) for p in parameters]


def _field(parameter: inspect.Parameter) -> Any:
    missing = parameter.default is parameter.empty
    default = dataclasses.MISSING if missing else parameter.default
    by_name_only = parameter.kind is parameter.KEYWORD_ONLY
    return dataclasses.field(default=default, kw_only=by_name_only)


def _kinds(function: Any, names: list[str], where: str) -> dict[str, Any]:
    """Types of these parameters alone: Regions and RWMap may be imported for type checkers only."""
    alone = types.FunctionType(function.__code__, function.__globals__)
    alone.__annotations__ = {name: function.__annotations__[name] for name in names}
    try:
        return get_type_hints(alone, include_extras=True)
    except (NameError, SyntaxError) as error:
        raise RWLossError(
            f"{where}: the type of a parameter can't be read ({error}): import it where it is "
            "there at run time"
        ) from error


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
