"""`rwloss maps`: list the installed maps."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli import options as opt

if TYPE_CHECKING:
    from rwloss.maps.facts import Parameter, TermFacts


def maps(
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """List the maps, or show the parameters of one.

    name: Map to show with its parameters, properties and source: a name, or path/to/file.py:Name.
    """
    if as_json:
        fields = [_fields(name)] if name else list(_fields_of_all())
        typer.echo(json.dumps(fields[0] if name else fields, indent=1, ensure_ascii=False))
    elif name is None:
        _list()
    else:
        _show_one(name)


def _list() -> None:
    """One line per map. Plug-ins are not imported: only what the user names is."""
    from rwloss.maps import names, origin
    from rwloss.maps.registry import built_in_kind, summary

    width = max(map(len, names()))
    for known in names():
        kind = built_in_kind(known)
        text = f"{kind:<7}  {summary(known)}" if kind else f"plug-in: {origin(known)}"
        typer.echo(f"{known:<{width}}  {text}")


def _fields_of_all() -> list[dict[str, Any]]:
    """Every built-in, and of each plug-in its name and origin: it is not imported."""
    from rwloss.maps import names, origin
    from rwloss.maps.registry import built_in_kind

    return [
        _fields(known)
        if built_in_kind(known)
        else {"name": known, "kind": None, "citation": "", "origin": origin(known)}
        for known in names()
    ]


def _fields(name: str) -> dict[str, Any]:
    from rwloss.maps import load, origin
    from rwloss.maps.facts import facts

    return dataclasses.asdict(facts(load(name))) | {"origin": origin(name)}


def _show_one(name: str) -> None:
    from rwloss.maps import load, origin
    from rwloss.maps.facts import facts

    term = facts(load(name))
    typer.echo(f"{term.name}\n\n{term.description or '(no description)'}\n\nParameters:")
    for parameter in term.parameters:
        typer.echo(_parameter(parameter))
    if not term.parameters:
        typer.echo("  none")
    typer.echo("")
    for title, text in _properties(term):
        typer.echo(f"{title}: {text}")
    typer.echo(f"From: {origin(name)}")


def _parameter(parameter: Parameter) -> str:
    default = ", required" if parameter.required else f" = {parameter.default!r}"
    line = f"  {parameter.name}: {parameter.type}{default}"
    margin = " " * 6
    meaning = textwrap.fill(parameter.meaning, 100, initial_indent=margin, subsequent_indent=margin)
    return f"{line}\n{meaning}" if meaning else line


def _properties(term: TermFacts) -> list[tuple[str, str]]:
    """Titles and texts; unknown properties are named as unknown."""
    kind = ", ".join(filter(None, [term.kind, term.form]))
    from_labels = f"; from the labels alone: {term.ingredient}" if term.ingredient else ""
    principle = {
        "always": "holds always",
        "K = 2": "holds with two classes, not with more",
        "never": "does not hold, with two classes either",
        None: "not known to hold",
    }[term.principle]
    exponent = "none, or not known" if term.pull_exponent is None else f"{term.pull_exponent:g}"
    values = "Values of the loss" if term.kind == "dynamic" else "Values"
    return [
        ("Kind", kind + from_labels),
        ("Inputs", ", ".join(["labels", *term.inputs])),
        ("Stability principle", principle),
        ("Pull exponent", exponent),
        (values, f"{_range(term)}, {term.unit or 'unit not known'}"),
        ("Commutes with", ", ".join(term.commutes_with) or "nothing"),
        ("Source", term.citation or "not given"),
        *([("Official code", term.official_code)] if term.official_code else []),
        *([("Also in", ", ".join(term.used_by))] if term.used_by else []),
    ]


def _range(term: TermFacts) -> str:
    if term.range is None:
        return "0 or more" if term.kind == "static" and not term.signed else "range not known"
    low, high = term.range
    if low is None:
        return "any" if high is None else f"{high:g} or less"
    return f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
