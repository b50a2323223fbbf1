"""Files with scores, as they are: CSV tables, nnU-Net's summary.json, MONAI's reports."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.study.score_tables.options import KEYS, TableOptions
from rwloss.study.score_tables.patterns import Pattern, read_pattern
from rwloss.words import count_of, nearest, some

NNUNET = "{method}/fold_{seed}/validation/summary.json"
"""Where nnU-Net v2 writes its scores below the folder of a dataset."""

_MANY_COLUMNS = 12


@dataclass(frozen=True)
class Block:
    """Scores of one metric in one file.

    keys: field -> a text per score, or one text for all. values: text or number per score. lines:
    where each stands in the file, from 1.
    """

    file: str
    metric: str
    keys: Mapping[str, Sequence[str] | str]
    values: Sequence[Any]
    lines: Sequence[int]


@dataclass(frozen=True)
class Found:
    """What was read. unread: files of the same kinds that the pattern does not fit. unused: columns
    that no option names. decimal_commas: whether numbers were written with a comma."""

    blocks: tuple[Block, ...]
    files: int
    unread: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    decimal_commas: bool = False


def read(options: TableOptions) -> Found:
    """All scores of a file, or of the files of a folder that a pattern fits.

    Raises RWLossError, naming the file, for what cannot be read, and for missing columns.
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
            table = _Table.of(path, shown)
            blocks += table.blocks(fields, options)
            unused |= dict.fromkeys(table.unused(fields, options))
            commas |= table.delimiter != ","
    commas = commas and any("," in str(value) for block in blocks for value in block.values)
    return Found(tuple(blocks), len(places), tuple(unread), tuple(unused), commas)


def _matching(options: TableOptions) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """Files of a folder that the pattern fits, with their fields, and other files of the kind."""
    folder = options.source
    pattern = read_pattern(options.pattern or NNUNET, "--pattern", {"metric": [*options.metrics]})
    suffix = Path(pattern.text).suffix.lower()
    names = sorted(
        (
            Path(at, name).relative_to(folder).as_posix()
            for at, _, files in os.walk(folder, followlinks=True)
            for name in files
            if Path(name).suffix.lower() == suffix
        ),
        key=natural,
    )
    found = [(folder / name, dict(fields)) for name in names if (fields := pattern.match(name))]
    rest = [name for name in names if not pattern.match(name)]
    if not found:
        there = f"; there are {some(rest)}" if rest else f", which holds no {suffix or 'such'} file"
        given = "" if options.pattern else " (what nnU-Net writes; name another with --pattern)"
        raise RWLossError(
            f"no file in {str(folder)!r} fits the pattern {pattern.text!r}{given}{there}"
        )
    for name in ("method", "seed", "case", "class"):
        if name in pattern.fields and name in options.columns_of:
            raise RWLossError(f"the {name} is in the pattern: leave --{name} out")
    return found, rest


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them.

    >>> sorted(["10.csv", "2.csv"], key=natural)
    ['2.csv', '10.csv']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]


# --- CSV


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        return path.read_text("latin-1")
    except OSError as error:
        raise RWLossError(f"can't read {str(path)!r}: {error.strerror}") from error


def _delimiter(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=line.count)


def _is_headless(path: Path) -> bool:
    """Whether each line is a name and a number, as MONAI writes means."""
    text = _text(path)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=_delimiter(text)) if row]
    return bool(rows) and all(len(row) == 2 and _number_like(row[1]) for row in rows)


