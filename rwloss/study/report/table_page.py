"""The page on tables of scores: the report of a study, as far as such data allow."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rwloss._version import __version__
from rwloss.files.atomic import write_text
from rwloss.study.axes import named
from rwloss.study.report import table_contents
from rwloss.study.report.page import check_page, filled, of_charts, require_report
from rwloss.study.score_tables import wording
from rwloss.study.score_tables.results import TableResults
from rwloss.words import count_of, some


def write_table_page(results: TableResults, path: Path) -> Path:
    """Write the page atomically.

    Raises RWLossError without plotly or jinja2, and if the file cannot be written.
    """
    require_report()
    check_page(path)
    write_text(path, render_table(results))
    return path


def render_table(results: TableResults) -> str:
    """The page as text."""
    return filled("table.html.j2", _context(results))


def _context(results: TableResults) -> dict[str, Any]:
    charts = table_contents.charts_of_table(results, with_settings=False)
    parts = results.conditions
    return {
        **of_charts(results, charts, "methods"),
        "seed_names": results.seed_names,
        "question": wording.question(results),
        "lead": wording.lead(results),
        "assumptions": wording.assumptions(results),
        "notes": results.table.notes,
        "study": results.study,
        "results": results,
        "scores_table": table_contents.scores_table(results),
        "runs_table": table_contents.runs_table(results),
        "settings": [
            {
                "number": number,
                "name": named(part.values),
                "sentences": wording.sentences(part) if part.values else [],
                "differences": table_contents.differences_table(part, number),
                "of_cases": table_contents.cases_table(part, number) if part.of_cases else None,
            }
            for number, part in enumerate(parts)
        ],
        "facts": _facts(results),
        "command": shlex.join(
            ["rwloss", "report", *results.options.command(), "--out", "FILE.html"]
        ),
        "rwloss": __version__,
    }


def _facts(results: TableResults) -> list[tuple[str, str]]:
    """The facts about what was read, in words."""
    options, table, found = results.options, results.table, results.found
    cases = {case for setting in table.settings for case in setting.cases}
    columns = {**options.columns_of}
    rows = [
        ("scores", f"{options.source.name}, {count_of(found.files, 'file')}"),
        ("methods", ", ".join(table.methods)),
        ("reference", options.reference),
        ("seeds", ", ".join(results.seed_names.values()) if table.has_seeds else "one run each"),
        ("cases", f"{len(cases):,}" if table.has_cases else "only means of runs"),
        ("classes", ", ".join(table.classes)),
        ("settings", f"{len(table.settings)} of {', '.join(table.fields)}" if table.fields else ""),
        (
            "metrics",
            ", ".join(
                f"{n} ({'higher' if h else 'lower'} is better)" for n, h in options.metrics.items()
            ),
        ),
        ("columns", ", ".join(f"{key}: {name}" for key, name in columns.items())),
        ("columns not used", some(found.unused).replace("'", "") if found.unused else ""),
        ("files not read", some(found.unread).replace("'", "") if found.unread else ""),
        ("numbers", "written with a decimal comma" if found.decimal_commas else ""),
    ]
    return [(name, text) for name, text in rows if text]
