"""The table of docs/evaluate.md and the help name each metric; rules are those of the registry."""

import re
from pathlib import Path

from rwloss.metrics import DEFAULT, METRICS
from rwloss.training import RunSettings

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"


def test_table_is_that_of_the_registry():
    rows = re.findall(r"^\| `(\w+)`(\*?) \|(.*)\|$", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert [name for name, *_ in rows] == list(METRICS)
    assert {name for name, star, _ in rows if star} == set(DEFAULT)
    for name, _, cells in rows:
        title, _, span, missed, false_alarm = (cell.strip() for cell in cells.split(" | "))
        metric = METRICS[name]
        wanted = (metric.title, metric.range, metric.missed, metric.false_alarm)
        assert (title, span, missed, false_alarm) == wanted


def test_help_names_every_metric():
    assert set(METRICS) <= set(re.findall(r"\w+", RunSettings.model_fields["metrics"].description))