def _number_like(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Table:
    file: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]
    delimiter: str

    @classmethod
    def of(cls, path: Path, shown: str) -> _Table:
        text = _text(path)
        delimiter = _delimiter(text)
        try:
            reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
            rows, lines = [], []
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append(row)
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise RWLossError(f"{shown!r} is not a table of text ({error})") from error
        if not rows:
            raise RWLossError(f"{shown!r} is empty")
        header = tuple(name.strip() for name in rows[0])
        for name in header:
            if header.count(name) > 1:
                raise RWLossError(f"{shown!r} has two columns {name!r}: rename one")
        for row, line in zip(rows, lines, strict=True):
            if len(row) != len(header):
                raise RWLossError(
                    f"{shown!r} line {line} has {count_of(len(row), 'cell')}, and its header "
                    f"{len(header)}"
                )
        return cls(shown, header, rows[1:], lines[1:], delimiter)

    @property
    def _is_monai(self) -> bool:
        return self.header[0] == "filename" and self.header[-1] == "mean" and len(self.header) > 2

    def _column(self, name: str, option: str) -> list[str]:
        if name not in self.header:
            raise RWLossError(
                f"{self.file!r} has no column {name!r} ({option}){nearest(name, self.header)}; "
                f"its columns are {_shown(self.header)}"
            )
        place = self.header.index(name)
        return [row[place].strip() for row in self.rows]

    def blocks(self, fields: Mapping[str, str], options: TableOptions) -> Iterator[Block]:
        """The scores of the table. fields: what its path says."""
        if self._is_monai and "metric" in fields:
            yield from self._of_monai(fields)
            return
        keys = self._keys(fields, options)
        if "metric" in fields and options.long is None and options.wide is None:
            raise RWLossError(
                f"{self.file!r}: {{metric}} in --pattern is for the reports of MONAI, which begin "
                "with the column 'filename' and end with 'mean'"
            )
        if options.wide is not None:
            yield from self._wide(keys, options)
        elif options.long is not None:
            yield from self._long(keys, options)
        else:
            for metric in options.metrics:
                values = self._column(metric, "--metric")
                yield Block(self.file, metric, keys, values, self.lines)

    def _keys(
        self, fields: Mapping[str, str], options: TableOptions
    ) -> dict[str, Sequence[str] | str]:
        keys: dict[str, Sequence[str] | str] = {**fields}
        in_wide = _wide_pattern(options).fields if options.wide is not None else ()
        for key in KEYS:
            if key in options.columns_of:
                keys[key] = self._column(options.columns_of[key], f"--{key}")
            elif key in self.header and key not in keys and key not in in_wide and key != "class":
                keys[key] = self._column(key, f"--{key}")
        if "method" not in keys and "method" not in in_wide:
            raise RWLossError(
                f"nothing says which method a score of {self.file!r} is of: name its column with "
                f"--method, or put {{method}} in --pattern or --wide; the columns are "
                f"{_shown(self.header)}"
            )
        known = case_groups(options)
        for group in options.groups:
            if group in fields:
                continue
            if group in self.header or group not in known:
                keys[group] = self._column(group, "--group")
        return keys

    def _wide(
        self, keys: Mapping[str, Sequence[str] | str], options: TableOptions
    ) -> Iterator[Block]:
        pattern = _wide_pattern(options)
        if "metric" not in pattern.fields and len(options.metrics) > 1:
            raise RWLossError(
                f"--wide {options.wide!r} has no {{metric}}, so its columns hold one metric, and "
                f"{len(options.metrics)} are named with --metric"
            )
        is_key = {*options.columns_of.values(), *options.groups, *keys}
        any_found = False
        for name in self.header:
            if name in is_key or (of := pattern.match(name)) is None:
                continue
            any_found = True
            own = dict(of)
            metric = own.pop("metric", next(iter(options.metrics)))
            values = self._column(name, "--wide")
            yield Block(self.file, metric, {**keys, **own}, values, self.lines)
        if not any_found:
            raise RWLossError(
                f"no column of {self.file!r} fits --wide {options.wide!r}: they are "
                f"{_shown(self.header)}"
            )

    def _long(
        self, keys: Mapping[str, Sequence[str] | str], options: TableOptions
    ) -> Iterator[Block]:
        assert options.long is not None
        names, values = (self._column(name, "--long") for name in options.long)
        for metric in options.metrics:
            places = [place for place, name in enumerate(names) if name == metric]
            if not places:
                known = {*names}
                raise RWLossError(
                    f"{self.file!r} has no score {metric!r} in its column {options.long[0]!r}"
                    f"{nearest(metric, known)}; it has {_shown(sorted(known))}"
                )
            own = {
                key: of if isinstance(of, str) else [of[place] for place in places]
                for key, of in keys.items()
            }
            of_metric = [values[place] for place in places]
            yield Block(self.file, metric, own, of_metric, [self.lines[n] for n in places])

    def _of_monai(self, fields: Mapping[str, str]) -> Iterator[Block]:
        """A report of MONAI's MetricsSaver: a row per image, a column per class, and their mean,
        which is left out because it skips what is NaN."""
        cases = [Path(name).name for name in self._column("filename", "MONAI")]
        own = {key: value for key, value in fields.items() if key != "metric"}
        for name in self.header[1:-1]:
            keys = {**own, "case": cases, "class": name}
            values = self._column(name, "MONAI")
            yield Block(self.file, fields["metric"], keys, values, self.lines)

    def unused(self, fields: Mapping[str, str], options: TableOptions) -> Iterator[str]:
        """Columns that no option names."""
        if (self._is_monai and "metric" in fields) or options.wide is not None:
            return
        named = {*options.columns_of.values(), *options.groups, *(options.long or options.metrics)}
        named |= {*KEYS[:3]}
        yield from (name for name in self.header if name not in named)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY_COLUMNS} more" if len(names) > _MANY_COLUMNS else ""
    return ", ".join(map(repr, names[:_MANY_COLUMNS])) + more


