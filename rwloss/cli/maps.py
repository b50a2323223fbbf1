"""`rwloss maps`: the generators that are installed."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, get_args, get_origin

import typer


def maps(
    name: Annotated[
        str | None, typer.Argument(help="One generator, with its parameters, tags and source.")
    ] = None,
) -> None:
    """List the map generators, or show one with its parameters, tags and source."""
    from rwloss.maps import load, names

    if name is None:
        width = max(map(len, names()))
        for known in names():
            typer.echo(f"{known:<{width}}  {_first_line(load(known))}")
        return
    _show_one(name)


def _show_one(name: str) -> None:
    from rwloss.maps import load, parameters

    generator = load(name)
    defaults = {field.name: field.default for field in dataclasses.fields(generator)}  # type: ignore[arg-type]
    typer.echo(f"{generator.name}\n\n{_dedented(generator)}\n\nParameters:")
    for parameter, kind in parameters(generator).items():
        typer.echo(f"  {parameter}: {_kind(kind)} = {defaults[parameter]!r}")
    if not defaults:
        typer.echo("  none")
    tags = generator.tags
    commutes = ", ".join(sorted(tags.commutes_with)) or "nothing"
    typer.echo(
        f"\nTags: {'stable' if tags.stable else 'not always stable'}, "
        f"{'signed' if tags.signed else 'never below 0'}, commutes with: {commutes}"
    )
    typer.echo(f"\nSource: {generator.citation or 'not given'}")


def _dedented(generator: type[Any]) -> str:
    import inspect

    return inspect.getdoc(generator) or "(no description)"


def _first_line(generator: type[Any]) -> str:
    return _dedented(generator).splitlines()[0]


def _kind(annotation: Any) -> str:
    """An annotation in words: its choices, or its type.

    >>> _kind(Literal["image", "component"] | float)
    "'image' | 'component' | float"
    """
    if get_origin(annotation) is Literal:
        return " | ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return str(annotation)
    if isinstance(annotation, type):
        return annotation.__name__
    return " | ".join(_kind(choice) for choice in get_args(annotation)) or str(annotation)
