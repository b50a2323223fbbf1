"""Mumford-Shah loss: each class has one gray value, and short borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwloss.maps.generator import MapTags
from rwloss.maps.limits import NonNegativeFloat
from rwloss.maps.loss_term import LossTerm, Prediction

if TYPE_CHECKING:
    from torch import Tensor


class MumfordShah(LossTerm):
    """Σ_i (x_i - c_ik)² p_k + length |∇p_k|, the mean over voxels that count, images and classes.

    x_i is channel i of the image, shifted and scaled to mean 0 and standard deviation 1 over the
    voxels that count; c_ik = Σ x_i p_k / Σ p_k is its mean in class k as predicted. |∇p| is the sum
    of |forward differences|, voxel to voxel, 0 towards voxels that don't count. The published loss
    is the sum over all voxels, of the image as it is.

    It does not look at the truth, so it is for images without labels too: add it, with a small
    weight, to a term that does.

    length: weight of |∇p|, 0.001 as published.
    """

    length: NonNegativeFloat = 0.001

    name = "mumford_shah"
    tags = MapTags(
        unit="unitless",
        commutes_with=frozenset({"flip", "rot90"}),
        uses_spacing=False,
        uses_image=True,
        stable_with_two=False,
        limits=(0.0, None),
    )
    citation = "Kim & Ye, Mumford-Shah Loss Functional, IEEE TIP 2019, arXiv 1904.02872 (eq. 11)"
    official_code = "https://github.com/jongcye/CNN_MumfordShah_Loss"
    takes_soft_labels = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Squared distance from the mean gray values and length, the mean over voxels. (b c)."""
        probs, counted = prediction.probs, prediction.counted
        axes = tuple(range(2, probs.ndim))
        image = prediction.image
        number = counted.sum(axes, keepdim=True).clamp_min(1.0)
        image = (image - (image * counted).sum(axes, keepdim=True) / number) * counted
        spread = (image**2).sum(axes, keepdim=True) / number
        image = image / spread.clamp_min(1e-12).sqrt()
        size = probs.detach().sum(axes, keepdim=True).clamp_min(1e-30)
        values = self.length * self._steps(prediction)
        for channel in image[:, :, None].unbind(dim=1):  # (b 1 *s) each
            # A constant: the loss is least at the mean, so its derivative by the mean is 0.
            mean = (channel * probs.detach()).sum(axes, keepdim=True) / size
            values = values + (channel - mean) ** 2 * probs
        return prediction.mean_space(values * counted)

    def _steps(self, prediction: Prediction) -> Tensor:
        """Σ |forward differences|, voxel to voxel. (b c *s)."""
        from torch.nn.functional import pad

        probs, counted = prediction.probs, prediction.counted
        steps = 0.0 * probs
        for axis in range(2, probs.ndim):
            size = probs.shape[axis]
            if size < 2:
                continue
            both = counted.narrow(axis, 1, size - 1) * counted.narrow(axis, 0, size - 1)
            after_last = [0, 0] * (probs.ndim - 1 - axis) + [0, 1]
            steps = steps + pad(probs.diff(dim=axis).abs() * both, after_last)
        return steps
