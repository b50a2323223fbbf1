"""Tables as CSV that a spreadsheet never runs as formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows with a header; a missing or unknown value is an empty cell. Numbers stay numbers.

    A text that a spreadsheet would run as a formula is preceded by ', which spreadsheets hide.

    >>> print(csv_text(["name", "value"], [{"name": "=1+1", "value": -0.5}]), end="")
    name,value
    '=1+1,-0.5
    """
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _safe(value) for name, value in row.items()})
    return text.getvalue()


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = f"'{value}" if value.startswith(_STARTS_A_FORMULA) else value
    return text.replace("\r", "\n")  # a lone \r would end the row, because csv does not quote it
