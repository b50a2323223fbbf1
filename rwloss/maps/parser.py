"""Expressions as text: the syntax of Python, read through `ast` with a whitelist, never evaluated.

rectified + 0.01 * boundary(convention='kervadec')
boundary.stabilized().with_link(0.5) + dice
blend(generalized_dice, boundary, schedule='rebalance')
path/to/file.py:Name(alpha=2)
rectified + 0.1 * file('path/to/file.py:Name', alpha=2)
"""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression, as_float
from rwloss.maps.generator import build, parameters
from rwloss.maps.plugin_file import PLACE, is_place
from rwloss.maps.registry import load, names, unknown
from rwloss.maps.schedule import Blend, ScheduleName
from rwloss.words import nearest

_METHODS = {"stabilized": 0, "with_link": 1}  # with their number of arguments
_BLEND = tuple(field.name for field in dataclasses.fields(Blend))
_USES = {
    "stabilized": "stabilized comes after a map: rectified.stabilized(...)",
    "with_link": "with_link comes after a map: rectified.with_link(...)",
    "blend": "blend mixes two maps: blend(region, boundary, schedule=...)",
    "file": "file loads a map: file('path/to/file.py:Name')",
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_LONGEST = 10_000  # characters; far more than anyone writes, and Python's own parser has limits


def parse(text: str, *, files: bool = True) -> Expression:
    """Parse the text of an expression.

    A text holds names of generators (`rwloss maps` lists them), parameters by keyword, numbers, +,
    - and *, `.stabilized()`, `.with_link(q)` and `blend(region, boundary, schedule=...)`. A
    generator in a file is `file('path/to/file.py:Name', parameter=...)`; at the start of the text
    `path/to/file.py:Name(parameter=...)` means the same. Relative paths start at the current
    folder. The file is executed, so name only files that you trust. Nothing else is executed.

    files: False refuses to execute a file. Use it for a text that the user did not type, such as
    that of a store. A file that this process has already loaded, with the same content, is safe and
    stays allowed; so are the names of installed packages, which the user chose.

    Raises RWLossError that points at the column and suggests the nearest known name.

    >>> str(parse("rectified + 0.50 * (boundary - rectified)"))
    '0.5 * rectified + 0.5 * boundary'
    """
    if len(text) > _LONGEST:
        raise RWLossError(f"map of {len(text)} characters: expected {_LONGEST} at most")
    text = re.sub(r"\s", " ", text).strip()  # one line, so that a column is enough
    if re.fullmatch(r"[^'\"()*+:]+\.py", text):
        raise _error(text, 0, str(unknown(text, names())))
    place = PLACE.match(text)
    if place is not None:
        _check_place(text, place)
    # Underscores stand in for a file at the start, as many as it has letters: columns stay right.
    code = text if place is None else "_" * place.end() + text[place.end() :]
    try:
        tree = ast.parse(code, mode="eval")
    except SyntaxError as error:
        # Offset 0 is the end of the text.
        column = error.offset - 1 if error.offset else len(text)
        message = str(error.msg)
        if message == "invalid syntax":
            message += ": expected terms joined by +, - and *, such as 0.5 * rectified + dice"
        raise _error(text, column, message) from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise RWLossError(f"map {text[:80]!r} cannot be parsed: {error}") from error
    reader = _Reader(text, code, place[0] if place else None, files)
    try:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, int | float)
                and math.isinf(as_float(node.value))
            ):
                raise reader.wrong(node, "this number is too large")
        value = reader.read(tree.body)
    except RecursionError as error:
        raise RWLossError(f"map {text[:80]!r} is nested too deep") from error
    if not isinstance(value, Expression):
        raise _error(text, 0, f"{value:g} is a number, not a map")
    return value


def blend(
    region: Expression | str,
    boundary: Expression | str,
    schedule: ScheduleName = "rebalance",
    alpha: float = 0.01,
    step: float | None = 0.01,
    **more: Any,
) -> Blend:
    """A region loss and a boundary map with weights that follow the epoch; see `Blend`.

    more: start, ramp, share and every of `Blend`. region, boundary: expressions or their texts.
    schedule, alpha, step: as for `Blend`.

    >>> str(blend("generalized_dice", "boundary"))
    "blend(generalized_dice, boundary, schedule='rebalance')"
    """
    left, right = (parse(side) if isinstance(side, str) else side for side in (region, boundary))
    return Blend(left, right, schedule, alpha, step, **more)


