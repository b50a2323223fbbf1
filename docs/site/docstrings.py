"""Docstrings of rwloss as the reference shows them: parameters and errors as tables.

They say `name: what it is. other: what that is` and `Raises X where ...` in running text, which
reads well in an editor. Here each becomes a row of a table. A parameter that a docstring leaves to
its name gets the meaning that the name has everywhere in rwloss, from `WORDS`, with the shape that
the docstring gives it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import griffe

WORDS: Mapping[str, str] = {}
"""What names of parameters mean, wherever they stand."""

_EXAMPLE = re.compile(r"^>>> .*\n?(?:^(?!\s*$).*\n?)*(?:\s*^>>> .*\n?(?:^(?!\s*$).*\n?)*)*", re.MULTILINE)
_RAISES = re.compile(
    r"(?:^|(?<=[.;:] ))Raises (?:the )?(\w*(?:Error|Diverged))(?: (.*?))?(?:\.(?= |$)|$)", re.DOTALL
)


class Docstrings(griffe.Extension):
    """The extension of griffe that mkdocs.yml names."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Parameters of a function."""
        names = [each.name for each in func.parameters if each.name not in {"self", "cls"}]
        _rewrite(func, names, "Args", WORDS)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Parameters of `__init__`, or fields."""
        begin = cls.members.get("__init__")
        if isinstance(begin, griffe.Function):
            _rewrite(cls, [each.name for each in begin.parameters][1:], "Args")
        else:
            _rewrite(cls, list(cls.members), "Attributes")


def _rewrite(
    of: griffe.Function | griffe.Class,
    names: Sequence[str],
    title: str,
    words: Mapping[str, str] = {},
) -> None:
    if of.docstring is not None:
        of.docstring.value = with_sections(of.docstring.value, names, title, words)


def with_sections(
    text: str, names: Sequence[str], title: str, words: Mapping[str, str] = {}
) -> str:
    """The text with its parameters, errors and examples as sections of Google's style.

    >>> text = "A sum. a, b: in mm. Raises ValueError where a\\nis not finite.\\n\\nOf c (b *s)."
    >>> print(with_sections(text, ["a", "b", "c"], "Args", {"c": "labels"}))
    A sum.
    <BLANKLINE>
    Of c (b *s).
    <BLANKLINE>
    Args:
        a: in mm.
        b: in mm.
        c: labels, (b *s).
    <BLANKLINE>
    Raises:
        ValueError: where a is not finite.
    """
    examples = [match[0].strip() for match in _EXAMPLE.finditer(text)]
    body: list[str] = []
    found: dict[str, str] = {}
    errors: list[tuple[str, str]] = []
    for paragraph in re.split(r"\n\s*\n", _EXAMPLE.sub("", text)):
        if not paragraph.strip():
            continue
        if paragraph.startswith("    "):  # code
            body.append(paragraph.rstrip())
            continue
        line = " ".join(paragraph.split("\n")) if not _is_list(paragraph) else paragraph
        errors += [(name, told or "") for name, told in _RAISES.findall(line)]
        line = _RAISES.sub("", line).strip()
        before, rows = _parameters(line, names)
        found |= rows
        if before:
            body.append(before)
    for name in names:
        if name not in found and (told := words.get(name)):
            shape = re.search(rf"\b{re.escape(name)} (\((?:[a-z*]\w*,?\s?)+\))", text)
            found[name] = f"{told}, {shape[1]}." if shape else f"{told}."
    parts = body
    if found:
        rows = {name: found[name] for name in names if name in found}
        parts = [*parts, "\n".join([f"{title}:", *(f"    {n}: {_sentence(t)}" for n, t in rows.items())])]
    if errors:
        parts = [*parts, "\n".join(["Raises:", *(f"    {n}: {_sentence(t)}" for n, t in errors)])]
    parts += [f"```pycon\n{example}\n```" for example in examples]
    return "\n\n".join(parts)


def _is_list(paragraph: str) -> bool:
    return any(line.startswith(("- ", "|")) for line in paragraph.split("\n"))


def _sentence(told: str) -> str:
    told = told.strip().rstrip(";")
    return told if not told or told[-1] in ".:)" else f"{told}."


def _parameters(line: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What comes before the first `name: `, and what each name is."""
    choices = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    if not choices:
        return line, {}
    begins = re.compile(rf"(?:^|(?<=[.;] ))((?:{choices})(?:(?:, | and )(?:{choices}))*): ", re.MULTILINE)
    before, *parts = begins.split(line)
    rows: dict[str, str] = {}
    for group, told in zip(parts[::2], parts[1::2], strict=True):
        rows |= dict.fromkeys(re.split(", | and ", group), told)
    return before.strip(), rows


def undocumented(of: griffe.Function | griffe.Class) -> Iterator[str]:
    """Names of parameters without a description; "docstring" where there is none."""
    if of.docstring is None:
        yield "docstring"
        return
    sections = of.docstring.parse("google", warnings=False)
    kinds = {"parameters"} if of.is_function else {"parameters", "attributes"}
    told = {each.name for section in sections if section.kind.value in kinds for each in section.value}
    if of.is_function:
        wanted = [each.name for each in of.parameters if each.name not in {"self", "cls"}]
    else:
        wanted = [each.name for each in of.parameters if each.name != "self"]
    yield from (name for name in wanted if name not in told)
