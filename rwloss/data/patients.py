"""Recognize patients by case names: a patient in several parts of a split makes results too
good."""

from __future__ import annotations

import itertools
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence

from rwloss.data.splits import Split, SplitSettings, groups_by_pattern
from rwloss.words import count_of

_DATE = "(?:19|20)[0-9]{2}[._-]?(?:0[1-9]|1[0-2])[._-]?(?:0[1-9]|[12][0-9]|3[01])"
_SIDE = "(?i:left|right|pre|post|[lr])"
_PART = "(?i:slice|frame|patch|visit|scan|session|ses|time|tp|[sfvtpr])[._-]?[0-9]+"
_NUMBER = f"(?:{_DATE}|[0-9]+)"
# What identifies a patient in a name: words up to a date or a side; or up to the first number, that
# of the patient, subject or case if there is one, before a side, a part or a letter, or with the
# letters and numbers up to the next separator.
_PATIENT = (
    f"[^0-9]+(?=[._-](?:{_DATE}|{_SIDE})$)"
    f"|(?:.*?(?i:patient|subject|case|sub|pat|pt))?[^0-9]*{_NUMBER}"
    f"(?:(?=(?:{_SIDE}|{_PART}|[A-Za-z])?(?:[._-].*)?$)|[^._-]*(?=[._-]))"
)


def patient_pattern(names: Sequence[str]) -> str:
    """A --group-pattern that keeps together names that may belong to one patient.

    A number with which all names begin, as in BraTS20_Training_001, is not a patient's.

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
    groups = {
        *zip(*(groups_by_pattern(names, each).values() for each in (simple, whole)), strict=True)
    }
    is_same = all(len(groups) == len({*each}) for each in zip(*groups, strict=True))
    return simple if is_same else whole


def leaked(split: Split, settings: SplitSettings) -> str:
    """A warning if cases that may belong to one patient are in several parts; else "".

    Judged by names: lung003_1 and lung003_4 differ only after their first number. No warning if the
    user has grouped the cases.

    >>> leaked(Split(("lung003_1",), (), ("lung003_4", "lung007_1"), ""), SplitSettings())[:65]
    '1 of 2 groups of test and validation cases has cases in another p'
    """
    if settings.group_pattern is not None or settings.groups_table is not None:
        return ""
    pattern = patient_pattern([*split.train, *split.validation, *split.test])
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for part in ("train", "validation", "test"):
        for name, group in groups_by_pattern(getattr(split, part), pattern).items():
            parts[group].setdefault(part, name)
    held_out = [names for names in parts.values() if names.keys() - {"train"}]
    torn = [names for names in held_out if len(names) > 1]
    if not torn or len(parts) == 1:
        return ""
    first, second = list(torn[0].values())[:2]
    fix = (
        f"keep them together with --group-pattern {shlex.quote(pattern)}"
        if settings.splits_file is None
        else f"name them in one part of {settings.splits_file!r}"
    )
    return (
        f"{len(torn)} of {count_of(len(held_out), 'group')} of test and validation cases "
        f"{'has' if len(torn) == 1 else 'have'} cases in another part too, such as {first!r} and "
        f"{second!r}, which may belong to one patient: results would look too good; {fix}"
    )
