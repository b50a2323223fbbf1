"""How many classes a dataset has: as given, as dataset.json says, or as its labels show."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rwloss.data.cases import Case, Dataset
from rwloss.data.dataset_json import MAX_CLASSES
from rwloss.data.formats import read_labels
from rwloss.errors import RWLossError


def count_classes(
    dataset: Dataset,
    num_classes: int | None = None,
    *,
    ignore_label: int | None = None,
    labels: Iterable[int] | None = None,
) -> int:
    """The number of classes: as given, else as in dataset.json, else the largest label + 1.

    Every file is read for this, so that a case in which the last class is absent gets as many
    channels as the others.
    ignore_label: a label that is not a class; by default the dataset's own. labels: all that occur
    in the cases, if they are known already; else every case is read.

    Raises RWLossError for fewer than two classes, for a negative label, and where a lone 255 or
    65535 looks like a mask or an ignore label rather than like a class.

    >>> from rwloss.data import find, sample_dir
    >>> count_classes(find(sample_dir("lung_patches") / "labelsTr"))
    2
    """
    if num_classes is None:
        num_classes = dataset.num_classes
    if num_classes is None:
        ignored = dataset.ignore_label if ignore_label is None else ignore_label
        if labels is None:
            labels = _labels_of(dataset.cases)
        num_classes = _largest_label(dataset, set(labels) - {ignored}) + 1
    if num_classes < 2:
        raise RWLossError(
            f"expected two classes or more, got {num_classes} in {str(dataset.root)!r}: "
            "if every label is background, pass num_classes (--num-classes)"
        )
    return num_classes


def _labels_of(cases: Iterable[Case]) -> set[int]:
    """Every label that occurs. A case that can't be read is left out, unless none can."""
    seen: set[int] = set()
    unread: RWLossError | None = None
    for case in cases:
        try:
            seen |= set(np.unique(read_labels(case.labels).labels).tolist())
        except RWLossError as exc:  # reading the case again reports it; the others still count
            unread = exc
    if unread is not None and not seen:
        raise unread
    return seen


def _largest_label(dataset: Dataset, seen: set[int]) -> int:
    if seen and min(seen) < 0:
        raise RWLossError(
            f"{str(dataset.root)!r} holds the label {min(seen)}: labels are 0 or more; if these "
            f"voxels are to be ignored, pass ignore_label={min(seen)} (--ignore-label {min(seen)})"
        )
    largest = max(seen, default=0)
    if largest >= MAX_CLASSES:
        raise RWLossError(
            f"the labels reach {largest}: expected classes below {MAX_CLASSES}, not grey values or "
            "the numbers of objects; if these are classes, pass num_classes (--num-classes)"
        )
    if largest in {255, 65535} and largest - 1 not in seen:
        raise RWLossError(
            f"the labels are {_in_words(seen)}: if {largest} means 'ignore', pass "
            f"ignore_label={largest} (--ignore-label {largest}); if it is the foreground of a "
            f"mask, store it as 1; if there really are {largest + 1} classes, pass "
            f"num_classes={largest + 1} (--num-classes {largest + 1})"
        )
    return largest


def _in_words(labels: set[int]) -> str:
    first = sorted(labels)
    some = [*first[:4], "...", first[-1]] if len(first) > 6 else first
    return ", ".join(map(str, some))
