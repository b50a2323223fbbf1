"""Export the charts of a report as SVG and PDF, and its tables as CSV and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors, whole_file, write_text
from rwloss.files.csv_text import csv_text
from rwloss.study.figures import MINUS, NOTHING
from rwloss.study.report.charts import looks
from rwloss.study.report.contents import all_charts, all_tables, told
from rwloss.study.report.drawing import draw
from rwloss.study.report.tables import Cell, Table
from rwloss.study.results import Results

SUFFIXES = (".svg", ".pdf", ".csv", ".tex")
"""Of the files that an export writes."""

_FIX = "name another folder with --export"
_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", MINUS: "$-$", NOTHING: "--",
}  # fmt: skip


def check_export(folder: Path) -> None:
    """Raise RWLossError unless a folder is new, or holds only exported files."""
    if folder.exists() and not folder.is_dir():
        raise RWLossError(f"{str(folder)!r} is not a folder: {_FIX}")
    others = [each for each in folder.glob("*") if each.suffix not in SUFFIXES or each.is_dir()]
    if others:
        raise RWLossError(
            f"{str(folder)!r} holds other files than charts and tables, such as "
            f"{min(others).name!r}: {_FIX}"
        )


def export(results: Results, study: Path, folder: Path) -> list[Path]:
    """Write every chart and table of a study's report, each file atomically.

    folder: created if it does not exist. Returns the files. Raises RWLossError for a folder that
    holds other files, and if a file cannot be written.
    """
    check_export(folder)
    results = told(results, study)
    with naming_write_errors(folder, _FIX):
        folder.mkdir(parents=True, exist_ok=True)
    return [*_charts(results, folder), *_tables(results, folder)]


def _charts(results: Results, folder: Path) -> Iterator[Path]:
    drawn = looks(results.study.maps, results.reference)
    for group in all_charts(results).values():
        for chart in group:
            name = _safe(f"{chart.id} {chart.heading}")
            svg, pdf = folder / f"{name}.svg", folder / f"{name}.pdf"
            with naming_write_errors(svg, _FIX), whole_file(svg) as one, whole_file(pdf) as other:
                draw(chart, drawn, one, other)
            yield from (svg, pdf)


def _tables(results: Results, folder: Path) -> Iterator[Path]:
    for table in all_tables(results):
        for suffix, text in ((".csv", as_csv(table)), (".tex", as_latex(table))):
            path = folder / f"{_safe(table.id)}{suffix}"
            write_text(path, text, _FIX)
            yield path


def _safe(name: str) -> str:
    """A name that any file system accepts.

    >>> _safe("learning-0 <b>/../x, 0.01")
    'learning-0_b_x_0.01'
    """
    return re.sub(r"([^A-Za-z0-9.-]|\.(?![0-9]))+", "_", name)[:80].strip("_.")


def as_csv(table: Table) -> str:
    """A table as CSV, with a separate column for the small text below a number."""
    titles = [title or "map" for title in table.columns]
    detailed = [any(row.cells[n].detail for row in table.rows) for n in range(len(titles))]
    columns, rows = [], []
    for title, has_detail in zip(titles, detailed, strict=True):
        columns += [title, f"{title}, more"] if has_detail else [title]
    for row in table.rows:
        found: dict[str, Any] = {}
        for title, cell in zip(titles, row.cells, strict=True):
            found[title] = _value(cell.text)
            found[f"{title}, more"] = cell.detail.replace(MINUS, "-")
        rows.append({name: found[name] for name in columns})
    return csv_text(columns, rows)


def _value(text: str) -> Any:
    """A number where a cell holds one, else its text."""
    written = text.replace(MINUS, "-")
    try:
        number = float(written)
    except ValueError:
        return None if text == NOTHING else written
    return number if math.isfinite(number) else written


def as_latex(table: Table) -> str:
    """A table as LaTeX, for the package booktabs."""
    kinds = "".join("r" if table.is_number(n) else "l" for n in range(len(table.columns)))
    lines = [" & ".join(map(_latex, table.columns))]
    lines += [" & ".join(map(_latex_cell, row.cells)) for row in table.rows]
    head, *body = [rf"{line} \\" for line in lines]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"% {_latex(table.caption)}",
            rf"\begin{{tabular}}{{{kinds}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    return _latex(f"{cell.text} ({cell.detail})" if cell.detail else cell.text)


def _latex(text: str) -> str:
    r"""A text that LaTeX prints as it is, on one line.

    >>> _latex("a_b & 5 %\n^")
    'a\\_b \\& 5 \\% \\textasciicircum{}'
    """
    shown = (_LATEX.get(letter, letter if letter.isprintable() else " ") for letter in text)
    return "".join(shown)
