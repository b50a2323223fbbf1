"""Pages of the reference: which package has one, its public names, and the commands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Page(NamedTuple):
    """A page: the package or part of one that it shows, and what that is for."""

    title: str
    package: str
    about: str
    part: str = ""  # of rwloss.maps: the folder that the names come from


PAGES = (
    Page("rwloss", "rwloss", "The names at the top: the loss, regions and maps."),
    Page("rwloss.maps", "rwloss.maps", "Expressions, and the base classes of your own terms.", "."),
    Page("Limits", "rwloss.maps.limits", "Types of parameters, with the values that they allow."),
    Page("Static terms", "rwloss.maps", "Maps that follow from the labels alone.", "static"),
    Page("Dynamic terms", "rwloss.maps", "Losses of probabilities, as maps.", "dynamic"),
    Page("rwloss.losses", "rwloss.losses", "The loss, and targets as labels."),
    Page("rwloss.distance", "rwloss.distance", "Exact Euclidean distances in mm."),
    Page("rwloss.moves", "rwloss.moves", "Flips, turns and crops of maps."),
    Page("rwloss.store", "rwloss.store", "Precomputed maps on disk."),
    Page("rwloss.precompute", "rwloss.precompute", "Maps for a whole dataset."),
    Page("rwloss.stability", "rwloss.stability", "What a map will do in training."),
    Page("rwloss.metrics", "rwloss.metrics", "Scores of one mask against another."),
    Page("rwloss.testing", "rwloss.testing", "The conformance kit for maps of your own."),
    Page("rwloss.data", "rwloss.data", "Cases, labels and images of a dataset."),
    Page("rwloss.training", "rwloss.training", "Training runs, prediction and evaluation."),
    Page("MONAI", "rwloss.integrations.monai", "A loss and transforms for MONAI."),
    Page("nnU-Net", "rwloss.integrations.nnunet", "Trainers for nnU-Net v2."),
    Page("Alarms", "rwloss.integrations.alarms", "Alarms in Lightning, ignite and nnU-Net."),
)


def address(page: Page) -> str:
    """Where a page is in the site: reference/static-terms.md."""
    return f"reference/{page.title.lower().replace(' ', '-')}.md"


ELSEWHERE = {"rwloss.losses": {"RegionWiseLoss"}, "rwloss.integrations.alarms": {"NnunetAlarm"}}
"""Names that another page shows already."""


def public_names(page: Page) -> list[str]:
    """The public names of a page, in order. Packages within packages have pages of their own.

    Those of `__all__`, else what a package re-exports or a module defines. A stub knows the same.
    """
    folder = ROOT / Path(*page.package.split("."))
    files = [folder / "__init__.pyi", folder / "__init__.py", folder.with_suffix(".py")]
    tree = ast.parse(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
    origins = dict(_names(tree))
    names = _all(tree) or list(origins)
    names = [
        name
        for name in names
        if name not in ELSEWHERE.get(page.package, ())
        if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file()
        if not page.part or origins[name] == page.part
    ]
    return sorted(names, key=lambda name: (name[0].islower(), name.casefold()))


def _all(tree: ast.Module) -> list[str]:
    for each in tree.body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__":
            return list(ast.literal_eval(each.value))
    return []


def _names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of a module, with the folder that each comes from, "." for most."""
    before: ast.stmt | None = None
    for each in tree.body:
        if isinstance(each, ast.ImportFrom) and each.module:
            folder = (
                each.module.split(".")[0] if each.module.count(".") == 1 and each.level else "."
            )
            yield from ((to.name, folder) for to in each.names if to.asname == to.name)
        elif isinstance(each, ast.ClassDef | ast.FunctionDef) and not each.name.startswith("_"):
            yield each.name, "."
        elif isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(each, ast.Expr):
            target = before.target if isinstance(before, ast.AnnAssign) else before.targets[0]
            yield ast.unparse(target), "."  # a constant with its docstring
        before = each


def pages() -> Iterator[tuple[str, str]]:
    """Address and content of every page of the reference."""
    rows = [f"| [{page.title}]({Path(address(page)).name}) | {page.about} |" for page in PAGES]
    yield (
        "reference/index.md",
        "# API reference\n\nEvery public name, from its docstring. Shapes are written as in "
        "einops: `b` images, `k` classes, `c` channels, `*s` the axes of space. Lengths are in mm. "
        "Wrong input raises `rwloss.RWLossError`, with the fix in its message.\n\n"
        "| page | what it holds |\n|---|---|\n"
        + "\n".join([*rows, "| [Commands](commands.md) | Every command and option. |\n"]),
    )
    yield "reference/commands.md", _commands()
    for page in PAGES:
        names = "".join(f"\n        - {name}" for name in public_names(page))
        yield (
            address(page),
            f"# {page.title}\n\n{page.about}\n\n::: {page.package}\n    options:\n"
            f"      show_root_heading: false\n      show_root_toc_entry: false\n"
            f"      members:{names}\n",
        )


def _commands() -> str:
    """Arguments and options of every command, as tables."""
    from rwloss.cli.app import COMMANDS, _command

    parts = ["# Commands\n"]
    for name in COMMANDS:
        command = _command(name)
        parts.append(f"## rwloss {name}\n\n{command.help}\n")
        context = command.make_context(name, [], resilient_parsing=True)
        for title, is_argument in (("argument", True), ("option", False)):
            records = [
                record
                for parameter in command.get_params(context)
                if (parameter.param_type_name == "argument") == is_argument
                if (record := parameter.get_help_record(context))
            ]
            if records:
                parts.append(f"| {title} | what it is |\n|---|---|")
                parts += [f"| `{_cell(shown)}` | {_cell(told)} |" for shown, told in records]
                parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
