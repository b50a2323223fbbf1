"""Lovász-softmax: the Jaccard loss of each class, made convex in the mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from einops import rearrange

from rwloss.maps.generator import MapTags
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class LovaszSoftmax(LossTerm):
    """Σ e g with e = |y - p| and g the steps of the Jaccard loss as mistakes are added by size.

    The mean over images and classes. Among equal mistakes those at the true class come first, and
    the others share their steps alike, so that the map is the same in any order of the voxels (the
    published code takes them in the order of its sort; the loss is the same).

    classes: "present" takes the mean over the classes in the image, "all" over all: an absent class
    then costs its largest probability. The published code sums over the whole batch: batch=True.
    """

    classes: Literal["present", "all"] = "present"

    name = "lovasz_softmax"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = "Berman et al., The Lovász-Softmax Loss, CVPR 2018, arXiv 1705.08790 (Algorithm 1)"
    official_code = "https://github.com/bermanmaxim/LovaszSoftmax"
    used_by = ("smp LovaszLoss", "SegLossOdyssey LovaszSoftmax")

    def loss(self, prediction: Prediction) -> Tensor:
        """Lovász extension of the Jaccard loss. (b c)."""
        truth, masks = prediction.one_hot, prediction.masks
        wrong = (truth - prediction.probs).abs()
        images = max(1, len(truth) // masks) if prediction.batch else 1  # that are sorted as one
        rows = [
            rearrange(each, "(b n m) c ... -> (b m c) (n ...)", n=images, m=masks)
            for each in (wrong.detach(), truth > 0, prediction.counted.expand_as(truth) > 0)
        ]
        steps = rearrange(
            _steps(*rows), "(b m c) (n v) -> (b n m) c v", n=images, m=masks, c=truth.shape[1]
        )
        losses = prediction.pooled_sum(wrong * steps.reshape(wrong.shape))
        if self.classes == "all":
            return losses
        present = (prediction.pooled_sum(truth) > 0).to(losses.dtype)
        number = present.sum(dim=1, keepdim=True).clamp_min(1.0)
        return losses * present * (truth.shape[1] / number)


def _steps(wrong: Tensor, inside: Tensor, counted: Tensor) -> Tensor:
    """What each mistake adds to the Jaccard loss once all larger ones are made. (r v), all three.

    wrong: at least 0; inside: where the class is true. With i and o the mistakes inside and outside
    so far and n the voxels of the class, the loss is 1 - (n - i) / (n + o).
    """
    import torch

    def larger(among: Tensor, *, equal: bool) -> Tensor:
        """How many mistakes among these are larger, or as large."""
        ordered = torch.where(among, wrong, -1.0).sort(dim=1).values
        found = torch.searchsorted(ordered, wrong.contiguous(), right=not equal)
        return (wrong.shape[1] - found).to(wrong.dtype)

    size = inside.sum(dim=1, keepdim=True).to(wrong.dtype)
    outside = counted & ~inside
    before, after = larger(outside, equal=False), larger(outside, equal=True)
    left = size - larger(inside, equal=True)
    at_other = left / ((size + before) * (size + after)).clamp_min(1.0)
    # Of an absent class the first mistake is all of the loss.
    at_other = torch.where(size > 0, at_other, (before == 0) / after.clamp_min(1.0))
    return torch.where(inside, 1 / (size + before).clamp_min(1.0), at_other)
