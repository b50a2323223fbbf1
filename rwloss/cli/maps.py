"""`rwloss maps`: list the installed maps."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, get_args, get_origin

import typer


def maps(name: Annotated[str | None, typer.Argument(metavar="NAME")] = None) -> None:
    """List the maps, or show the parameters of one.

    name: Map to show with its parameters, tags and source: a name, or path/to/file.py:Name.
    """
    if name is None:
        _list()
    else:
        _show_one(name)


def _list() -> None:
    """One line per map. Plug-ins are not imported: only what the user names is."""
    from rwloss.maps import names, origin
    from rwloss.maps.registry import is_built_in, summary

    width = max(map(len, names()))
    for known in names():
        text = summary(known) if is_built_in(known) else f"plug-in: {origin(known)}"
        typer.echo(f"{known:<{width}}  {text}")


def _show_one(name: str) -> None:
    from rwloss.maps import LossTerm, load, origin, parameters

    generator = load(name)
    typer.echo(f"{generator.name}\n\n{_dedented(generator)}\n\nParameters:")
    kinds = parameters(generator)
    for field in sorted(dataclasses.fields(generator), key=lambda field: bool(field.kw_only)):
        typer.echo(f"  {field.name}: {_kind(kinds[field.name])}{_default(field)}")
    if not kinds:
        typer.echo("  none")
    if issubclass(generator, LossTerm):
        typer.echo(
            "\ninclude_background=False leaves class 0 out of this term: its mean is over the "
            "K - 1 others."
        )
    tags = generator.tags
    commutes = ", ".join(sorted(tags.commutes_with)) or "nothing"
    typer.echo(
        f"\nTags: {'stable' if tags.stable else 'not always stable'}, "
        f"{'signed' if tags.signed else 'never below 0'}, commutes with: {commutes}"
    )
    typer.echo(f"\nSource: {generator.citation or 'not given'}")
    typer.echo(f"From: {origin(name)}")


def _dedented(generator: type[Any]) -> str:
    import inspect

    return inspect.getdoc(generator) or "(no description)"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ", required"


def _kind(annotation: Any) -> str:
    """An annotation in words: its choices, or its type with its limits, such as "float > 0"."""
    if get_origin(annotation) is Annotated:
        kind, *notes = get_args(annotation)
        # pydantic's Field(...) holds its limits in a list.
        limits = [limit for note in notes for limit in getattr(note, "metadata", [note])]
        return " ".join([_kind(kind), ", ".join(map(_limit, limits))])
    if get_origin(annotation) is Literal:
        return " | ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"tuple[{', '.join(map(_kind, get_args(annotation)))}]"
    if annotation in {Ellipsis, type(None)}:
        return "..." if annotation is Ellipsis else "None"
    if isinstance(annotation, type):
        return annotation.__name__
    return " | ".join(_kind(choice) for choice in get_args(annotation)) or str(annotation)


def _limit(limit: Any) -> str:
    """A limit of pydantic or annotated-types in words."""
    for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
        if hasattr(limit, name):
            return f"{sign} {getattr(limit, name):g}"
    return str(limit)
