"""Partial labels: a label that stands for one of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.maps.expression import Expression
from rwloss.maps.loss_term import LossTerm
from rwloss.maps.registry import load, names
from rwloss.words import listed


@dataclass(frozen=True, repr=False)
class LabelSets:
    """Labels by number, and the classes that each allows.

    Set i becomes class K + i, whose probability is the sum of those of its classes (a marginal
    probability). Its voxels are a region of their own.
    """

    labels: tuple[int, ...]
    classes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, given: Mapping[int, Sequence[int]]) -> LabelSets:
        """From {label: classes}. Raises RWLossError for a set of no class, or one named twice."""
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

    def renumbered(self, labels: Tensor, num_classes: int) -> Tensor:
        """Labels in which set i is num_classes + i. (b *s), int64.

        Raises RWLossError for a set with a class that does not exist.
        """
        highest = max(max(classes) for classes in self.classes)
        if highest >= num_classes:
            raise RWLossError(
                f"label_sets name class {highest}, and the logits have {num_classes} classes: "
                f"expected classes of 0..{num_classes - 1}"
            )
        found = labels.long()
        for place, label in enumerate(self.labels):
            found = found.where(labels.long() != label, num_classes + place)
        return found

    def extended(self, log_probs: Tensor) -> Tensor:
        """Logarithms of the probabilities of the classes, then of the sets. -> (b k+n *s)."""
        of_sets = [log_probs[:, list(classes)].logsumexp(dim=1) for classes in self.classes]
        return torch.cat([log_probs, torch.stack(of_sets, dim=1)], dim=1)


def taking(what: str) -> list[str]:
    """Names of the losses that have `takes_label_sets` or `takes_soft_labels`."""
    found = (load(name) for name in names())
    return [each.name for each in found if issubclass(each, LossTerm) and getattr(each, what)]
