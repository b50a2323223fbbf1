"""Options that several commands share: one spelling, one meaning, one help text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

OF_SETTINGS = "the field of this name in RunSettings or Study"
"""Marks a parameter whose option is made from the settings."""

NumClasses = Annotated[int | None, OF_SETTINGS]
Spacing = Annotated[tuple[float, ...] | None, OF_SETTINGS]
IgnoreLabel = Annotated[int | None, OF_SETTINGS]

Labels = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="nnU-Net raw folder, or folder or glob of label files (NIfTI, PNG, TIFF, NumPy; MHA "
        "and NRRD with SimpleITK).",
        show_default=False,
    ),
]
OutOption = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="OUT", help="The same as OUT.", show_default=False),
]
MapText = Annotated[
    str,
    typer.Option(
        "--map",
        metavar="EXPR",
        help="Map to make: a name such as rectified, or with parameters such as "
        "\"boundary(convention='valverde')\". `rwloss maps` lists the names.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        metavar="N",
        help="Worker processes; by default one per core, 0 for none: this process does the work.",
        show_default=False,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler whose workers do the work: tcp://HOST:PORT, or local to start one on "
        "this machine.",
        show_default=False,
    ),
]
MAX_VOXELS = 2**31
"""That of `rwloss.data.formats`, which would load NumPy for every --help."""

MaxVoxels = Annotated[
    int,
    typer.Option(
        "--max-voxels",
        min=1,
        metavar="N",
        help="Refuse label files with more voxels; 2^31 by default.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

SECTIONS = {
    "data": "Run",
    "batch_size": "Optimization",
    "preset": "Network and patches",
    "flip": "Augmentation",
    "test_part": "Split of the cases",
    "num_classes": "Data",
    "steps_per_epoch": "Steps between events",
    "accelerator": "Hardware",
}
"""Title of each section of a long help text, by the first setting in it."""

_METAVARS = {
    "map": "EXPR",
    "maps": "STORE",
    "out": "RUN",
    "group_pattern": "REGEX",
    "groups_table": "CSV",
    "spacing": "MM,MM[,MM]",
    "reference": "NAME",
}


def place_of(argument: str | None, option: str | None) -> str:
    """The place of the results, which is given as OUT or as --out. Raises RWLossError if not."""
    if argument is not None and option is not None:
        raise RWLossError(f"OUT and --out name two places, {argument!r} and {option!r}: give one")
    if (place := argument or option) is None:
        raise RWLossError("where to? Give OUT, the place of the results")
    return place


def without(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Leave these settings out of the options of a command with **settings."""

    def mark(command: Callable[..., None]) -> Callable[..., None]:
        command.left_out = frozenset(names)  # type: ignore[attr-defined]
        return command

    return mark


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each setting that it takes.

    Those are the parameters with OF_SETTINGS and, where it has **settings, all others of
    RunSettings; it receives the ones that the user gave. The rest is as the file of settings says,
    or the default. Imports the settings, so it is called for the command that runs.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    own = [
        each.replace(annotation=_option(each.name)) if _is_marked(each.annotation) else each
        for each in parameters
        if each.kind is not each.VAR_KEYWORD
    ]
    if not takes_all:
        command.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        return command
    left_out = getattr(command, "left_out", frozenset()) | {each.name for each in own}
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name)
        )
        for name in _titles()
        if name not in left_out
    ]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        for each in added:
            if options[each.name] is None:
                del options[each.name]
        command(**options)

    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return run


def option_name(setting: str) -> str:
    """The option of a setting.

    >>> option_name("group_pattern")
    '--group-pattern'
    """
    return f"--{setting.replace('_', '-')}"


def _is_marked(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and OF_SETTINGS in get_args(annotation)


@functools.cache
def _titles() -> dict[str, str]:
    """Each setting of a run with the title of its section, in the order of SECTIONS."""
    title, titles = "", {}
    for name in _fields():
        title = SECTIONS.get(name, title)
        titles[name] = title
    order = list(SECTIONS.values())
    return dict(sorted(titles.items(), key=lambda item: order.index(item[1])))


def _fields() -> dict[str, FieldInfo]:
    from rwloss.training.settings import RunSettings

    return RunSettings.model_fields


def _field(name: str) -> FieldInfo:
    if name in _fields():
        return _fields()[name]
    from rwloss.study.plan import Study

    return Study.model_fields[name]


def _option(name: str) -> Any:
    """The annotation from which typer makes the option of a setting."""
    field = _field(name)
    kind, choices, several = _kind(field.annotation)
    metavar = kind.__name__.upper() if several or not choices else "|".join(map(str, choices))
    if several:
        metavar = f"{metavar},{metavar},..."
    description = field.description or ""
    help_text = f"{description[:1].upper()}{description[1:]}."
    if not (field.is_required() or field.default is None or field.default is False):
        help_text += f"  [default: {field.default}]"

    def check(value: Any) -> Any:
        return None if value is None else _checked(field, kind, several, value)

    option = typer.Option(
        option_name(name),
        *(["-o"] if name == "out" else []),
        metavar=None if kind is bool else _METAVARS.get(name, metavar),
        help=help_text,
        show_default=False,
        callback=check,
        rich_help_panel=_titles().get(name),
    )
    return Annotated[str | None if several else kind | None, option]


def _checked(field: FieldInfo, kind: type, several: bool, value: Any) -> Any:
    """The value of an option as its setting; the error of a wrong one names the option."""
    from pydantic import TypeAdapter, ValidationError

    from rwloss.words import must

    if several:
        try:
            value = tuple(kind(part) for part in value.split(","))
        except ValueError as error:
            numbers = "whole numbers" if kind is int else "numbers"
            raise typer.BadParameter(
                f"expected {numbers} separated by commas, got {value!r}"
            ) from error
    try:
        wanted: Any = Annotated[field.annotation, field]
        return TypeAdapter(wanted).validate_python(value)
    except ValidationError as error:
        raise typer.BadParameter(must(error)) from error


def _kind(annotation: Any) -> tuple[type, tuple[Any, ...], bool]:
    """The type of a setting's values, their choices if they are few, and whether it takes several.

    >>> _kind(tuple[Literal[0, 1, 2], ...] | None), _kind(float)
    ((<class 'int'>, (0, 1, 2), True), (<class 'float'>, (), False))
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return type(arguments[0]), arguments, False
    if origin is tuple:
        return (*_kind(arguments[0])[:2], True)
    if origin in {Annotated, Union, UnionType}:
        return _kind(next(each for each in arguments if each is not NoneType))
    return annotation, (), False
