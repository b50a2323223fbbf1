"""Targets with fractions of classes: means of annotators, smoothed labels."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rwloss.arrays import fails, in_graphs
from rwloss.errors import RWLossError
from rwloss.losses.label_sets import taking
from rwloss.maps.expression import Expression
from rwloss.maps.loss_term import LossTerm
from rwloss.words import listed

SoftLabels: TypeAlias = Literal[False, True, "largest"]

_ROUNDING = 1e-2  # of bfloat16, and of fractions stored in 8 bits


def check_soft_terms(expression: Expression | None, soft: SoftLabels) -> None:
    """Raise RWLossError for a term that needs one class per voxel, unless `soft` is "largest"."""
    if soft == "largest":
        return
    terms = [None] if expression is None else [leaf.term for leaf in expression.leaves(0, 1)]
    for term in terms:
        if not takes_fractions(term):
            what = "a map is of labels, and" if term is None else f"{term}"
            raise RWLossError(
                f"{what} needs one class per voxel: soft_labels='largest' takes the class with the "
                "largest fraction for it (and spreads a compact map by the fractions); "
                f"{listed(taking('takes_soft_labels'))} take the fractions themselves"
            )


def takes_fractions(term: Expression | None) -> bool:
    """Whether a term takes fractions instead of one class per voxel."""
    return isinstance(term, LossTerm) and term.takes_soft_labels


def soft_classes(target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Classes with the largest fraction (b *s), and the checked fractions (b k *s) themselves.

    The first of equal ones. With `ignore_index`, that is the class of voxels of zeros.
    """
    if ignore_index is not None and 0 <= ignore_index < target.shape[1]:
        raise RWLossError(
            f"ignore_index={ignore_index} is a class, of which a voxel of soft labels has a "
            "fraction: mark ignored voxels by zeros in all channels, and give a number that is no "
            "class, such as ignore_index=-1"
        )
    fractions = checked_fractions(target, ignore_index is not None, False)
    labels = fractions.argmax(dim=1)
    if ignore_index is not None:
        labels = labels.where((fractions > 0).any(dim=1), ignore_index)
    return labels, fractions


def soft_masks(target: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Masks (b *s) of fractions above a half, and the fractions outside and inside. (b 2 *s)."""
    if ignore_index is not None and 0 <= ignore_index <= 1:
        raise RWLossError(
            f"ignore_index={ignore_index} is a fraction of a mask: mark ignored voxels by another "
            "number, such as -1"
        )
    known = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        known = target != ignore_index
    inside = target.where(known, 0.0)
    both = torch.stack([(1 - inside).where(known, 0.0), inside], dim=1)
    fractions = checked_fractions(both, ignore_index is not None, True)
    labels = (inside > 0.5).long()
    return labels if ignore_index is None else labels.where(known, ignore_index), fractions


@in_graphs("(Tensor fractions, bool may_be_empty, bool masks) -> Tensor")
def checked_fractions(fractions: Tensor, may_be_empty: bool, masks: bool) -> Tensor:
    """The fractions (b k *s), if they are 0 or more and sum to 1 over the classes of each voxel.

    Up to rounding; what is below 0 by it is 0 in the result. may_be_empty: or to 0. masks: they are
    of outside and inside.
    """
    total = fractions.sum(dim=1)
    sums_fit = (total - 1).abs() <= _ROUNDING
    if may_be_empty:
        sums_fit |= total == 0
    above = fractions >= -_ROUNDING
    if fails(above.all() & sums_fit.all(), "fractions of a voxel are below 0 or do not sum to 1"):
        if masks:
            found = float(fractions[:, 1][~above.all(dim=1)][0])
            raise RWLossError(
                f"expected masks of fractions from 0 to 1, got {found:g}: divide masks of 0 and "
                "255 by 255, clamp what was interpolated, and give ignored voxels as ignore_index"
            )
        value = float(fractions[~above][0] if not above.all() else total[~sums_fit][0])
        wrong = "a fraction of" if not above.all() else "fractions of one voxel that sum to"
        raise RWLossError(
            f"expected soft labels of 0 or more that sum to 1 over the classes of each voxel, got "
            f"{wrong} {value:g}: divide them by their sum; voxels without a class need ignore_index"
        )
    return fractions.clamp_min(0.0)
