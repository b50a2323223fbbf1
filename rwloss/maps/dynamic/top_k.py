"""Top-k cross-entropy: the mean over the hardest voxels alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from einops import rearrange, repeat

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import Limit
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class TopK(LossTerm):
    """-log p_t, the mean over the k percent of the voxels of each image where it is largest.

    The mean over images. Where some of several equal voxels are over, all of them weigh less. k:
    percent, 10 in nnU-Net; at least one voxel counts.

    nnU-Net takes the voxels of the whole batch: batch=True. The map is 0 at easy voxels; stable at
    the others.
    """

    k: Annotated[float, Limit(gt=0, le=100)] = 10.0

    name = "top_k"
    tags = MapTags(
        stable=True,
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        pull_exponent=0.0,
        limits=(0.0, None),
    )
    citation = "Wu et al., Bridging Category-level and Instance-level, 2016, arXiv 1605.06885"
    used_by = ("nnU-Net TopKLoss", "SegLossOdyssey TopKLoss")
    takes_soft_labels = True
    takes_label_sets = True

    def loss(self, prediction: Prediction) -> Tensor:
        """The mean of the largest costs of each image, the same for each of its classes. (b c)."""
        costs, masks = prediction.expected(lambda log_p: -log_p), prediction.masks
        if not costs.numel():
            return prediction.mean_by_true_class(costs)
        images = len(costs) // masks if prediction.batch else 1  # that are taken as one
        costs, counted = (
            rearrange(each, "(b n m) ... -> (b m) (n ...)", n=images, m=masks)
            for each in (costs, prediction.counted[:, 0])
        )
        number = (self.k / 100 * counted.sum(dim=1, keepdim=True)).floor().clamp_min(1.0)
        hardest = costs.detach().where(counted > 0, -1.0)
        ordered = hardest.sort(dim=1, descending=True).values
        least = ordered.gather(1, number.long() - 1)
        above, equal = (hardest > least).to(costs.dtype), (hardest == least) * counted
        left = number - above.sum(dim=1, keepdim=True)
        weight = above + equal * (left / equal.sum(dim=1, keepdim=True).clamp_min(1.0))
        means = (weight * costs).sum(dim=1) / number[:, 0]
        return repeat(means, "(b m) -> (b n m) c", n=images, m=masks, c=prediction.one_hot.shape[1])
