"""Geodesic label smoothing: cross-entropy with targets that are soft where the image is alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rwloss.arrays import eager, to_numpy
from rwloss.distance.geodesic import geodesic_distance
from rwloss.maps.generator import MapTags
from rwloss.maps.limits import Limit
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.maps.static.skeleton_recall import skeleton
from rwloss.regions import Regions

if TYPE_CHECKING:
    from torch import Tensor


class GeodesicSmoothing(LossTerm):
    """-Σ_k q_k log p_k with q = (1 - alpha) y + alpha g, the mean over voxels that count.

    g_k is 1 on the skeleton of class k and falls with the geodesic distance d from it, a path
    across edges of the image being long: exp(-d / mean d), scaled to [0, 1], the mean over the
    channels of the image; 0 for an absent class. g_0 is 1 - the mean g of the classes present. So
    Σ_k q_k is 1 with two classes alone.

    The paths are found by Dijkstra's algorithm on the CPU, once per Regions: seconds per million
    voxels and class. Needs scikit-image: pip install 'rwloss[skeleton]'.

    alpha: weight of g; 0 is cross-entropy.

    The least loss is above 0 where q is soft. Other classes are pulled up too, which violates the
    stability principle.
    """

    alpha: Annotated[float, Limit(ge=0, le=1)] = 0.1

    name = "geodesic_smoothing"
    # A skeleton leans to one side: no exact flips.
    tags = MapTags(
        unit="unitless",
        uses_image=True,
        stable_with_two=False,
        pull_exponent=0.0,
        limits=(0.0, None),
        ingredient="soft targets",
    )
    citation = (
        "Adiga Vasudeva et al., GeoLS, MIDL 2023 and MELBA 2025:007; geodesic distance as in "
        "GeodisTK with lambda = 1, exact"
    )
    official_code = "https://github.com/adigasu/GeoLS"
    needs_geometry: ClassVar[bool] = True

    def loss(self, prediction: Prediction) -> Tensor:
        """Cross-entropy with soft targets, its mean over voxels that count. (b c)."""
        truth = prediction.one_hot
        soft = prediction.tensor(_maps(prediction.regions)).to(truth.dtype)[:, -truth.shape[1] :]
        target = (1 - self.alpha) * truth + self.alpha * soft * prediction.counted
        return prediction.mean_true(-(target * prediction.log_probs).where(target > 0, 0.0))

    def prepare(self, regions: Regions) -> None:
        """Compute the geodesic maps."""
        _maps(regions)


@eager  # no compiled graph can hold a shortest path
def _maps(regions: Regions) -> NDArray[np.float32]:
    """g of each class. labels (b *s), image (b i *s) -> (b k *s), float32."""
    return regions.kept("geodesic_smoothing", lambda: _made(regions))


def _made(regions: Regions) -> NDArray[np.float32]:
    labels, images = to_numpy(regions.labels), to_numpy(regions.image)
    shape = (len(labels), regions.num_classes, *labels.shape[1:])
    soft = np.zeros(shape, dtype=np.float32)
    for image, there, spacing_mm, out in zip(
        images, labels, regions.spacings_mm, soft, strict=True
    ):
        present = [k for k in range(1, regions.num_classes) if (there == k).any()]
        for k in present:
            seeds = skeleton(there == k)
            out[k] = np.mean([_nearness(channel, seeds, spacing_mm) for channel in image], axis=0)
        out[0] = 1 - out[present].mean(axis=0) if present else 1
    return soft


def _nearness(
    channel: NDArray[Any], seeds: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[Any]:
    """exp(-d / mean d), scaled to [0, 1]: 1 at the seeds. (*s)."""
    spread = float(channel.std())
    distance = geodesic_distance(channel / spread if spread > 0 else channel, seeds, spacing_mm)
    near = np.exp(-distance / max(float(distance.mean()), 1e-30))
    low = near.min()
    return (near - low) / (1 - low) if low < 1 else near
