"""A generator as text: a name, or a call with keyword constants. Parsed, never evaluated."""

from __future__ import annotations

import ast
from typing import Any

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator
from rwloss.maps.registry import get


def parse(text: str) -> MapGenerator:
    """The generator that the text describes, in the syntax of Python.

    >>> parse("boundary(convention='valverde')")
    Boundary(convention='valverde', normalize='none')
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise RWLossError(f"map {text!r} does not parse: {error}") from error
    if isinstance(node, ast.Name):
        return get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return get(node.func.id, **_keywords(text, node))
    raise RWLossError(
        f"map {text!r}: expected a name such as rectified, or a call with keywords such as "
        "boundary(convention='valverde')"
    )


def _keywords(text: str, call: ast.Call) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise RWLossError(f"map {text!r}: ** is not allowed: write the parameters out")
        if keyword.arg in values:
            raise RWLossError(f"map {text!r}: {keyword.arg} is given twice")
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError) as error:  # TypeError: a list in a set, or as a key
            raise RWLossError(f"map {text!r}: {keyword.arg} is not a constant") from error
    return values
