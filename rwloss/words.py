"""Wording of names, numbers and lists in messages, tables and pictures."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo


def nearest(name: str, known: Iterable[str]) -> str:
    """A question to put behind an error: the known names that look like this one, or nothing.

    >>> nearest("rectifed", ["rectified", "boundary"])
    ": did you mean 'rectified'?"
    """
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f": did you mean {' or '.join(map(repr, close))}?" if close else ""


def count_of(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count_of(1, "map"), count_of(2000, "map"), count_of(3, "class")
    ('1 map', '2,000 maps', '3 classes')
    """
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def listed(items: Sequence[str]) -> str:
    """Items in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def some(names: Sequence[str]) -> str:
    """The first few names.

    >>> some(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def few(items: Sequence[str], most: int = 3) -> str:
    """The first items in a sentence, with how many more there are.

    >>> few(["a", "b", "c"]), few(["a", "b", "c", "d", "e"])
    ('a, b and c', 'a, b, c and 2 more')
    """
    return listed([*items[:most], *[f"{len(items) - most} more"] * (len(items) > most)])


def percent(fraction: float) -> str:
    """A fraction in percent; a nonzero fraction is never shown as 0, nor one below 1 as 100.

    >>> [percent(value) for value in (0, 0.2249, 0.999999, 1e-6, 1)]
    ['0 %', '22.5 %', '>99.9 %', '<0.1 %', '100 %']
    """
    if 0 < fraction < 0.0005:
        return "<0.1 %"
    if 0.9995 <= fraction < 1:
        return ">99.9 %"
    return f"{100 * fraction:.1f} %" if 0 < fraction < 1 else f"{100 * fraction:.0f} %"


def length_unit(known: Iterable[bool]) -> str:
    """The unit of distances, by whether the spacing of each image is known.

    >>> length_unit([True, True]), length_unit([False]), length_unit([True, False])
    ('mm', 'voxels', 'mm or voxels')
    """
    units = {"mm" if each else "voxels" for each in known}
    return " or ".join(sorted(units)) or "voxels"


def class_names(num_classes: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """A name for each class: the given one, else its number. No two classes have the same name.

    >>> class_names(3, ["background", "vessel"]), class_names(3, ["background", "class 2"])
    (('background', 'vessel', 'class 2'), ('background', 'class 2', 'class 2 (2)'))
    """
    names: list[str] = []
    for k in range(num_classes):
        name = given[k] if k < len(given) else f"class {k}"
        while name in names:  # scores and figures are kept by name
            name += f" ({k})"
        names.append(name)
    return tuple(names)


def settings_error(
    where: str, error: ValidationError, fields: Mapping[str, FieldInfo] | None = None
) -> str:
    """The first error of pydantic, in a sentence that names the setting.

    where: the file or option. fields: of the model: they suggest a name for an unknown one, and
    describe a missing one.
    """
    problem, fields = error.errors()[0], fields or {}
    name = ".".join(map(str, problem["loc"])) or "settings"
    match problem["type"]:
        case "extra_forbidden":
            return f"{where}: there is no setting {name!r}{nearest(name, fields)}"
        case "missing":
            description = fields[name].description if name in fields else None
            return f"{where}: {name} is missing{f' ({description})' if description else ''}"
        case "value_error" if not problem["loc"]:  # of the settings as a whole
            return f"{where}: {problem['ctx']['error']}"
    return f"{where}: {name} {must(error)}"


def must(error: ValidationError) -> str:
    """The requirement that the first invalid value violates.

    >>> from pydantic import TypeAdapter, ValidationError, PositiveInt
    >>> try:
    ...     TypeAdapter(PositiveInt).validate_python(0)
    ... except ValidationError as error:
    ...     print(must(error))
    must be greater than 0, got 0
    """
    problem = error.errors()[0]
    if problem["type"] == "missing":  # its input is all that there is
        return "is missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    message = problem["msg"].replace("Input should", "must", 1)
    return f"{message}, got {repr(problem['input'])[:80]}"
