"""Patterns with fields in braces, such as "{method}/{seed}.csv", for paths and names of columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rwloss.errors import RWLossError

_FIELD = re.compile(r"\{(\w*)(?::([^{}]*(?:\{[^{}]*\}[^{}]*)*))?\}")


@dataclass(frozen=True)
class Pattern:
    """A pattern that has been read. fields: their names, in order."""

    text: str
    fields: tuple[str, ...]
    long: re.Pattern[str]
    short: re.Pattern[str]

    def match(self, name: str) -> Mapping[str, str] | None:
        """The values of the fields in a name; None if the pattern does not match.

        Raises RWLossError if they are ambiguous.
        """
        found = self.long.fullmatch(name)
        if found is None:
            return None
        other = self.short.fullmatch(name)
        assert other is not None
        if found.groupdict() != other.groupdict():
            ways = (
                ", ".join(f"{key} {value!r}" for key, value in each.groupdict().items())
                for each in (other, found)
            )
            raise RWLossError(
                f"{self.text!r} fits {name!r} in two ways ({'; or '.join(ways)}): give a field an "
                "expression, such as {seed:[0-9]+}"
            )
        return found.groupdict()


def read_pattern(text: str, option: str, choices: Mapping[str, Sequence[str]]) -> Pattern:
    """Read a pattern: {field}, {field:REGEX}, and * for anything; none of them holds a /.

    choices: all possible values of a field, if known. Raises RWLossError, which names the option.

    >>> found = read_pattern("{method}/fold_{seed}/*.csv", "--pattern", {})
    >>> found.match("dice/fold_0/a.csv")
    {'method': 'dice', 'seed': '0'}
    """
    fields: list[str] = []
    long = short = ""
    place = 0
    for each in _FIELD.finditer(text):
        name, regex = each.groups()
        if not name.isidentifier() or name in fields:
            raise RWLossError(
                f"{option} {text!r}: expected each field once, as a word in braces, such as "
                f"{{method}}, got {each[0]!r}"
            )
        fields.append(name)
        literal = _literal(text[place : each.start()])
        if regex is None and name in choices:
            regex = "|".join(map(re.escape, sorted(choices[name], key=len, reverse=True)))
        long += f"{literal}(?P<{name}>{regex or '[^/]+'})"
        short += f"{literal}(?P<{name}>{regex or '[^/]+?'})"
        place = each.end()
    rest = _literal(text[place:])
    if "{" in text[place:] or not fields:
        raise RWLossError(f"{option} {text!r}: expected fields in braces, such as {{method}}")
    try:
        return Pattern(text, tuple(fields), re.compile(long + rest), re.compile(short + rest))
    except re.error as error:
        raise RWLossError(f"{option} {text!r}: not a regular expression ({error})") from error


def _literal(text: str) -> str:
    return "[^/]*".join(map(re.escape, text.split("*")))
