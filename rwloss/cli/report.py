"""`rwloss report`: the page of a study, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import printable
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from rwloss.study.results import Results


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY")],
    map_texts: Annotated[list[str] | None, typer.Option("--map", metavar="EXPR")] = None,
    out: Annotated[Path | None, opt.Out] = None,
    export: Annotated[Path | None, typer.Option("--export", metavar="DIR")] = None,
) -> None:
    """Write the report of a study from the runs it has so far.

    Trains nothing. The report is one HTML file that opens without a network. A few test cases are
    predicted for its pictures; if checkpoints or data are missing, the page says so.

    study: Folder of a study of `rwloss compare`.
    map_texts: Map of the study that a Python file defines, such as "my_map.py:MyMap". The report
    runs no file that is not named here, and leaves out the pictures and diagnostics that need it.
    out: Page to write; by default report.html in the folder of the study, where results.json and
    runs.csv are rewritten too.
    export: Folder for every chart as SVG and PDF, and every table as CSV and LaTeX; new, or with
    such files alone. The page is then written only if --out names it.
    """
    from rwloss import maps
    from rwloss.study import plan, results
    from rwloss.study import report as pages
    from rwloss.study.indicators import indicators_of

    pages.require_report()
    if out is not None:
        pages.check_page(out)
    if export is not None:
        pages.check_export(export)
    for text in map_texts or ():
        maps.parse(text)
    content = plan.Study.read(study / "study.toml")
    found, reason = indicators_of(content, study)
    if reason:
        typer.echo(f"without the diagnostics of the maps: {printable(reason)}", err=True)
    collected = results.collect(content, study, found)
    if export is not None:
        files = pages.export(collected, study, export)
        typer.echo(f"wrote {len(files)} files in {export}")
        if out is None:
            return
    if out is None:
        results.write(collected, study)
    typer.echo(f"wrote {pages.write(collected, study, out)}")


def write_if_possible(collected: Results, folder: Path) -> Path | None:
    """Write the report of a study; if that fails, print why."""
    from rwloss.study.report import write

    try:
        return write(collected, folder)
    except Exception as error:  # a study that took days is never lost to its page
        known = isinstance(error, RWLossError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
    typer.echo(f"no report: {printable(reason)}", err=True)
    return None
