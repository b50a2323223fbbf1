"""What is known about a term, from its class alone: for `rwloss maps` and the atlas."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from rwloss.errors import RWLossError
from rwloss.maps.generator import MapGenerator, parameters
from rwloss.maps.limits import UnknownType, limits, plain, sign
from rwloss.maps.loss_term import LossTerm


@dataclass(frozen=True)
class Parameter:
    """type: in words, with limits and choices. meaning: from the docstring, "" if it has none."""

    name: str
    type: str
    required: bool
    default: Any
    meaning: str


@dataclass(frozen=True)
class TermFacts:
    """None is unknown, "" not given.

    ingredient: of a dynamic term, what follows from the labels alone. inputs: beside the labels.
    form: "compact" or "dense". principle: where the stability principle holds, "always", "K = 2"
    or "never". pull_exponent: None too where nothing pulls. range: with default parameters, of a
    static map's values or of a dynamic term's loss; None in it is no limit.
    """

    name: str
    kind: Literal["static", "dynamic"]
    ingredient: str
    summary: str
    description: str
    inputs: tuple[str, ...]
    form: str | None
    principle: str | None
    pull_exponent: float | None
    range: tuple[float | None, float | None] | None
    unit: str
    signed: bool
    commutes_with: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    citation: str
    official_code: str
    used_by: tuple[str, ...]


def facts(generator: type[MapGenerator]) -> TermFacts:
    """What the class says of itself. Raises RWLossError where a parameter can't be checked.

    >>> from rwloss import maps
    >>> facts(maps.Rectified).range
    (-1.0, 1.0)
    """
    tags, dynamic = generator.tags, issubclass(generator, LossTerm)
    given = _parameters(generator)
    description, _ = split(inspect.getdoc(generator) or "", [each.name for each in given])
    uses = {
        "prediction": dynamic,
        "spacing": tags.uses_spacing,
        "image": tags.uses_image,
        "components": tags.uses_components,
    }
    compact = False if dynamic else tags.compact
    principle = {True: "K = 2", False: "never", None: None}[tags.stable_with_two]
    return TermFacts(
        name=generator.name,
        kind="dynamic" if dynamic else "static",
        ingredient=tags.ingredient,
        summary=(description or "(no description)").splitlines()[0],
        description=description,
        inputs=tuple(name for name, used in uses.items() if used),
        form={True: "compact", False: "dense", None: None}[compact],
        principle="always" if tags.stable else principle,
        pull_exponent=tags.pull_exponent if dynamic else 1.0,
        range=tags.limits,
        unit=tags.unit if any(each.required for each in given) else generator().unit,
        signed=tags.signed,
        commutes_with=tuple(sorted(tags.commutes_with)),
        parameters=given,
        citation=generator.citation,
        official_code=generator.official_code,
        used_by=generator.used_by,
    )


def _parameters(generator: type[MapGenerator]) -> tuple[Parameter, ...]:
    """Those of the class in order; parameters by keyword alone come last."""
    types = parameters(generator)
    meanings: dict[str, str] = {}
    for base in generator.__mro__:  # a parameter may be explained where it is inherited from
        meanings = split(inspect.cleandoc(vars(base).get("__doc__") or ""), types)[1] | meanings
    found = []
    for field in sorted(dataclasses.fields(generator), key=lambda field: bool(field.kw_only)):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING
        try:
            kind = in_words(types[field.name])
        except TypeError as error:
            raise RWLossError(f"{generator.name}: {UnknownType(field.name, error)}") from error
        value, meaning = None if required else default, meanings.get(field.name, "")
        found.append(Parameter(field.name, kind, required, value, meaning))
    return tuple(found)


def split(doc: str, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """A docstring without what it says of parameters, and that: "name: words", or "a, b: words".

    The words continue to the next name or to the end of the paragraph.

    >>> split("p to a power.\\n\\ngain: 2 is usual. power: above 0.", ["gain", "power"])
    ('p to a power.', {'gain': '2 is usual.', 'power': 'above 0.'})
    """
    one = "|".join(map(re.escape, names)) or r"(?!)"
    start = re.compile(rf"(?:^|(?<=[.;:)] ))((?:{one})(?:, (?:{one}))*): ")
    kept: list[str] = []
    meanings: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", doc):
        line = " ".join(paragraph.split())
        before, *pieces = start.split(line)
        if before:
            kept.append(before.strip() if pieces else paragraph)
        for said, words in zip(pieces[::2], pieces[1::2], strict=True):
            meanings |= dict.fromkeys(said.split(", "), words.strip().rstrip(";.") + ".")
    return "\n\n".join(kept), meanings


def in_words(annotation: Any) -> str:
    """An annotation: its choices, or its type with its limits, such as "float > 0".

    Raises TypeError for a limit that is unknown.
    """
    annotation = plain(annotation)
    if get_origin(annotation) is Annotated:
        signs = ", ".join(f"{sign(name)} {limit:.12g}" for name, limit in limits(annotation))
        return f"{in_words(get_args(annotation)[0])} {signs}".rstrip()
    if get_origin(annotation) is Literal:
        return " | ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"tuple[{', '.join(map(in_words, get_args(annotation)))}]"
    if annotation in {Ellipsis, type(None)}:
        return "..." if annotation is Ellipsis else "None"
    if isinstance(annotation, type):
        return annotation.__name__
    return " | ".join(in_words(choice) for choice in get_args(annotation)) or str(annotation)
