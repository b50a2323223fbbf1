"""The number of classes of a dataset: as given, from dataset.json, or from its labels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.data.cases import Case, Dataset
from rwloss.data.dataset_json import MAX_CLASSES
from rwloss.data.formats import read_labels
from rwloss.errors import RWLossError
from rwloss.losses.label_sets import LabelSets
from rwloss.words import listed

# A dataset with more classes than this has a dataset.json: more labels are something else.
_MOST_GUESSED = 200


def count_classes(
    dataset: Dataset,
    num_classes: int | None = None,
    *,
    ignore_label: int | None = None,
    labels: Collection[int] | None = None,
) -> int:
    """The number of classes: as given, else from dataset.json, else the largest label + 1.

    Every file is read for this, so that a case in which the last class is absent gets as many
    channels as the others.
    ignore_label: a label that is not a class; by default the dataset's own. labels: all that occur
    in the cases, if already known; else every case is read.

    Raises RWLossError for fewer than two classes or more than 65,536, for a negative label, for
    labels that look like a mask, gray values or object numbers, or have a gap, and, unless
    num_classes is given, if only one class is left besides the ignore label.

    dataset: of `find`.

    >>> from rwloss.data import find, sample_dir
    >>> count_classes(find(sample_dir("lung_patches") / "labelsTr"))
    2
    """
    ignored = dataset.ignore_label if ignore_label is None else ignore_label
    if num_classes is None:
        if labels is None and dataset.num_classes is None:
            labels = _labels_of(dataset.cases)
        if why := one_class_left(dataset, ignored, labels):
            raise RWLossError(f"{why}; if that is meant, pass num_classes (--num-classes)")
        num_classes = dataset.num_classes
    if num_classes is None:
        assert labels is not None
        seen = sorted(set(labels) - {ignored})
        if seen and seen[0] < 0:
            raise RWLossError(
                f"{str(dataset.root)!r} holds the label {seen[0]}: labels are 0 or more; to ignore "
                f"these voxels, pass ignore_label={seen[0]} (--ignore-label {seen[0]})"
            )
        _check_numbering(seen)
        num_classes = max(seen, default=0) + 1
    if num_classes < 2:
        raise RWLossError(
            f"expected two classes or more, got {num_classes} in {str(dataset.root)!r}: "
            "if every label is background, pass num_classes (--num-classes)"
        )
    if num_classes > MAX_CLASSES:
        raise RWLossError(f"expected at most {MAX_CLASSES} classes, got {num_classes}")
    return num_classes


def without_label_sets(dataset: Dataset, sets: LabelSets | None) -> Dataset:
    """The dataset with the classes of its dataset.json that are more than labels of sets.

    dataset: of `find`. sets: labels that mean one of several classes.
    """
    if sets is None or dataset.num_classes is None:
        return dataset
    k = dataset.num_classes
    while k - 1 in sets.labels and k - 1 not in sets.members:
        k -= 1
    unnamed = tuple(label for label in dataset.unnamed if label < k)
    return replace(dataset, num_classes=k, class_names=dataset.class_names[:k], unnamed=unnamed)


def one_class_left(
    dataset: Dataset, ignored: int | None, labels: Collection[int] | None = None
) -> str:
    """A note if all labels are of one class or ignored, or "".

    labels: as for `count_classes`; by default cases are read until two classes are found. dataset:
    of `find`. ignored: the label that is no class, if any.
    """
    if ignored is None:
        return ""
    if labels is not None:
        seen = set(labels)
    else:
        seen = set()
        for case in dataset.cases:
            with suppress(RWLossError):  # reading the case again reports it
                seen |= labels_in(read_labels(case.labels).labels)
            if len(seen - {ignored}) > 1:
                break
    left = seen - {ignored}
    if ignored not in seen or len(left) > 1:
        return ""
    if left <= {0} and ignored > 0:
        return (
            f"label {ignored} is ignored, and without it no voxel of {str(dataset.root)!r} is "
            f"foreground: if {ignored} is the foreground of a mask, store it as 1 and do not "
            "ignore it"
        )
    return (
        f"label {ignored} is ignored, and without it {str(dataset.root)!r} holds only label "
        f"{left.pop()}: a class can't be ignored if only one other is left"
    )


def labels_in(labels: NDArray[np.integer[Any]]) -> set[int]:
    """The labels that occur in (*s)."""
    low, high = int(labels.min()), int(labels.max())
    if low < -1 or high >= MAX_CLASSES or labels.dtype == np.uint64:
        return set(np.unique(labels).tolist())
    shift = int(low < 0)
    counts = np.bincount(labels.ravel("K") + shift)  # a tenth of the time of a sort
    return set((np.flatnonzero(counts) - shift).tolist())


def _labels_of(cases: Iterable[Case]) -> set[int]:
    """Every label that occurs. Unreadable cases are left out, unless all are unreadable."""
    seen: set[int] = set()
    unread: RWLossError | None = None
    for case in cases:
        try:
            seen |= labels_in(read_labels(case.labels).labels)
        except RWLossError as exc:  # reading the case again reports it; the others still count
            unread = exc
    if unread is not None and not seen:
        raise unread
    return seen


def _check_numbering(seen: Sequence[int]) -> None:
    """Refuse to guess the number of classes if sorted labels are not 0, 1, 2, ...

    The background may be absent, in crops.
    """
    known = [0, *(label for label in seen if label)]
    largest = known[-1]
    renumbered = [(old, new) for new, old in enumerate(known) if old != new]
    if not renumbered and largest < _MOST_GUESSED:
        return
    shown = [*known[:4], "...", largest] if len(known) > 6 else known
    if len(known) == 2:
        meaning = f"a mask: store its foreground as 1, not as {largest}"
    elif renumbered == [(largest, len(known) - 1)] and largest in {255, 65535} and len(seen) > 2:
        meaning = (
            f"classes with an ignored label: pass ignore_label={largest} (--ignore-label "
            f"{largest}); if {largest} is a class, number it as {len(known) - 1}"
        )
    elif len(known) > _MOST_GUESSED or 2 * len(known) <= largest:
        meaning = (
            "gray values (of an anti-aliased mask, say) or object numbers: store the class of "
            "each voxel, 0, 1, 2, ..."
        )
    else:
        changes = [f"{old} as {new}" for old, new in renumbered]
        meaning = f"classes with a gap: number {listed(changes[:5])}{', ...' * (len(changes) > 5)}"
    raise RWLossError(
        f"the labels are {', '.join(map(str, shown))}, which look like {meaning}"
        + (
            f"; if there really are {largest + 1} classes, pass num_classes={largest + 1} "
            f"(--num-classes {largest + 1})"
            if largest < MAX_CLASSES
            else ""
        )
    )