class _Reader:
    """Turns the syntax tree of one text into an expression.

    code: the text as Python reads it, with underscores in place of a file at the start.
    """

    def __init__(self, text: str, code: str, place: str | None, files: bool) -> None:
        self.text, self.code, self.place, self.files = text, code, place, files

    def read(self, node: ast.expr) -> Expression | float:
        value: Expression | float
        match node:
            case ast.Name(id=name):
                value = self._term(node, name)
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                value = float(number)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                value = self.read(operand)
                value = -value if isinstance(sign, ast.USub) else value
            case ast.BinOp(left=left, right=right):
                value = self._arithmetic(node, self.read(left), self.read(right))
            case ast.Call(func=ast.Name(id="blend")):
                value = self._blend(node)
            case ast.Call(func=ast.Name(id="file")):
                value = self._file(node)
            case ast.Call(func=ast.Name(id=name) as function, args=args, keywords=keywords):
                value = self._term(function, name, args, keywords)
            case ast.Call(func=ast.Attribute(value=inner, attr=method)):
                value = self._method(node, inner, method)
            case _:
                raise self.wrong(
                    node,
                    "expected names of maps, parameters by keyword, numbers, +, -, *, "
                    ".stabilized(), .with_link(q), blend(...) or file('path/to/file.py:Name')",
                )
        return value

    def _term(
        self,
        node: ast.expr,
        name: str,
        args: Sequence[ast.expr] = (),
        keywords: Sequence[ast.keyword] = (),
    ) -> Expression:
        """The generator of this name, or in this file, with parameters."""
        if self.place is not None and name == "_" * len(self.place):
            name = self.place
        if name in _USES:
            raise self.wrong(node, _USES[name])
        given = self._keywords(keywords)
        with self._at(node):
            if not is_place(name) and name not in names():
                raise unknown(name, [*names(), "blend"])
            generator = load(name, files=self.files)
            known = parameters(generator) if keywords else {}
        if args:
            raise self.wrong(args[0], f"give {name}'s parameters by keyword: {name}(parameter=...)")
        strange = (keyword for keyword in keywords if keyword.arg not in known)
        with self._at(next(strange, node)):
            return build(generator, given)

    def _file(self, call: ast.Call) -> Expression:
        match call.args:
            case [ast.Constant(value=str() as place) as node] if is_place(place):
                return self._term(node, place, keywords=call.keywords)
        wrong = call.args[0] if call.args else call
        raise self.wrong(wrong, "expected file('path/to/file.py:Name', parameter=...)")

    def _method(self, call: ast.Call, inner: ast.expr, method: str) -> Expression:
        expression = self._map(inner)
        if method not in _METHODS:
            raise self.wrong(call, f"unknown method .{method}{nearest(method, _METHODS)}")
        args, keywords = map(self._constant, call.args), self._keywords(call.keywords)
        given = [*args, *keywords.values()]
        if len(given) != _METHODS[method] or not set(keywords) <= {"q"}:
            raise self.wrong(call, "expected .stabilized() or .with_link(q)")
        with self._at(call):
            made: Expression = getattr(expression, method)(*given)
            return made

    def _blend(self, call: ast.Call) -> Expression:
        given: list[Any] = [self._side(argument) for argument in call.args[:2]]
        given += [self._constant(argument) for argument in call.args[2:]]
        for keyword in call.keywords:
            if keyword.arg is not None and keyword.arg not in _BLEND:
                raise self.wrong(
                    keyword,
                    f"blend has no parameter {keyword.arg!r}{nearest(keyword.arg, _BLEND) or '.'} "
                    f"It has: {', '.join(_BLEND)}",
                )
        keywords = self._keywords(call.keywords, sides=("region", "boundary"))
        with self._at(call):
            return blend(*given, **keywords)

    def _side(self, node: ast.expr) -> Expression:
        """One side of a blend: a map, or its text in quotes as in Python."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            with self._at(node):
                return parse(node.value, files=self.files)
        return self._map(node)

    def _map(self, node: ast.expr) -> Expression:
        value = self.read(node)
        if not isinstance(value, Expression):
            raise self.wrong(node, f"expected a map, got the number {value:g}")
        return value

    def _arithmetic(
        self, node: ast.BinOp, left: Expression | float, right: Expression | float
    ) -> Expression | float:
        sign = type(node.op)
        maps = isinstance(left, Expression) + isinstance(right, Expression)
        if sign not in _OPERATORS:
            raise self.wrong(node, "expected +, - or *")
        if sign is ast.Mult and maps == 2:
            raise self.wrong(node, "two maps can't be multiplied: one side must be a number")
        if sign is not ast.Mult and maps == 1:
            raise self.wrong(
                node, "a map and a number can't be added: did you mean to multiply with *?"
            )
        with self._at(node):
            result: Expression | float = _OPERATORS[sign](left, right)
            return result

    def _keywords(
        self, keywords: Sequence[ast.keyword], sides: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Values by name: constants, or maps for the names in `sides`."""
        values: dict[str, Any] = {}
        for keyword in keywords:
            if keyword.arg is None:
                raise self.wrong(keyword.value, "** is not allowed: write the parameters out")
            if keyword.arg in values:
                raise self.wrong(keyword.value, f"{keyword.arg} is given twice")
            read = self._side if keyword.arg in sides else self._constant
            values[keyword.arg] = read(keyword.value)
        return values

    def _constant(self, node: ast.expr) -> Any:
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise self.wrong(
                node, "expected a constant: a number, a text in quotes, None or a tuple of these"
            ) from None

    @contextmanager
    def _at(self, node: ast.expr | ast.keyword) -> Iterator[None]:
        """Errors from here point at this part of the text."""
        try:
            yield
        except ExpressionError:
            raise
        except (RWLossError, TypeError) as error:
            raise self.wrong(node, str(error)) from error

    def wrong(self, node: ast.expr | ast.keyword, message: str) -> RWLossError:
        # ast counts columns in bytes.
        before = self.code.encode()[: node.col_offset]
        return _error(self.text, len(before.decode(errors="ignore")), message)


def _check_place(text: str, place: re.Match[str]) -> None:
    """Refuse `2 * file.py:Name`: a file needs no quotes only at the start of the text."""
    before = re.search(r"[-+*] *(?=[^-+* ]+$)", place["path"])
    if before is not None and not Path(place["path"]).is_file():
        shown = place[0][before.end() :]
        raise _error(text, before.end(), f"a file needs quotes here: file({shown!r})")


class ExpressionError(RWLossError):
    """An error in the text of an expression, which points at the column."""


def _error(text: str, column: int, message: str) -> RWLossError:
    """An error with the text and a mark under the column, counted from 0."""
    start = 0 if len(text) <= 100 else max(0, column - 40)
    mark = " " * (column - start) + "^"
    return ExpressionError(
        f"map, column {column + 1}: {message}\n  {text[start : start + 100]}\n  {mark}"
    )
