"""Read files with scores: CSV tables, nnU-Net's summary.json, MONAI's reports."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.study.score_tables.csv_tables import (
    Block,
    CsvTable,
    delimiter_of,
    file_text,
    shown_names,
)
from rwloss.study.score_tables.options import TableOptions
from rwloss.study.score_tables.patterns import read_pattern
from rwloss.words import nearest, some

NNUNET = "{method}/fold_{seed}/validation/summary.json"
"""Where nnU-Net v2 writes its scores below the folder of a dataset."""


@dataclass(frozen=True)
class Found:
    """What was read. unread: files of the same kinds that the pattern does not match. unused:
    columns that no option names. decimal_commas: whether numbers were written with a comma."""

    blocks: tuple[Block, ...]
    files: int
    unread: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    decimal_commas: bool = False


def read(options: TableOptions) -> Found:
    """All scores of a file, or of the files of a folder that a pattern matches.

    Raises RWLossError, which names the file, for unreadable files and missing columns.
    """
    source = options.source
    if not source.exists():
        raise RWLossError(f"there is no {str(source)!r}: give a table, or a folder with --pattern")
    places: list[tuple[Path, dict[str, str]]] = [(source, {})]
    unread: list[str] = []
    if source.is_dir():
        places, unread = _matching(options)
    elif options.pattern is not None:
        raise RWLossError(f"--pattern is for a folder, and {str(source)!r} is a file")
    blocks: list[Block] = []
    unused: dict[str, None] = {}
    commas = False
    for path, fields in places:
        shown = path.relative_to(source).as_posix() if source.is_dir() else path.name
        if path.suffix.lower() == ".json":
            blocks += _nnunet(path, shown, fields, options)
        elif path.name == "metrics.csv" and _is_headless(path):
            blocks += _monai_means(path, shown, fields, options)
        else:
            table = CsvTable.of(path, shown)
            own = [*table.blocks(fields, options)]
            commas |= _has_decimal_commas(own, table.delimiter)
            blocks += own
            unused |= dict.fromkeys(table.unused(fields, options))
    blocks = [replace(block, metric=options.written[block.metric]) for block in blocks]
    return Found(tuple(blocks), len(places), tuple(unread), tuple(unused), commas)


def _has_decimal_commas(blocks: Sequence[Block], delimiter: str) -> bool:
    """Whether a table uses decimal commas. Raises RWLossError if 1,234 may mean 1234."""
    with_comma = [
        (block, line, value)
        for block in blocks
        for line, value in zip(block.lines, block.values, strict=True)
        if "," in value
    ]
    with_point = any(
        "." in value and _number_like(value) for block in blocks for value in block.values
    )
    if with_comma and (with_point or delimiter == ","):
        block, line, value = with_comma[0]
        why = "has decimal points too" if with_point else "separates its columns with commas"
        raise RWLossError(
            f"{block.file!r} line {line}: {block.metric} is {value[:40]!r}, and the table {why}, "
            "so the comma may separate thousands: write numbers with a decimal point alone"
        )
    return bool(with_comma)


def _matching(options: TableOptions) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """Files of a folder that the pattern matches, with their fields, and other files of the
    kind."""
    folder = options.source
    pattern = read_pattern(options.pattern or NNUNET, "--pattern", {"metric": [*options.written]})
    suffix = Path(pattern.text).suffix.lower()
    names = sorted(_files_below(folder, suffix), key=natural)
    found = [(folder / name, dict(fields)) for name in names if (fields := pattern.match(name))]
    rest = [name for name in names if not pattern.match(name)]
    if not found:
        there = f"there are {some(rest)}" if rest else f"there is no {suffix or 'matching'} file"
        given = "" if options.pattern else " (what nnU-Net writes; name another with --pattern)"
        raise RWLossError(
            f"no file in {str(folder)!r} fits the pattern {pattern.text!r}{given}: {there}"
        )
    for name in ("method", "seed", "case", "class"):
        if name in pattern.fields and name in options.columns_of:
            raise RWLossError(f"the {name} is in the pattern: leave --{name} out")
    return found, rest


def _files_below(folder: Path, suffix: str) -> Iterator[str]:
    """Files with this ending, by their path. Links are followed, each folder once."""
    seen: set[str] = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(at) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(at))
        for name in files:
            if Path(name).suffix.lower() == suffix:
                yield Path(at, name).relative_to(folder).as_posix()


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them.

    >>> sorted(["10.csv", "2.csv"], key=natural)
    ['2.csv', '10.csv']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]


# --- Files of frameworks


def _is_headless(path: Path) -> bool:
    """Whether each line is a name and a number, as MONAI writes means."""
    text = file_text(path)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter_of(text)) if row]
    return bool(rows) and all(len(row) == 2 and _number_like(row[1]) for row in rows)


def _number_like(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _monai_means(
    path: Path, shown: str, fields: Mapping[str, str], options: TableOptions
) -> Iterator[Block]:
    """MONAI's metrics.csv: a line with the name and the mean of each metric, no cases."""
    text = file_text(path)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter_of(text)) if row]
    names = [row[0].strip() for row in rows]
    for metric in options.written:
        if metric not in names:
            raise RWLossError(
                f"{shown!r} has no metric {metric!r}{nearest(metric, names) or '.'} It has "
                f"{shown_names(names)}"
            )
        line = names.index(metric)
        yield Block(shown, metric, fields, [rows[line][1]], [line + 1])


def _nnunet(
    path: Path, shown: str, fields: Mapping[str, str], options: TableOptions
) -> Iterator[Block]:
    """nnU-Net's summary.json: scores per case and class. Absent classes have NaN there."""
    text = file_text(path)
    try:
        cases = json.loads(text)["metric_per_case"]
        rows = [
            (_case_of(case), str(label), scores)
            for case in cases
            for label, scores in case["metrics"].items()
            if str(label) != "0"
        ]
        known = dict.fromkeys(name for _, _, scores in rows for name in scores)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RWLossError(
            f"{shown!r} is not a summary.json of nnU-Net v2 ({type(error).__name__}: {error})"
        ) from error
    keys = {**fields, "case": [row[0] for row in rows], "class": [row[1] for row in rows]}
    for metric in options.written:
        if metric not in known:
            raise RWLossError(
                f"{shown!r} has no score {metric!r}{nearest(metric, known) or '.'} It has "
                f"{shown_names([*known])}"
            )
        values = [scores.get(metric) for _, _, scores in rows]
        yield Block(shown, metric, keys, values, range(1, len(rows) + 1))


def _case_of(case: Mapping[str, Any]) -> str:
    name = str(case["prediction_file"]).replace("\\", "/").removesuffix(".gz")
    return Path(name).stem
