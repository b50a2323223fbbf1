"""Which cases train, validate and test, with the cases of one patient together."""

from __future__ import annotations

import csv
import itertools
import random
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, TypeAdapter

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.files.journal import read_regular
from rwloss.files.toml import TomlSettings
from rwloss.words import count_of, some

Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class SplitSettings(TomlSettings):
    """How cases are split into training, validation and test cases.

    A fraction is one of groups of cases. With `folds`, one of that many parts of equal size is for
    validation, in place of `validation_fraction`.
    """

    test_part: Literal["auto", "folder", "split"] = Field(
        "auto",
        description="test cases: imagesTs and labelsTs (folder), drawn from the other cases "
        "(split), or the folder if there is one (auto)",
    )
    test_fraction: Fraction = Field(0.2, description="fraction of the cases to test on")
    validation_fraction: Fraction = Field(
        0.2, description="fraction of the other cases to validate on, to choose the checkpoint"
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None, description="number of folds for cross-validation, instead of the fraction"
    )
    fold: Annotated[int, Field(ge=0)] | None = Field(
        None, description="fold to validate on, counted from 0"
    )
    group_pattern: str | None = Field(
        None,
        description="keep cases together if the part of their names in parentheses is the same, "
        'as in "(lung[0-9]+)_.*"; by default each case is a group',
    )
    groups_table: str | None = Field(
        None, description="CSV file with one line case,group per case, instead of a pattern"
    )
    split_seed: Seed = Field(
        0, description="seed of the split; runs with different seeds share one split"
    )
    train_cases: PositiveInt | None = Field(
        None,
        description="number of training cases to keep, the same ones and more for a larger number; "
        "by default all",
    )


@dataclass(frozen=True)
class Split:
    """Names of the cases of each part, sorted, and how they were made, in words.

    No group has cases in two parts. The checkpoint is chosen on `validation` alone, and `test` is
    looked at once, at the end. digests: of the content of each case, where it has been read.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    made_by: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """The split as JSON, whole or not at all."""
        with whole_file(path) as part:
            part.write_bytes(TypeAdapter(Split).dump_json(self, indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Split:
        """The split of a run. Raises RWLossError for a file that can't be read."""
        try:
            return TypeAdapter(cls).validate_json(read_regular(path))
        except (OSError, ValueError) as error:
            raise RWLossError(f"cannot read the split {str(path)!r}: {error}") from error

    def changed(self, now: Split) -> list[str]:
        """Cases of both whose content is another now."""
        return [
            name for name, digest in self.digests.items() if now.digests.get(name, digest) != digest
        ]


SplitPart = Literal["train", "validation", "test"]


def split(
    names: Sequence[str], settings: SplitSettings, *, test_names: Sequence[str] | None = None
) -> Split:
    """The split of cases by name. It depends on the names and on settings of splits alone.

    test_names: cases that are the test part by themselves (imagesTs, labelsTs); the others are then
    for training and validation. A fraction is one of groups, rounded, of at least one group; with
    folds, fold f validates on every folds-th of the shuffled groups, and each group validates once.
    With train_cases, the first ones of the shuffled groups are kept for training: those of a
    smaller number are among those of a larger one, and the other parts are the same.

    Raises RWLossError where there are too few groups, a case is in two groups or in none, and for
    one name in both parts of the dataset.
    """
    rng = random.Random(settings.split_seed)
    if settings.fold is not None and settings.folds is None:
        raise RWLossError(f"--fold {settings.fold} of how many? Give --folds too")
    if both := sorted(set(names) & set(test_names or ())):
        raise RWLossError(f"case {some(both)} is in labelsTr and in labelsTs: rename or remove one")
    groups = groups_of([*names, *(test_names or ())], settings)
    if test_names is None:
        order = sorted(groups)
        rng.shuffle(order)
        count = _share(settings.test_fraction, len(order))
        test_groups, order = order[:count], sorted(order[count:])
        test = _cases(groups, test_groups)
        made_by = f"{len(test_groups)} of {len(groups)} groups drawn for testing"
    else:
        test = tuple(sorted(test_names))
        order = _without_test(groups, test)
        made_by = "imagesTs and labelsTs for testing"
    rng.shuffle(order)
    if settings.folds is None:
        count = _share(settings.validation_fraction, len(order))
        validation_groups = order[:count]
        made_by += f", {count} of the other {len(order)} groups for validation"
    else:
        fold, folds = settings.fold, settings.folds
        if folds > len(order):
            raise RWLossError(
                f"{folds} folds need as many groups, and there are {len(order)} besides the test "
                "part: use fewer --folds, or another grouping"
            )
        if fold is None or fold >= folds:
            raise RWLossError(f"expected --fold of 0 to {folds - 1} for {folds} folds, got {fold}")
        validation_groups = order[fold::folds]
        made_by += f", fold {fold} of {folds} for validation"
    train_groups = [group for group in order if group not in set(validation_groups)]
    if not train_groups:
        raise RWLossError(
            f"{count_of(len(names), 'case')} in {count_of(len(groups), 'group')} leave none for "
            "training: a fraction above 0 takes at least one group, so use more cases, another "
            "grouping, --validation-fraction 0 (then the last checkpoint is tested) or "
            "--test-fraction 0"
        )
    train = [case for group in train_groups for case in groups[group]]
    if (kept := settings.train_cases) is not None:
        if kept > len(train):
            raise RWLossError(
                f"--train-cases {kept} is more than there are: the split leaves "
                f"{count_of(len(train), 'case')} for training"
            )
        made_by += f", {kept} of {len(train)} training cases kept"
    return Split(
        train=tuple(sorted(train[:kept])),
        validation=_cases(groups, validation_groups),
        test=test,
        made_by=f"{made_by}; groups by {_rule(settings)}, split seed {settings.split_seed}",
    )


