"""Options that describe tables of scores from other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rwloss.errors import RWLossError

KEYS = ("method", "seed", "case", "class")
"""Keys of a score, besides the settings of its run."""


@dataclass(frozen=True)
class TableOptions:
    """Where the scores are, what their columns mean, and the rules for missing values.

    metrics: name -> whether higher is better. metric_columns: name -> its name in the tables, if
    different. columns_of: for each of KEYS, its column, if one was named. groups: columns that are
    settings. pattern: fields in paths below source. wide: fields in the names of columns. long: the
    columns of the metric's name and value. case_table: a table with one row per case, whose columns
    can be groups. missing: metric -> rule; "" for the rule of all others. absent: texts that mean a
    missing value. shared: leave out what not all methods have. unpaired: runs with the same seed
    are not paired. correct: over which comparisons of a metric p is corrected.
    """

    source: Path
    metrics: Mapping[str, bool]
    reference: str
    columns_of: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    pattern: str | None = None
    wide: str | None = None
    long: tuple[str, str] | None = None
    case_table: Path | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    shared: bool = False
    unpaired: bool = False
    correct: Literal["setting", "all"] = "setting"
    metric_columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def written(self) -> dict[str, str]:
        """Name of each metric in the tables -> its name."""
        return {self.metric_columns.get(name, name): name for name in self.metrics}

    @property
    def keys(self) -> tuple[str, ...]:
        """KEYS, without those that are settings: classes may be compared separately."""
        return tuple(key for key in KEYS if key not in self.groups)

    def command(self) -> list[str]:
        """The arguments that reproduce the page, without folders of this machine."""
        given: dict[str, str | None] = {
            "pattern": self.pattern,
            "wide": self.wide,
            "long": ",".join(self.long) if self.long else None,
            **self.columns_of,
            "case-table": self.case_table.name if self.case_table else None,
            "reference": self.reference,
            "correct": self.correct if self.correct == "all" else None,
        }
        several: dict[str, Sequence[str]] = {
            "group": self.groups,
            "metric": [
                f"{name if name == column else f'{name}={column}'}:"
                f"{'higher' if self.metrics[name] else 'lower'}"
                for column, name in self.written.items()
            ],
            "missing": [f"{n}={rule}" if n else rule for n, rule in self.missing.items()],
            "absent": self.absent,
        }
        pairs = [(name, text) for name, text in given.items() if text is not None]
        pairs += [(name, text) for name, texts in several.items() for text in texts]
        flags = [f"--{name}" for name in ("shared", "unpaired") if getattr(self, name)]
        given_texts = [text for name, value in pairs for text in (f"--{name}", value)]
        return [self.source.name, *given_texts, *flags]


def read_metrics(texts: Sequence[str]) -> tuple[dict[str, bool], dict[str, str]]:
    """Metrics with their directions, and the columns of those with another name in the tables.

    texts: [NAME=]COLUMN:higher or [NAME=]COLUMN:lower.

    >>> read_metrics(["Dice:higher", "HD95=hd95_mm:lower"])
    ({'Dice': True, 'HD95': False}, {'HD95': 'hd95_mm'})
    """
    found: dict[str, bool] = {}
    columns: dict[str, str] = {}
    for text in texts:
        given, _, direction = text.rpartition(":")
        if not given or direction not in {"higher", "lower"}:
            raise RWLossError(
                f"--metric {text!r} does not say whether higher is better: write "
                f"{given or text}:higher or {given or text}:lower"
            )
        name, is_named, column = given.partition("=")
        if name in found or (column or name) in {*columns.values(), *(found.keys() - columns)}:
            raise RWLossError(f"--metric {text!r} is given twice: name each metric once")
        found[name] = direction == "higher"
        if is_named:
            columns[name] = column
    if not found:
        raise RWLossError("no scores to compare: name one with --metric, such as Dice:higher")
    return found, columns


def read_long(text: str) -> tuple[str, str]:
    """The columns of a metric's name and value.

    >>> read_long("metric,value")
    ('metric', 'value')
    """
    name, _, value = (part.strip() for part in text.partition(","))
    if not name or not value or "," in value:
        raise RWLossError(f"--long {text!r}: expected two columns, such as metric,value")
    return name, value


def read_missing(texts: list[str], metrics: Mapping[str, bool]) -> dict[str, str]:
    """Rules for missing values: RULE for all metrics, METRIC=RULE for one.

    >>> read_missing(["worst", "Dice=0"], {"Dice": True, "HD95": False})
    {'': 'worst', 'Dice': '0'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, rule = text.rpartition("=")
        if name and name not in metrics:
            raise RWLossError(
                f"--missing {text!r}: {name!r} is no --metric; there are {', '.join(metrics)}"
            )
        if rule not in {"worst", "best", "drop"} and not _is_number(rule):
            raise RWLossError(
                f"--missing {text!r}: expected worst, best, drop or a number, such as "
                f"{next(iter(metrics))}=0"
            )
        found[name] = rule
    return found


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