@cache
def _pattern(text: str, metrics: tuple[str, ...]) -> Pattern:
    return read_pattern(text, "--wide", {"metric": metrics})


def _wide_pattern(options: TableOptions) -> Pattern:
    return _pattern(options.wide or "", tuple(options.metrics))


def case_groups(options: TableOptions) -> dict[str, dict[str, str]]:
    """Of each group that is a column of the table of cases: case -> value."""
    if options.case_table is None:
        return {}
    return _case_groups(options.case_table, options.columns_of.get("case", "case"))


@cache
def _case_groups(path: Path, case: str) -> dict[str, dict[str, str]]:
    table = _Table.of(path, path.name)
    cases = table._column(case, "--case")
    if len({*cases}) < len(cases):
        twice = next(name for name in cases if cases.count(name) > 1)
        raise RWLossError(f"{path.name!r} has the case {twice!r} twice")
    others = [name for name in table.header if name != case]
    return {name: dict(zip(cases, table._column(name, "--group"), strict=True)) for name in others}


# --- Files of frameworks


def _monai_means(
    path: Path, shown: str, fields: Mapping[str, str], options: TableOptions
) -> Iterator[Block]:
    """MONAI's metrics.csv: a line with the name and the mean of each metric, no cases."""
    text = _text(path)
    rows = [row for row in csv.reader(text.splitlines(), delimiter=_delimiter(text)) if row]
    names = [row[0].strip() for row in rows]
    for metric in options.metrics:
        if metric not in names:
            raise RWLossError(
                f"{shown!r} has no metric {metric!r}{nearest(metric, names)}; it has "
                f"{_shown(names)}"
            )
        line = names.index(metric)
        yield Block(shown, metric, fields, [rows[line][1]], [line + 1])


def _nnunet(
    path: Path, shown: str, fields: Mapping[str, str], options: TableOptions
) -> Iterator[Block]:
    """nnU-Net's summary.json: scores per case and class. Absent classes have NaN there."""
    try:
        cases = json.loads(_text(path))["metric_per_case"]
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
    for metric in options.metrics:
        if metric not in known:
            raise RWLossError(
                f"{shown!r} has no score {metric!r}{nearest(metric, known)}; it has "
                f"{_shown([*known])}"
            )
        values = [scores.get(metric) for _, _, scores in rows]
        yield Block(shown, metric, keys, values, range(1, len(rows) + 1))


def _case_of(case: Mapping[str, Any]) -> str:
    name = str(case["prediction_file"]).replace("\\", "/").removesuffix(".gz")
    return Path(name).stem
