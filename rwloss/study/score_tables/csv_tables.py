"""Read tables of scores from CSV: long, wide, one score per row, or MONAI's reports of cases."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.study.score_tables.options import KEYS, TableOptions
from rwloss.study.score_tables.patterns import Pattern, read_pattern
from rwloss.words import count_of, nearest

_MANY = 12
"""Largest number of names that an error lists."""


@dataclass(frozen=True)
class Block:
    """Scores of one metric in one file.

    keys: field -> a text per score, or one text for all. values: text or number per score. lines:
    line number of each in the file, from 1. column: of the values, if a pattern found it.
    """

    file: str
    metric: str
    keys: Mapping[str, Sequence[str] | str]
    values: Sequence[Any]
    lines: Sequence[int]
    column: str = ""


def file_text(path: Path) -> str:
    """The content of a file in UTF-8, else in Latin-1, which spreadsheets write."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        return path.read_text("latin-1")
    except OSError as error:
        raise RWLossError(f"can't read {str(path)!r}: {error.strerror}") from error


def delimiter_of(text: str) -> str:
    """The delimiter of the columns: the most frequent one in the first line."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=line.count)


@dataclass(frozen=True)
class CsvTable:
    """A table that has been read. lines: line number of each row in the file."""

    file: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]
    delimiter: str

    @classmethod
    def of(cls, path: Path, shown: str) -> CsvTable:
        """Read a file. Raises RWLossError, which names it as shown, if it is not a table."""
        text = file_text(path)
        delimiter = delimiter_of(text)
        if "\0" in text or text.startswith("PK"):
            raise RWLossError(f"{shown!r} is not UTF-8 text: save it as CSV in UTF-8")
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
                f"{self.file!r} has no column {name!r} ({option})"
                f"{nearest(name, self.header) or '.'} Its columns are {shown_names(self.header)}"
            )
        place = self.header.index(name)
        return [row[place].strip() for row in self.rows]

    def blocks(self, fields: Mapping[str, str], options: TableOptions) -> Iterator[Block]:
        """The scores of the table. fields: those in its path."""
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
            for metric in options.written:
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
                f"the method is unknown for a score of {self.file!r} is of: name its column with "
                f"--method, or put {{method}} in --pattern or --wide; the columns are "
                f"{shown_names(self.header)}"
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
        if "metric" not in pattern.fields and len(options.written) > 1:
            raise RWLossError(
                f"--wide {options.wide!r} has no {{metric}}, so its columns hold one metric, and "
                f"{len(options.written)} are named with --metric"
            )
        any_found = False
        for name in self.header:
            if name in _key_columns(keys, options) or (of := pattern.match(name)) is None:
                continue
            any_found = True
            own = dict(of)
            metric = own.pop("metric", next(iter(options.written)))
            values = self._column(name, "--wide")
            yield Block(self.file, metric, {**keys, **own}, values, self.lines, name)
        if not any_found:
            raise RWLossError(
                f"no column of {self.file!r} fits --wide {options.wide!r}: they are "
                f"{shown_names(self.header)}"
            )

    def _long(
        self, keys: Mapping[str, Sequence[str] | str], options: TableOptions
    ) -> Iterator[Block]:
        assert options.long is not None
        names, values = (self._column(name, "--long") for name in options.long)
        for metric in options.written:
            places = [place for place, name in enumerate(names) if name == metric]
            if not places:
                known = {*names}
                raise RWLossError(
                    f"{self.file!r} has no score {metric!r} in its column {options.long[0]!r}"
                    f"{nearest(metric, known) or '.'} It has {shown_names(sorted(known))}"
                )
            own = {
                key: of if isinstance(of, str) else [of[place] for place in places]
                for key, of in keys.items()
            }
            of_metric = [values[place] for place in places]
            yield Block(self.file, metric, own, of_metric, [self.lines[n] for n in places])

    def _of_monai(self, fields: Mapping[str, str]) -> Iterator[Block]:
        """A report of MONAI's MetricsSaver: a row per image, a column per class, and their mean,
        which is ignored because it skips NaN."""
        files = self._column("filename", "MONAI")
        cases = [Path(name).name for name in files]
        if len({*cases}) < len(cases) and all("/" in name for name in files):
            cases = [os.path.relpath(name, os.path.commonpath(files)) for name in files]
        own = {key: value for key, value in fields.items() if key != "metric"}
        for name in self.header[1:-1]:
            keys = {**own, "case": cases, "class": name}
            values = self._column(name, "MONAI")
            yield Block(self.file, fields["metric"], keys, values, self.lines)

    def unused(self, fields: Mapping[str, str], options: TableOptions) -> Iterator[str]:
        """Columns that no option names."""
        if self._is_monai and "metric" in fields:
            return
        named = _key_columns(KEYS[:3], options)
        if options.wide is None:
            named |= {*(options.long or options.written)}
        else:
            pattern = _wide_pattern(options)
            named |= {name for name in self.header if pattern.match(name)}
        yield from (name for name in self.header if name not in named)


def _key_columns(keys: Iterable[str], options: TableOptions) -> set[str]:
    """Names of key columns, such as method and case."""
    return {*options.columns_of.values(), *options.groups, *keys}


def shown_names(names: Sequence[str]) -> str:
    """Names in an error, at most a few."""
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(map(repr, names[:_MANY])) + more


@cache
def _pattern(text: str, metrics: tuple[str, ...]) -> Pattern:
    return read_pattern(text, "--wide", {"metric": metrics})


def _wide_pattern(options: TableOptions) -> Pattern:
    return _pattern(options.wide or "", tuple(options.written))


def case_groups(options: TableOptions) -> dict[str, dict[str, str]]:
    """For each group that is a column of the table of cases: case -> value."""
    if options.case_table is None:
        return {}
    return _case_groups(options.case_table, options.columns_of.get("case", "case"))


@cache
def _case_groups(path: Path, case: str) -> dict[str, dict[str, str]]:
    table = CsvTable.of(path, path.name)
    cases = table._column(case, "--case")
    if len({*cases}) < len(cases):
        twice = next(name for name in cases if cases.count(name) > 1)
        raise RWLossError(f"{path.name!r} has the case {twice!r} twice")
    others = [name for name in table.header if name != case]
    return {name: dict(zip(cases, table._column(name, "--group"), strict=True)) for name in others}
