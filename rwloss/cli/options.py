"""Options that several commands share: one spelling, one meaning, one help text."""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

OF_SETTINGS = "the field of this name in RunSettings or Study"
"""Marks a parameter whose option is generated from the settings."""

NumClasses = Annotated[int | None, OF_SETTINGS]
Spacing = Annotated[tuple[float, ...] | None, OF_SETTINGS]
IgnoreLabel = Annotated[int | None, OF_SETTINGS]
LabelSets = Annotated[dict[str, tuple[int, ...]] | None, OF_SETTINGS]
Metrics = Annotated[tuple[str, ...] | None, OF_SETTINGS]

Labels = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="nnU-Net raw folder, or folder or glob of label files (NIfTI, PNG, TIFF, NumPy; MHA "
        "and NRRD).",
    ),
]
Out = typer.Option("--out", "-o", metavar="FILE")
OutOption = Annotated[
    str | None, typer.Option("--out", "-o", metavar="OUT", help="The same as OUT.")
]
MapText = typer.Option("--map", metavar="EXPR")
Part = Annotated[Literal["train", "test"] | None, typer.Option()]
SplitPart = Annotated[Literal["train", "validation", "test"] | None, typer.Option("--split")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        metavar="N",
        help="Number of worker processes; by default one per core; 0 uses only this process.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Dask scheduler whose workers do the work: tcp://HOST:PORT, or local to start one on "
        "this machine.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="How long to wait for the first worker of --scheduler, by default without end; and "
        "for its answer, at most 30.",
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
"""Title of each section of a long help text, by its first setting."""

_METAVARS = {
    "map": "EXPR",
    "metrics": "NAME,...",
    "maps": "STORE",
    "out": "RUN",
    "group_pattern": "REGEX",
    "groups_table": "CSV",
    "splits_file": "JSON",
    "spacing": "MM,MM[,MM]",
    "network": "NAME",
    "network_options": "NAME=VALUE,...",
    "label_sets": "LABEL=[CLASS,...],...",
    "reference": "NAME",
}


def place_of(argument: str | None, option: str | None) -> str:
    """The path of the results, given as OUT or as --out. Raises RWLossError if it is missing."""
    if argument is not None and option is not None:
        raise RWLossError(f"OUT and --out name two paths, {argument!r} and {option!r}: give one")
    if (place := argument or option) is None:
        raise RWLossError("no path for the results: give OUT")
    return place


def summary_of(command: Callable[..., None]) -> str:
    """The first line of a command's docstring."""
    return (inspect.getdoc(command) or "").split("\n")[0].rstrip(".")


def with_options(command: Callable[..., None]) -> tuple[Callable[..., None], str]:
    """The command in typer's form, and its help text without that of its options.

    The docstring holds the help of each parameter, after its name and a colon. A parameter marked
    with OF_SETTINGS becomes the option of the setting with its name. A command with **settings gets
    an option for every other field of RunSettings, except those that its Annotated lists; it
    receives only what the user gave. Imports the settings only for commands that need them.
    """
    docstring = f"{inspect.getdoc(command) or ''}\n"
    signature = inspect.signature(command, eval_str=True).parameters
    names = "|".join(signature)
    text, *described = re.split(rf"^({names}): ", docstring, flags=re.M)
    helps = {
        name: " ".join(words.split())
        for name, words in zip(described[::2], described[1::2], strict=True)
    }
    own = [
        each.replace(annotation=_annotation(each.name, each.annotation, helps.get(each.name)))
        for each in signature.values()
        if each.kind is not each.VAR_KEYWORD
    ]
    added = []
    if len(own) < len(signature):
        *_, others = signature.values()
        left_out = {*get_args(others.annotation), *signature}
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_of_setting(name)
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
    return run, text


def _annotation(name: str, annotation: Any, help_text: str | None) -> Any:
    """The annotation of a parameter in typer's form."""
    kind, info = get_args(annotation)
    if info is OF_SETTINGS:
        return _of_setting(name)
    if help_text is None:
        return annotation
    info = copy.copy(info)
    info.help = help_text
    return Annotated[kind, info]


@functools.cache
def _titles() -> dict[str, str]:
    """Each setting of a run with the title of its section, in the order of SECTIONS."""
    from rwloss.training.settings import RunSettings

    title, titles = "", {}
    for name in RunSettings.model_fields:
        title = SECTIONS.get(name, title)
        titles[name] = title
    order = list(SECTIONS.values())
    return dict(sorted(titles.items(), key=lambda item: order.index(item[1])))


def _field(name: str) -> FieldInfo:
    from rwloss.training.settings import RunSettings

    if name in RunSettings.model_fields:
        return RunSettings.model_fields[name]
    from rwloss.study.plan import Study

    return Study.model_fields[name]


def _of_setting(name: str) -> Any:
    """The annotation from which typer makes the option of a setting."""
    field = _field(name)
    kind, choices, several = _kind(field.annotation)
    metavar = kind.__name__.upper() if several or not choices else "|".join(map(str, choices))
    if several:
        metavar = f"{metavar},{metavar},..."
    description = field.description or ""
    help_text = f"{description[:1].upper()}{description[1:]}."
    if field.default_factory is None and not (
        field.is_required() or field.default is None or field.default is False
    ):
        default = ",".join(map(str, field.default)) if several else field.default
        help_text += f"  [default: {default}]"
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        *(["-o"] if name == "out" else []),
        metavar=None if kind is bool else _METAVARS.get(name, metavar),
        help=help_text,
        callback=lambda value: None if value is None else _checked(field, kind, several, value),
        rich_help_panel=_titles().get(name),
    )
    return Annotated[str | None if several or kind is dict else kind | None, option]


def _checked(field: FieldInfo, kind: type, several: bool, value: Any) -> Any:
    """The value of an option, converted to that of its setting; an error names the option."""
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
    if origin is dict:
        return dict, (), False
    if origin is Literal:
        return type(arguments[0]), arguments, False
    if origin is tuple:
        return (*_kind(arguments[0])[:2], True)
    if origin in {Annotated, Union, UnionType}:
        return _kind(next(each for each in arguments if each is not NoneType))
    return annotation, (), False
