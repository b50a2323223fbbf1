"""Generalized Dice loss: classes weighted by the inverse square of their size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from einops import rearrange, repeat

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class GeneralizedDice(LossTerm):
    """1 - (2 Σ_k w_k Σ p y + s) / (Σ_k w_k Σ (p + y) + s) with w_k = 1 / (Σ y_k)^power.

    The mean over images.

    power: of the size of a class in its weight; 2 is the papers' choice, 1 and 0 are "simple" and
    "uniform" in MONAI. absent: what an absent class weighs, where the formula is infinite: "zero",
    so that this term alone does not punish its false positives, or as much as the "largest" weight
    of the image (MONAI). smooth: s, added to both sums; smooth_nr: another number for the
    numerator. masks: "apart" takes each overlapping mask as a problem of its own (without its
    background that is plain Dice), "together" the masks of an image as its classes (MONAI). A map
    of `Regions.from_masks` takes them apart in any case.
    """

    power: NonNegativeFloat = 2.0
    absent: Literal["zero", "largest"] = "zero"
    smooth: NonNegativeFloat = 0.0
    masks: Literal["apart", "together"] = "apart"
    smooth_nr: NonNegativeFloat | None = None

    takes_overlap = True
    name = "generalized_dice"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        stable_with_two=True,
        pull_exponent=1.0,
        limits=(0.0, 1.0),
    )
    citation = (
        "Sudre et al., DLMIA 2017, arXiv 1707.03237; as in Kervadec et al., MIDL 2019, "
        "arXiv 1812.07032 (eq. 1)"
    )
    official_code = "https://github.com/NifTK/NiftyNet"
    used_by = ("MONAI GeneralizedDiceLoss", "SegLossOdyssey GDiceLoss")
    takes_soft_labels = True
    takes_label_sets = "marginal"

    def loss(self, prediction: Prediction) -> Tensor:
        """1 minus the generalized Dice of each image, the same for each of its classes. (b c)."""
        masks = prediction.masks if self.masks == "together" else 1
        num_classes = prediction.shape[1]
        both, predicted, true = (
            rearrange(sums, "(b m) c -> b (m c)", m=masks) for sums in prediction.overlap()
        )
        # Only ratios of weights count: relative to the largest class, powers stay in range.
        largest = true.amax(dim=1, keepdim=True).clamp_min(1.0)
        size = true / largest
        weight = (size > 0) / size.clamp_min(1e-12) ** self.power
        if self.absent == "largest":
            weight = weight.where(size > 0, weight.amax(dim=1, keepdim=True))
        scale = largest[:, 0] ** self.power
        smooth_nr = self.smooth if self.smooth_nr is None else self.smooth_nr
        above = 2 * (weight * both).sum(dim=1) + smooth_nr * scale
        below = (weight * (predicted + true)).sum(dim=1) + self.smooth * scale
        # An image in which no voxel counts has a denominator of 0: its loss is 0.
        some = below > 0
        losses = (1 - above / below.where(some, below.new_ones(()))) * some
        return repeat(losses, "b -> (b m) c", m=masks, c=num_classes)
