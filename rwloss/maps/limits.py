"""Types of parameters with their limits, and the check of a value against its type.

Own code, because the maps run where only torch and the array libraries are. Limits of pydantic and
annotated-types mean the same: both say what they are in attributes of these names.
"""

from __future__ import annotations

import numbers
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from rwloss.words import listed

__all__ = ["Limit", "NonNegativeFloat", "NonNegativeInt", "PositiveFloat", "PositiveInt"]


@dataclass(frozen=True)
class Limit:
    """The values that a number may have: `Annotated[float, Limit(ge=0, lt=1)]`.

    gt, ge, lt, le: greater than, at least, less than, at most.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None


PositiveFloat: TypeAlias = Annotated[float, Limit(gt=0)]
"""A number above 0."""

NonNegativeFloat: TypeAlias = Annotated[float, Limit(ge=0)]
"""A number of 0 or more."""

PositiveInt: TypeAlias = Annotated[int, Limit(gt=0)]
"""A whole number above 0."""

NonNegativeInt: TypeAlias = Annotated[int, Limit(ge=0)]
"""A whole number of 0 or more."""


class _Bound(NamedTuple):
    sign: str
    words: str
    holds: Callable[[Any, Any], bool]


_LIMITS = {
    "gt": _Bound(">", "greater than", operator.gt),
    "ge": _Bound(">=", "at least", operator.ge),
    "lt": _Bound("<", "less than", operator.lt),
    "le": _Bound("<=", "at most", operator.le),
}
_SIMPLE = {
    float: "a finite number",
    int: "a whole number",
    bool: "True or False",
    str: "text",
    NoneType: "None",
    None: "None",
    object: "anything",
    Any: "anything",
}
# What notes hold that ask for no more than every parameter is checked for, or that only describe.
_NO_LIMIT = {"strict", "allow_inf_nan", "documentation", "unit"}


class Misfit(ValueError):
    """A value that its type does not allow. name: of the parameter; the text: what it must be."""

    def __init__(self, name: str, must: str) -> None:
        """The parameter, and what it must be."""
        super().__init__(must)
        self.name = name


class UnknownType(TypeError):
    """A type or a limit that can't be checked. name: of the parameter."""

    def __init__(self, name: str, error: TypeError) -> None:
        """The parameter, and what is unknown."""
        super().__init__(
            f"the type of {name} can't be checked ({error}): use float, int, bool, str, None, "
            "Literal, or a tuple of them, with limits of rwloss.maps.limits"
        )
        self.name = name


def checked(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as their types have them: int to float, list to tuple. No other value is converted.

    kinds: a type for each name. Raises Misfit for the first value that doesn't fit, and UnknownType
    for a type that can't be checked.
    """
    found = {}
    for name, kind in kinds.items():
        try:
            fits = _fitting(kind, values[name])
            must = "" if fits else requirement(kind)
        except TypeError as error:
            raise UnknownType(name, error) from error
        if not fits:
            raise Misfit(name, must)
        found[name] = fits[0]
    return found


def requirement(kind: Any) -> str:
    """What a value of this type must be, in words. Raises TypeError for an unknown type.

    >>> requirement(PositiveFloat | None)
    'a finite number greater than 0, or None'
    >>> requirement(tuple[NonNegativeInt, ...])
    'a tuple of items, each a whole number at least 0'
    """
    kind = plain(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        words = [f"{_LIMITS[name].words} {limit:.12g}" for name, limit in limits(kind)]
        must = f"{requirement(args[0])} {listed(words)}".rstrip()
    elif origin in {Union, UnionType}:
        *first, last = map(requirement, args)
        must = f"{', '.join(first)}, or {last}"
    elif origin is Literal:
        *first, last = map(repr, args)
        must = f"{', '.join(first)} or {last}" if first else last
    elif origin is tuple and args[1:] == (Ellipsis,):
        must = f"a tuple of items, each {requirement(args[0])}"
    elif origin is tuple:
        must = f"a tuple of {len(args)}: {'; '.join(map(requirement, args))}"
    elif kind in _SIMPLE:
        must = _SIMPLE[kind]
    else:
        raise TypeError(f"{kind} is no such type")
    return must


def limits(kind: Any) -> Iterator[tuple[str, float]]:
    """Limits of an annotated type: ("gt", 0). Raises TypeError for one of another kind."""
    for note in get_args(kind)[1:]:
        for each in getattr(note, "metadata", [note]):  # pydantic's Field(...) holds a list
            said = [(name, getattr(each, name)) for name in _LIMITS if hasattr(each, name)]
            held = {name for name in dir(each) if not name.startswith("_")}
            harmless = each is None or isinstance(each, str) or (held and held <= _NO_LIMIT)
            if not said and not harmless:
                raise TypeError(f"the limit {each!r} is unknown")
            yield from ((name, limit) for name, limit in said if limit is not None)


def plain(kind: Any) -> Any:
    """A type without a name of its own; a limit of `float | None` is that of the number."""
    while named := getattr(kind, "__supertype__", None) or getattr(kind, "__value__", None):
        kind = named  # of NewType, or of `type Name = ...`
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        inner = plain(inner)
        if get_origin(inner) in {Union, UnionType}:
            choices = get_args(inner)
            limited = [each if each is NoneType else Annotated[each, *notes] for each in choices]
            return reduce(operator.or_, limited)
    return kind


def sign(name: str) -> str:
    """Of a limit by its name: "gt" -> ">"."""
    return _LIMITS[name].sign


def _fitting(kind: Any, value: Any) -> list[Any]:
    """The value as each choice of the type has it; first the one that leaves it as it is."""
    kind = plain(kind)
    if isinstance(value, str):  # also one of NumPy, or of an enum
        value = str.__str__(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):  # also one of NumPy
        with suppress(OverflowError):  # a fraction beyond every float stays one, and fits no number
            value = int(value) if isinstance(value, numbers.Integral) else float(value)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        known = list(limits(kind))
        found = _fitting(args[0], value)
        return [
            each for each in found if all(_LIMITS[name].holds(each, end) for name, end in known)
        ]
    if origin in {Union, UnionType}:
        found = [each for choice in args for each in _fitting(choice, value)]
        return sorted(found, key=lambda each: type(each) is not type(value))
    if origin is Literal:
        return [each for each in args if type(each) is type(value) and each == value]
    if origin is tuple:
        # A set would lose the order.
        return _tuples(args, value) if isinstance(value, tuple | list) else []
    if kind is float and type(value) in {int, float}:
        # An integer can be too large for a float, and text has no way to write infinity.
        return [float(value)] if abs(value) <= sys.float_info.max else []
    if kind not in _SIMPLE:
        raise TypeError(f"{kind} is no such type")
    fits = kind in {object, Any} or type(value) is (NoneType if kind is None else kind)
    return [value] if fits else []


def _tuples(kinds: tuple[Any, ...], values: Sequence[Any]) -> list[tuple[Any, ...]]:
    if kinds[1:] == (Ellipsis,):
        kinds = kinds[:1] * len(values)
    items = [_fitting(*each) for each in zip(kinds, values, strict=False)]
    fit = len(kinds) == len(values) and all(items)
    return [tuple(item[0] for item in items)] if fit else []
