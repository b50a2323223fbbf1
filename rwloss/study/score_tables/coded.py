"""Scores as numbers, and their keys as codes: the step from text to arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.study.score_tables.csv_tables import Block, case_groups
from rwloss.study.score_tables.options import TableOptions
from rwloss.words import nearest

_ABSENT = {"", "nan", "na", "n/a", "none", "null", "-", "inf", "-inf", "+inf", "infinity"}
"""Texts, in lower case, that mean a missing value."""


class CodedScores(NamedTuple):
    """All scores of one metric. codes: (score, field), the index of each in the field's levels.
    places: (file, line) of each."""

    codes: NDArray[np.int64]
    values: NDArray[np.float64]
    places: list[tuple[str, int]]


def fields_of(blocks: Sequence[Block], options: TableOptions) -> tuple[str, ...]:
    """Settings in the order of paths and options, then the keys of the tables."""
    used = dict.fromkeys(key for block in blocks for key in block.keys)
    if "method" not in used:
        raise RWLossError(
            "the method of the scores is unknown: put {method} in --pattern, and name the "
            "folder above those of the methods"
        )
    known = case_groups(options)
    for group in options.groups:
        if group not in used and group not in known:
            there = {*used, *known}
            raise RWLossError(f"there is no column {group!r} (--group){nearest(group, there)}")
        used[group] = None
    for key in used:
        lacking = [block.file for block in blocks if key not in block.keys]
        if lacking and not (key in known and "case" in used):
            raise RWLossError(
                f"{lacking[0]!r} does not give the {key} of its scores; other files do"
            )
    settings = [field for field in used if field not in options.keys]
    return (*settings, *(key for key in options.keys if key in used))


def coded(
    blocks: Sequence[Block],
    fields: Sequence[str],
    levels: Mapping[str, dict[str, int]],
    options: TableOptions,
) -> CodedScores:
    """The scores of blocks of one metric. levels: new texts are added."""
    codes, values, places = [], [], []
    groups = case_groups(options)
    absent = _ABSENT | {text.lower() for text in options.absent}
    absent_numbers = {number for text in options.absent if (number := _number(text)) is not None}
    for block in blocks:
        n = len(block.values)
        columns = []
        for field in fields:
            of = block.keys.get(field)
            if of is None:
                of = [_group_of(case, groups[field], options) for case in block.keys["case"]]
            level = levels[field]
            texts = [of] * n if isinstance(of, str) else of
            columns.append([level.setdefault(text, len(level)) for text in texts])
            if "" in level:
                line = block.lines[[*texts].index("")]
                raise RWLossError(f"{block.file!r} line {line} does not give its {field}")
        codes.append(np.array(columns, dtype=np.int64).reshape(len(fields), n).T)
        values.append(_numbers(block, absent, absent_numbers))
        places += [(block.file, line) for line in block.lines]
    if not codes:
        return CodedScores(np.zeros((0, len(fields)), np.int64), np.zeros(0), [])
    return CodedScores(np.concatenate(codes), np.concatenate(values), places)


def _group_of(case: str, known: Mapping[str, str], options: TableOptions) -> str:
    if case not in known:
        raise RWLossError(
            f"the table of cases {str(options.case_table)!r} lacks the case {case!r}"
            f"{nearest(case, known)}"
        )
    return known[case]


def _numbers(block: Block, absent: set[str], absent_numbers: set[float]) -> NDArray[np.float64]:
    """The values as numbers; NaN if missing."""
    found = np.empty(len(block.values))
    for place, value in enumerate(block.values):
        text = str(value).strip()
        if text.lower() in absent:
            found[place] = math.nan
            continue
        number = _number(text)
        if number is None:
            column = f" (column {block.column!r})" if block.column else ""
            narrower = ", or leave its column out with a pattern such as {method:dice|ce}"
            raise RWLossError(
                f"{block.file!r} line {block.lines[place]}: {block.metric}{column} is "
                f"{text[:40]!r}, which is not a number; if it stands for no value, give --absent "
                f"and "
                f"this text{narrower if column else ''}"
            )
        found[place] = math.nan if number in absent_numbers else number
    found[~np.isfinite(found)] = math.nan
    return found


def _number(text: str) -> float | None:
    """A text as a number, with a decimal point or comma; None if it is not a number."""
    try:
        if "_" in text:  # Python reads 1_0 as 10
            return None
        return float(text.replace(",", ".") if text.count(",") == 1 else text)
    except ValueError:
        return None
