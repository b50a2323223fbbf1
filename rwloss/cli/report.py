"""`rwloss report`: write the report of a study, or of scores from other tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import printable
from rwloss.errors import RWLossError
from rwloss.words import some

if TYPE_CHECKING:
    from rwloss.study.results import Results
    from rwloss.study.score_tables.options import TableOptions

OF_TABLES: dict[str, Any] = {"rich_help_panel": "Tables of scores"}


def report(
    source: Annotated[Path, typer.Argument(metavar="STUDY|TABLE|DIR")],
    map_texts: Annotated[list[str] | None, typer.Option("--map", metavar="EXPR")] = None,
    out: Annotated[Path | None, opt.Out] = None,
    export: Annotated[Path | None, typer.Option("--export", metavar="DIR")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME:higher|lower", **OF_TABLES)
    ] = None,
    reference: Annotated[str | None, typer.Option(metavar="NAME", **OF_TABLES)] = None,
    method: Annotated[str | None, typer.Option(metavar="COLUMN", **OF_TABLES)] = None,
    seed: Annotated[str | None, typer.Option(metavar="COLUMN", **OF_TABLES)] = None,
    case: Annotated[str | None, typer.Option(metavar="COLUMN", **OF_TABLES)] = None,
    class_: Annotated[str | None, typer.Option("--class", metavar="COLUMN", **OF_TABLES)] = None,
    group: Annotated[list[str] | None, typer.Option(metavar="COLUMN", **OF_TABLES)] = None,
    pattern: Annotated[str | None, typer.Option(metavar="PATTERN", **OF_TABLES)] = None,
    wide: Annotated[str | None, typer.Option(metavar="PATTERN", **OF_TABLES)] = None,
    long: Annotated[str | None, typer.Option(metavar="NAME,VALUE", **OF_TABLES)] = None,
    case_table: Annotated[Path | None, typer.Option(metavar="FILE", **OF_TABLES)] = None,
    missing: Annotated[list[str] | None, typer.Option(metavar="[METRIC=]RULE", **OF_TABLES)] = None,
    absent: Annotated[list[str] | None, typer.Option(metavar="TEXT", **OF_TABLES)] = None,
    shared: Annotated[bool, typer.Option("--shared", **OF_TABLES)] = False,
    unpaired: Annotated[bool, typer.Option("--unpaired", **OF_TABLES)] = False,
    correct: Annotated[Literal["setting", "all"], typer.Option(**OF_TABLES)] = "setting",
) -> None:
    """Write the report of a study, or of tables of scores.

    Trains nothing. For a study, the report shows its runs so far, and predicts a few test cases for
    the pictures; if checkpoints or data are missing, the page says so. The report is one HTML file
    that opens offline. With --metric, the scores are read from a table, or from the files of a
    folder: CSV, nnU-Net's summary.json, MONAI's metrics.csv. docs/results-of-others.md explains it.

    source: Folder of a study of `rwloss compare`; or a table of scores, or a folder of tables.
    map_texts: Map of the study that a Python file defines, such as "my_map.py:MyMap". The report
    runs only files that are named here, and omits pictures and diagnostics that need others.
    out: Page to write; by default report.html in the folder of the study, where results.json and
    runs.csv are rewritten too.
    export: Folder for every chart as SVG and PDF, and every table as CSV and LaTeX; new, or with
    only such files. The page is then written only if you give --out.
    metric: Score to compare, and whether higher or lower is better, such as Dice:higher; if its
    column has another name, such as Dice=dice_mean:higher. Repeat it for more scores; the first is
    the main one.
    reference: Method that all others are compared with.
    method: Column of the method; by default "method".
    seed: Column of the seed or fold of a run; by default "seed". Without one, there is one run per
    method.
    case: Column of the case; by default "case". Without one, each row is the mean of a run.
    class_: Column of the class. A case's score is the mean over its classes.
    group: Column of a setting. Methods are compared within each combination of settings.
    pattern: Paths of the tables in the folder, with fields in braces, such as
    "{labels}/{method}/{seed}.csv". Fields other than method, seed, case, class and metric are
    settings. By default the paths of nnU-Net's summary.json.
    wide: Names of the score columns, with fields in braces, such as "{method}" or
    "{method}_{metric}".
    long: Columns of a metric's name and value, if each row holds one score.
    case_table: Table with one row per case, whose columns --group can use.
    missing: Value of a missing score: worst or best (of the table), a number, or drop to leave the
    case out for every method. By default missing scores are refused.
    absent: Text that means a missing score, such as 9999999.
    shared: Compare only the cases and seeds that all methods have. By default tables that differ in
    them are refused.
    unpaired: Do not pair runs by seed: the same seed means different things for different methods.
    correct: Comparisons that p is corrected for: of each setting separately, or of all together.
    """
    from rwloss.study import report as pages

    pages.require_report()
    if out is not None:
        pages.check_page(out)
    if export is not None:
        pages.check_export(export)
    texts = {"method": method, "seed": seed, "case": case, "class": class_}
    columns = {key: name for key, name in texts.items() if name is not None}
    if not metric and not (source / "study.toml").exists():
        raise RWLossError(
            f"{str(source)!r} is not the folder of a study: it has no study.toml. To compare "
            "scores of tables, name them with --metric, such as --metric Dice:higher"
        )
    of_tables: dict[str, Any] = {
        **texts,
        "reference": reference, "group": group, "pattern": pattern, "wide": wide, "long": long,
        "case-table": case_table, "missing": missing, "absent": absent, "shared": shared,
        "unpaired": unpaired, "correct": correct != "setting",
    }  # fmt: skip
    if not metric and (given := [name for name, value in of_tables.items() if value]):
        raise RWLossError(f"--{given[0]} is for tables of scores, which need --metric too")
    if metric and map_texts:
        raise RWLossError("--map is for a study, and --metric for tables of scores: give one")
    if metric and wide is not None and long is not None:
        raise RWLossError("--wide and --long are for different kinds of tables: give one")
    if not metric:
        _of_study(source, map_texts or [], out, export)
        return
    from rwloss.study.score_tables.options import (
        TableOptions,
        read_long,
        read_metrics,
        read_missing,
    )

    metrics, metric_columns = read_metrics(metric)
    if reference is None:
        raise RWLossError("no reference: name one of the methods with --reference")
    if out is None and export is None:
        raise RWLossError("no path for the report: give --out FILE.html, or --export DIR")
    options = TableOptions(
        source=source,
        metrics=metrics,
        reference=reference,
        columns_of=columns,
        groups=tuple(group or ()),
        pattern=pattern,
        wide=wide,
        long=None if long is None else read_long(long),
        case_table=case_table,
        missing=read_missing(missing or [], metrics),
        absent=tuple(absent or ()),
        shared=shared,
        unpaired=unpaired,
        correct=correct,
        metric_columns=metric_columns,
    )
    _of_table(options, out, export)


def _of_table(options: TableOptions, out: Path | None, export: Path | None) -> None:
    from rwloss.study import report as pages
    from rwloss.study.score_tables.results import collect_table

    results = collect_table(options)
    for note in results.table.notes:
        typer.echo(f"{printable(note)}", err=True)
    if results.found.unread:
        typer.echo(f"not read: {printable(some(results.found.unread))}", err=True)
    if export is not None:
        files = pages.export(results, options.source, export)
        typer.echo(f"wrote {len(files)} files in {export}")
    if out is not None:
        typer.echo(f"wrote {pages.write_table_page(results, out)}")


def _of_study(study: Path, map_texts: list[str], out: Path | None, export: Path | None) -> None:
    from rwloss import maps
    from rwloss.study import plan, results
    from rwloss.study import report as pages
    from rwloss.study.indicators import indicators_of

    for text in map_texts:
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
