"""Which cases train, validate and test, with the cases of one patient together."""

from __future__ import annotations

import csv
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.files.journal import read_regular
from rwloss.files.toml import TomlSettings
from rwloss.words import count_of, listed, some

Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class SplitSettings(TomlSettings):
    """How cases are split into training, validation and test cases.

    A fraction is a fraction of the groups of cases. With `folds`, one of that many parts of equal
    size is for validation, instead of `validation_fraction`.
    """

    test_part: Literal["auto", "folder", "split"] = Field(
        "auto",
        description="test cases: imagesTs and labelsTs (folder), drawn from the training folder "
        "(split), or the folder if there is one (auto)",
    )
    test_fraction: Fraction = Field(0.2, description="fraction of the cases to use for testing")
    validation_fraction: Fraction = Field(
        0.2,
        description="fraction of the other cases to use for validation, which selects the "
        "checkpoint",
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None, description="number of folds for cross-validation, instead of the fraction"
    )
    fold: Annotated[int, Field(ge=0)] | None = Field(
        None, description="fold to use for validation, counted from 0"
    )
    group_pattern: str | None = Field(
        None,
        description="keep cases together if the part of their names in parentheses is the same, "
        'as in "(lung[0-9]+)_.*"; by default each case is a group',
    )
    groups_table: str | None = Field(
        None, description="CSV file with one line case,group per case, instead of a pattern"
    )
    splits_file: str | None = Field(
        None,
        description="JSON file that names the cases of each part, instead of drawing them: train, "
        "val and test, as in nnU-Net's splits_final.json",
    )
    split_seed: Seed = Field(
        0, description="seed of the split; runs with different seeds share one split"
    )
    train_cases: PositiveInt | None = Field(
        None,
        description="number of training cases to keep; a larger number keeps the same ones and "
        "more; by default all",
    )


