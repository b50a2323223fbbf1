"""Whether two texts describe the same expression, and whether a map is the one that a loss
needs."""

from __future__ import annotations

import dataclasses
import re

from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, Stabilized, Sum
from rwloss.maps.generator import MapGenerator
from rwloss.maps.parser import parse
from rwloss.rwmap import RWMap


def is_same(one: str, other: str) -> bool:
    """Whether two texts describe equal expressions, whatever their order and written defaults.

    Folders of plug-in files do not count. No file is executed: an expression that needs a file
    which is not loaded is compared as text.

    one, other: texts of expressions.

    >>> is_same("boundary + 0.5 * rectified", "0.5 * rectified(scope='image') + boundary")
    True
    """
    return _compare(one, other, up_to_dataset=False)


def is_map_of(held: str, wanted: str) -> bool:
    """Whether a map of the expression `held` is one of `wanted`, as `is_same` compares texts.

    Where `wanted` weights classes by a rule on a dataset, a store of it holds numbers.

    held, wanted: texts of expressions.

    >>> is_map_of("class_weighted(weights=(1, 2))", "class_weighted(weights='dataset_inverse')")
    True
    """
    return _compare(held, wanted, up_to_dataset=True)


# A graph keeps the answer: it depends on texts alone, for which the graph was made.
is_map_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_map_of(rwmap: RWMap, wanted: str | None) -> None:
    """Raise RWLossError where this is known to be a map of something else than `wanted`.

    wanted: text of the static part that a loss needs. None here or in the map is not compared.
    """
    held = rwmap.expression
    if held is not None and wanted is not None and held != wanted and not is_map_of(held, wanted):
        raise RWLossError(
            f"the map belongs to {held}, but a map of {wanted} is needed: make it again with "
            f"{wanted!r}, or use it with {held!r}"
        )


def _compare(held: str, wanted: str, *, up_to_dataset: bool) -> bool:
    if _without_folders(held) == _without_folders(wanted):
        return True
    try:
        one, other = parse(held, files=False), parse(wanted, files=False)
    except RWLossError:
        return False
    return one == other or (up_to_dataset and _fits(one, other))


def _fits(held: Expression, wanted: Expression) -> bool:
    """Whether these static expressions are equal, except for numbers instead of dataset rules."""
    if held == wanted:
        return True
    if isinstance(held, Stabilized) and isinstance(wanted, Stabilized):
        return _fits(held.inner, wanted.inner)
    if isinstance(held, Sum) and isinstance(wanted, Sum):
        rest = [pair for pair in held.terms if pair not in wanted.terms]
        for weight, term in wanted.terms:
            if (weight, term) not in held.terms:
                found = next((p for p in rest if p[0] == weight and _fits(p[1], term)), None)
                if found is None:
                    return False
                rest.remove(found)
        return not rest
    if not isinstance(held, MapGenerator) or type(held) is not type(wanted):
        return False
    rules = {
        field.name: rule
        for field in dataclasses.fields(wanted)
        if str(rule := getattr(wanted, field.name)).startswith("dataset_")
        and isinstance(getattr(held, field.name), tuple)
    }
    return dataclasses.replace(held, **rules) == wanted


def _without_folders(expression: str) -> str:
    """The text of an expression with the names of its plug-in files alone."""
    return re.sub(r"(file\(['\"])[^'\"]*[/\\]", r"\1", expression)