_DATE = "(?:19|20)[0-9]{2}[._-]?(?:0[1-9]|1[0-2])[._-]?(?:0[1-9]|[12][0-9]|3[01])"
_SIDE = "(?i:left|right|pre|post|[lr])"
_PART = "(?i:slice|frame|patch|visit|scan|session|ses|time|tp|[sfvtpr])[._-]?[0-9]+"
_NUMBER = f"(?:{_DATE}|[0-9]+)"
# What tells a patient in a name: words up to a date or a side; or up to the first number, that of
# the patient, subject or case if there is one, before a side, a part or a letter, or with the
# letters and numbers up to the next separator.
_PATIENT = (
    f"[^0-9]+(?=[._-](?:{_DATE}|{_SIDE})$)"
    f"|(?:.*?(?i:patient|subject|case|sub|pat|pt))?[^0-9]*{_NUMBER}"
    f"(?:(?=(?:{_SIDE}|{_PART}|[A-Za-z])?(?:[._-].*)?$)|[^._-]*(?=[._-]))"
)


def patient_pattern(names: Sequence[str]) -> str:
    """A --group-pattern that keeps names together that may be of one patient, as names tell.

    A number that all names begin with, as in BraTS20_Training_001, is that of no patient.

    >>> pattern = patient_pattern(["p01_left", "p01_right", "p02_left"])
    >>> re.fullmatch(pattern, "p01_left")[1]
    'p01'
    """
    pairs = zip(min(names), max(names), strict=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    shared = re.escape("".join(one for one, _ in same).rstrip("0123456789"))
    shared *= bool(re.search("[0-9]", shared))
    whole = f"(?:{_SIDE}[._-])?({shared}(?:{_PATIENT})|.+).*"
    simple = f"({shared}[^0-9]*[0-9]+|.+).*"
    groups = {*zip(*(_by_pattern(names, each).values() for each in (simple, whole)), strict=True)}
    is_same = all(len(groups) == len({*each}) for each in zip(*groups, strict=True))
    return simple if is_same else whole


def leaked(split: Split, settings: SplitSettings) -> str:
    """A warning where cases that may be of one patient are in several parts; else "".

    By their names: lung003_1 and lung003_4 differ only in what follows their first number. Nothing
    is said where the user has grouped the cases.

    >>> leaked(Split(("lung003_1",), (), ("lung003_4", "lung007_1"), ""), SplitSettings())[:65]
    '1 of 2 groups of test and validation cases has cases in another p'
    """
    if settings.group_pattern is not None or settings.groups_table is not None:
        return ""
    pattern = patient_pattern([*split.train, *split.validation, *split.test])
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for part in ("train", "validation", "test"):
        for name, group in _by_pattern(getattr(split, part), pattern).items():
            parts[group].setdefault(part, name)
    held_out = [names for names in parts.values() if names.keys() - {"train"}]
    torn = [names for names in held_out if len(names) > 1]
    if not torn or len(parts) == 1:
        return ""
    first, second = list(torn[0].values())[:2]
    return (
        f"{len(torn)} of {count_of(len(held_out), 'group')} of test and validation cases "
        f"{'has' if len(torn) == 1 else 'have'} cases in another part too, such as {first!r} and "
        f"{second!r}, which may be of one patient: results would look too good; keep them together "
        f"with --group-pattern {shlex.quote(pattern)}"
    )


def groups_of(names: Sequence[str], settings: SplitSettings) -> dict[str, tuple[str, ...]]:
    """Cases by the name of their group: by pattern, by table, else each case a group of its own.

    >>> settings = SplitSettings(group_pattern=r"(lung\\d+)_.*")
    >>> groups_of(["lung001_1", "lung001_2", "lung003_1"], settings)
    {'lung001': ('lung001_1', 'lung001_2'), 'lung003': ('lung003_1',)}
    """
    if settings.group_pattern is not None and settings.groups_table is not None:
        raise RWLossError("expected --group-pattern or --groups-table, got both")
    if settings.group_pattern is not None:
        group_of = _by_pattern(names, settings.group_pattern)
    elif settings.groups_table is not None:
        group_of = _by_table(names, Path(settings.groups_table))
    else:
        group_of = {name: name for name in names}
    groups = defaultdict(list)
    for name in sorted(names):
        groups[group_of[name]].append(name)
    return {group: tuple(cases) for group, cases in groups.items()}


def _by_pattern(names: Sequence[str], pattern: str) -> dict[str, str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise RWLossError(
            f"--group-pattern {pattern!r} is not a regular expression: {error}"
        ) from error
    if regex.groups != 1:
        raise RWLossError(
            "expected --group-pattern with one group in parentheses, such as '(lung[0-9]+)_.*', "
            f"got {pattern!r} with {regex.groups}"
        )
    group_of = {}
    for name in names:
        match = regex.fullmatch(name)
        if match is None or match[1] is None:
            raise RWLossError(
                f"--group-pattern {pattern!r} does not match the case {name!r}: it must match "
                "whole names"
            )
        group_of[name] = match[1]
    return group_of


def _by_table(names: Sequence[str], path: Path) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RWLossError(f"cannot read --groups-table {str(path)!r}: {error}") from error
    if rows and [cell.strip() for cell in rows[0]] == ["case", "group"]:
        del rows[0]
    group_of: dict[str, str] = {}
    for row in rows:
        if len(row) != 2:
            raise RWLossError(f"{str(path)!r}: expected lines of case,group, got {','.join(row)!r}")
        case, group = (cell.strip() for cell in row)
        if group_of.setdefault(case, group) != group:
            raise RWLossError(
                f"{str(path)!r}: case {case!r} is in two groups, {group_of[case]!r} and {group!r}"
            )
    if unknown := sorted(group_of.keys() - set(names)):
        raise RWLossError(f"{str(path)!r}: there is no case {some(unknown)} in the dataset")
    if missing := sorted(set(names) - group_of.keys()):
        raise RWLossError(f"{str(path)!r}: no group for case {some(missing)}")
    return group_of


def _without_test(groups: Mapping[str, Sequence[str]], test: Sequence[str]) -> list[str]:
    """Groups of the training folder. No patient of the test folder may be among them."""
    tested = {group for group, cases in groups.items() if set(cases) & set(test)}
    if shared := sorted(group for group in tested if set(groups[group]) - set(test)):
        raise RWLossError(
            f"group {some(shared)} has cases in labelsTr and in labelsTs: move them to one side, "
            "or draw the test part with --test-part split"
        )
    return sorted(groups.keys() - tested)


def _share(fraction: float, count: int) -> int:
    """How many of `count` groups a fraction is: at least one, unless it is 0."""
    return 0 if fraction == 0 else max(1, round(fraction * count))


def _cases(groups: Mapping[str, Sequence[str]], chosen: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(case for group in chosen for case in groups[group]))


def _rule(settings: SplitSettings) -> str:
    if settings.group_pattern is not None:
        return f"the pattern {settings.group_pattern!r}"
    if settings.groups_table is not None:
        return f"the table {settings.groups_table!r}"
    return "case"