@dataclass(frozen=True)
class Split:
    """Names of the cases of each part, sorted, and how they were made, in words.

    No group has cases in two parts. The checkpoint is selected only on `validation`, and `test` is
    used once, at the end. digests: of the content of each case that has been read.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    made_by: str
    digests: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the split as JSON, atomically."""
        with whole_file(path) as part:
            part.write_bytes(TypeAdapter(Split).dump_json(self, indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Split:
        """Read the split of a run. Raises RWLossError for an unreadable file."""
        try:
            return TypeAdapter(cls).validate_json(read_regular(path))
        except (OSError, ValueError) as error:
            raise RWLossError(f"cannot read the split {str(path)!r}: {error}") from error

    def changed(self, now: Split) -> list[str]:
        """Cases of both whose content has changed."""
        return [
            name for name, digest in self.digests.items() if now.digests.get(name, digest) != digest
        ]


SplitPart = Literal["train", "validation", "test"]


def split(
    names: Sequence[str], settings: SplitSettings, *, test_names: Sequence[str] | None = None
) -> Split:
    """Split cases by name. The split depends only on the names and the settings of splits.

    test_names: cases that are the whole test part (imagesTs, labelsTs); the others are then for
    training and validation. A fraction is one of groups, rounded, of at least one group; with
    folds, fold f validates on every folds-th of the shuffled groups, and each group validates once.
    With train_cases, the first ones of the shuffled groups are kept for training: those of a
    smaller number are among those of a larger one, and the other parts are the same.

    With splits_file, the parts come from the file, and cases that it does not name are not used.

    Raises RWLossError if there are too few groups, a case is in two groups or in none, or a name is
    in both parts of the dataset, and for a file without a split of these cases.
    """
    rng = random.Random(settings.split_seed)
    if settings.splits_file is not None:
        return _from_file(names, settings, test_names or ())
    if settings.fold is not None and settings.folds is None:
        raise RWLossError(f"--fold {settings.fold} needs --folds, the number of folds")
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
    kept = _kept(train, settings)
    if settings.train_cases is not None:
        made_by += f", {len(kept)} of {len(train)} training cases kept"
    return Split(
        train=kept,
        validation=_cases(groups, validation_groups),
        test=test,
        made_by=f"{made_by}; groups by {_rule(settings)}, split seed {settings.split_seed}",
    )


class _SplitOfFile(BaseModel):
    """One split of a file; val as in nnU-Net's splits_final.json, validation as in a run's."""

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = Field(validation_alias=AliasChoices("validation", "val"))
    test: tuple[str, ...] | None = None


def _from_file(names: Sequence[str], settings: SplitSettings, test_names: Sequence[str]) -> Split:
    """The split that settings.splits_file names; its test part is test_names if it has none."""
    where = f"--splits-file {settings.splits_file!r}"
    if settings.folds is not None:
        raise RWLossError(f"{where} has its own folds: give --fold without --folds")
    try:
        text = Path(settings.splits_file or "").read_bytes()
        found = TypeAdapter(_SplitOfFile | list[_SplitOfFile]).validate_json(text)
    except OSError as error:
        raise RWLossError(f"cannot read {where}: {error}") from error
    except ValidationError as error:
        raise RWLossError(
            f"cannot read {where}: expected JSON with the lists train (not empty), val and, if "
            "cases are kept for testing, test; or a list of such objects, one per fold"
        ) from error
    if isinstance(found, list):
        if settings.fold is None or settings.fold >= len(found):
            raise RWLossError(
                f"{where} has {count_of(len(found), 'fold')}: expected --fold of 0 to "
                f"{len(found) - 1}, got {settings.fold}"
            )
        found = found[settings.fold]
    elif settings.fold is not None:
        raise RWLossError(f"{where} has one split and no folds: leave out --fold")
    parts = {
        "train": found.train,
        "validation": found.validation,
        "test": tuple(test_names) if found.test is None else found.test,
    }
    part_of: dict[str, str] = {}
    for part, cases in parts.items():
        for case in cases:
            if (other := part_of.setdefault(case, part)) != part:
                raise RWLossError(f"{where}: case {case!r} is in {other} and in {part}")
    if unknown := sorted(part_of.keys() - {*names, *test_names}):
        raise RWLossError(f"{where}: there is no case {some(unknown)} in the dataset")
    for group, cases in groups_of(sorted(part_of), settings).items():
        if len(torn := sorted({part_of[case] for case in cases})) > 1:
            raise RWLossError(f"{where}: group {group!r} has cases in {listed(torn)}")
    train = sorted(set(found.train))
    random.Random(settings.split_seed).shuffle(train)
    kept = _kept(train, settings)
    left_out = len({*names, *test_names} - part_of.keys()) + len(train) - len(kept)
    fold = "" if settings.fold is None else f", fold {settings.fold}"
    return Split(
        train=kept,
        validation=tuple(sorted({*parts["validation"]})),
        test=tuple(sorted({*parts["test"]})),
        made_by=f"the file {settings.splits_file!r}{fold}; {count_of(left_out, 'case')} not used",
    )


def _kept(train: Sequence[str], settings: SplitSettings) -> tuple[str, ...]:
    """The first --train-cases of the training cases, in the order in which they were drawn."""
    if (settings.train_cases or 0) > len(train):
        raise RWLossError(
            f"--train-cases {settings.train_cases} is too large: the split leaves "
            f"{count_of(len(train), 'case')} for training"
        )
    return tuple(sorted(train[: settings.train_cases]))


def groups_of(names: Sequence[str], settings: SplitSettings) -> dict[str, tuple[str, ...]]:
    """Cases by the name of their group: by pattern, by table, else each case is its own group.

    >>> settings = SplitSettings(group_pattern=r"(lung\\d+)_.*")
    >>> groups_of(["lung001_1", "lung001_2", "lung003_1"], settings)
    {'lung001': ('lung001_1', 'lung001_2'), 'lung003': ('lung003_1',)}
    """
    if settings.group_pattern is not None and settings.groups_table is not None:
        raise RWLossError("expected --group-pattern or --groups-table, got both")
    if settings.group_pattern is not None:
        group_of = groups_by_pattern(names, settings.group_pattern)
    elif settings.groups_table is not None:
        group_of = _by_table(names, Path(settings.groups_table))
    else:
        group_of = {name: name for name in names}
    groups = defaultdict(list)
    for name in sorted(names):
        groups[group_of[name]].append(name)
    return {group: tuple(cases) for group, cases in groups.items()}


def groups_by_pattern(names: Sequence[str], pattern: str) -> dict[str, str]:
    """The group of each case: what the one pair of parentheses of the pattern matches."""
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
    """Groups of the training folder, which must not include a patient of the test folder."""
    tested = {group for group, cases in groups.items() if set(cases) & set(test)}
    if shared := sorted(group for group in tested if set(groups[group]) - set(test)):
        raise RWLossError(
            f"group {some(shared)} has cases in labelsTr and in labelsTs: move them to one side, "
            "or draw the test part with --test-part split"
        )
    return sorted(groups.keys() - tested)


def _share(fraction: float, count: int) -> int:
    """The number of groups for a fraction of `count`: at least one, unless the fraction is 0."""
    return 0 if fraction == 0 else max(1, round(fraction * count))


def _cases(groups: Mapping[str, Sequence[str]], chosen: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(case for group in chosen for case in groups[group]))


def _rule(settings: SplitSettings) -> str:
    if settings.group_pattern is not None:
        return f"the pattern {settings.group_pattern!r}"
    if settings.groups_table is not None:
        return f"the table {settings.groups_table!r}"
    return "case"
