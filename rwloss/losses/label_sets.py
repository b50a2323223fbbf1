"""Partial labels: a label that stands for one of several classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwloss.arrays import Array
from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.maps.loss_term import LossTerm
from rwloss.maps.registry import load, names
from rwloss.regions import IGNORED, checked_labels
from rwloss.words import listed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, repr=False)
class LabelSets:
    """Labels by number, and the classes that each allows.

    Set i becomes class K + i, whose probability is the sum of those of its classes (a marginal
    probability). Its voxels are a region of their own.
    """

    labels: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, given: Mapping[Any, Sequence[int]]) -> LabelSets:
        """From {label: classes}. Raises RWLossError for a set of no class, or one named twice.

        given: labels may be text, as in files of settings.
        """
        sets = {int(label): tuple(map(int, classes)) for label, classes in given.items()}
        for label, classes in sets.items():
            if not classes or len(set(classes)) < len(classes) or min(classes) < 0:
                raise RWLossError(
                    f"label_sets: label {label} allows {classes}: expected one class or more, each "
                    "once, such as {3: (1, 2)} for a label 3 that means class 1 or 2"
                )
        return cls(tuple(sets), tuple(sets.values()))

    def __repr__(self) -> str:
        """As they were given."""
        return repr(dict(zip(self.labels, self.classes, strict=True)))

    def __len__(self) -> int:
        """Number of label sets."""
        return len(self.labels)

    def check_terms(self, expression: Expression) -> None:
        """Raise RWLossError for a dynamic term that needs one class per voxel."""
        for leaf in expression.leaves(0, 1):
            term = leaf.term
            if term.is_static:
                continue
            if not isinstance(term, LossTerm) or not term.takes_label_sets:
                raise RWLossError(
                    f"{term} can't take label_sets, because it needs one class per voxel: use "
                    f"{listed(taking('takes_label_sets'))}, or a compact map such as rectified"
                )
            if term.takes_label_sets != "marginal" and not term.include_background:
                raise RWLossError(
                    f"{term} can't take label_sets, because a set may have the background in it: "
                    "drop include_background=False"
                )

    def as_table(self) -> dict[str, tuple[int, ...]]:
        """Classes by label, as files hold them."""
        return {str(k): classes for k, classes in zip(self.labels, self.classes, strict=True)}

    def names(self, class_names: Sequence[str]) -> list[str]:
        """What each set means, such as "kidney or tumor". class_names: of the classes."""
        return [" or ".join(class_names[k] for k in classes) for classes in self.classes]

    @property
    def members(self) -> set[int]:
        """Classes that some set allows."""
        return {k for classes in self.classes for k in classes}

    def check_fit(self, num_classes: int, ignore_label: int | None) -> None:
        """Raise RWLossError for a set with a class that does not exist, or of ignored voxels."""
        highest = max(self.members)
        if highest >= num_classes:
            raise RWLossError(
                f"label_sets name class {highest}, and there are {num_classes} classes: expected "
                f"classes of 0..{num_classes - 1}"
            )
        if ignore_label in self.labels:
            raise RWLossError(
                f"label_sets name the label {ignore_label}, whose voxels are ignored: drop one"
            )

    def renumbered(
        self,
        labels: Array,
        num_classes: int,
        ignore_label: int | None = None,
        check: Callable[[Array, int, int | None], Array] = checked_labels,
    ) -> Array:
        """Labels in which set i is num_classes + i, and -1 is ignored. (...), int64.

        check: what checks the labels that are no sets, as `checked_labels` does. Raises RWLossError
        as `check_fit` does; and for a label that is no class, no set, and not ignored: its number
        may be that of a set in the result.
        """
        self.check_fit(num_classes, ignore_label)
        plain = labels if _is_float(labels) else _as_int64(labels)
        places = [plain == label for label in self.labels]
        for there in places:
            plain = _filled(plain, there, 0)
        found = _as_int64(check(plain, num_classes, ignore_label))
        for number, there in enumerate(places, start=num_classes):
            found = _filled(found, there, number)
        return found

    def ignored(self, labels: Array) -> Array:
        """Labels in which every set is -1: which class such a voxel is, is not known. (...)."""
        found = whole = _as_int64(labels)
        for label in self.labels:
            found = _filled(found, whole == label, IGNORED)
        return found

    def extended(self, log_probs: Tensor) -> Tensor:
        """Logarithms of the probabilities of the classes, then of the sets. -> (b k+n *s)."""
        import torch

        of_sets = [log_probs[:, list(classes)].logsumexp(dim=1) for classes in self.classes]
        return torch.cat([log_probs, torch.stack(of_sets, dim=1)], dim=1)


def taking(what: str) -> list[str]:
    """Names of the losses that have `takes_label_sets` or `takes_soft_labels`."""
    found = (load(name) for name in names())
    return [each.name for each in found if issubclass(each, LossTerm) and getattr(each, what)]


# Not by the namespace of arrays, whose cache no compiled graph can hold.


def _as_int64(labels: Array) -> Array:
    return labels.astype(np.int64) if isinstance(labels, np.ndarray) else labels.long()


def _is_float(labels: Array) -> bool:
    kind = (
        labels.dtype.kind == "f" if isinstance(labels, np.ndarray) else labels.is_floating_point()
    )
    return bool(kind)


def _filled(values: Array, where: Array, value: int) -> Array:
    if isinstance(values, np.ndarray):
        return np.where(where, value, values)
    return values.masked_fill(where, value)
