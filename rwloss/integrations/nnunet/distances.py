"""Distances of whole volumes that follow a patch through nnU-Net's augmentation.

The map of a patch does not know where a region ends outside of it; the distances of the whole
volume do. They are stored once, cropped with the patch, and resampled on the grid of nnU-Net's
spatial transform; the map is then computed from them and the labels of the augmented patch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rwloss import distance
from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.maps.expression import Expression
from rwloss.maps.static.boundary import Boundary
from rwloss.maps.static.rectified import Rectified
from rwloss.regions import Regions
from rwloss.store.manifest import labels_digest

# Singular values of a spatial transform in mm that differ more are no rotation with a zoom: a
# distance of 50 voxels would be wrong by more than half a voxel.
SIMILAR = 1.01


@dataclass(frozen=True)
class DistanceFolder:
    """Signed distances of preprocessed cases, float16 `.npy` (k z y x) in mm, with their peaks.

    Below 0 inside a class, above 0 outside, 0 everywhere for a class that is absent or fills the
    volume. spacing_mm: of the axes of a patch; with two of them each slice is a separate image.
    """

    folder: Path
    num_classes: int
    spacing_mm: tuple[float, ...]
    ignore_label: int | None

    def add(self, case: str, labels: NDArray[Any]) -> bool:
        """Store the distances of a case, labels (z y x), unless they exist. Returns whether it
        did."""
        digest = labels_digest(labels, self.spacing_mm)
        about = self.folder / f"{case}.json"
        if about.is_file():
            if json.loads(about.read_text())["labels_sha256"] == digest:
                return False
            about.unlink()  # written last: what has it is complete
        images = labels if len(self.spacing_mm) == 2 else labels[None]
        regions = Regions(images, self.num_classes, self.spacing_mm, self.ignore_label)
        signed = regions.signed_distances_mm()
        peaks = np.maximum(0, -signed.min(axis=tuple(range(2, signed.ndim))))  # (b k)
        values = signed.swapaxes(0, 1) if len(self.spacing_mm) == 2 else signed[0]
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / f"{case}.npy") as part:
            np.save(part, values.astype(np.float16))
        with whole_file(about) as part:
            part.write_text(json.dumps({"labels_sha256": digest, "peaks_mm": peaks.tolist()}))
        return True

    def read(self, case: str, box: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Distances (k *s) and peaks (k) in mm of a box, start and stop per axis of z, y, x.

        Outside the volume they are those of its nearest voxel. For a slice, without the z axis.
        """
        try:
            array = np.load(self.folder / f"{case}.npy", mmap_mode="r")
            peaks = torch.tensor(json.loads((self.folder / f"{case}.json").read_text())["peaks_mm"])
        except (OSError, ValueError, KeyError) as error:
            raise RWLossError(
                f"the distances of {case} in {self.folder} can't be read: {error}; remove the "
                f"folder, and the next training run recomputes them"
            ) from error
        cuts, pads = [], []
        for (start, stop), length in zip(box, array.shape[1:], strict=True):
            first, last = min(max(start, 0), length - 1), max(min(stop, length), 1)
            cuts.append(slice(first, last))
            pads.append((max(first - start, 0), max(stop - last, 0)))
        inside = np.asarray(array[(slice(None), *cuts)], dtype=np.float32)
        values = torch.from_numpy(np.pad(inside, [(0, 0), *pads], mode="edge"))
        if len(self.spacing_mm) == 2:
            return values[:, 0], peaks[box[0][0]]
        return values, peaks[0]


class Following:
    """A `SpatialTransform` of batchgeneratorsv2 that also transforms distances.

    regression_target: (k *s) in mm, and peaks (k), resampled linearly on the grid of image and
    labels, and scaled by its zoom. Half a voxel of a distance lies between the centers on both
    sides of a face, which no zoom changes. If the transform is not a rotation with one zoom in mm,
    such as a rotation of anisotropic voxels, no scale would be correct: the peaks are then 0, which
    means unknown.
    """

    def __init__(self, inner: Any, spacing_mm: Sequence[float]) -> None:
        """The transform, and the spacing of all axes of the patch."""
        self.inner, self.spacing_mm = inner, tuple(spacing_mm)

    def __call__(self, **data: Any) -> dict[str, Any]:
        """Image and segmentation from the inner transform, with the distances."""
        far, peaks = data.pop("regression_target"), data.pop("peaks")
        params = self.inner.get_parameters(**data)
        moved: dict[str, Any] = self.inner.apply(data, **params)
        if params["grid"] is None:
            far = self.inner._apply_to_image(far, **params)
        else:
            far, peaks = self._resampled(far, peaks, params)
        return moved | {"regression_target": far, "peaks": peaks}

    def _resampled(
        self, far: Tensor, peaks: Tensor, params: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        grid = params["grid"][None]
        far = functional.grid_sample(far[None], grid, padding_mode="border", align_corners=False)[0]
        scales = _scales(params["affine"], self.spacing_mm)
        if params["elastic_offsets"] is not None or max(scales) > SIMILAR * min(scales):
            return far, torch.zeros_like(peaks)
        scale = float(np.mean(scales))
        face = 0.5 * min(self.spacing_mm) * (scale - 1)
        size = (far.abs() * scale - face).clamp_min(0)
        return far.sign() * size, torch.where(peaks > 0, (peaks * scale - face).clamp_min(0), peaks)


def _scales(affine: NDArray[np.float64] | None, spacing_mm: Sequence[float]) -> list[float]:
    """How lengths in mm change along the principal axes of a transform of the last axes.

    affine: from voxels of the result to voxels of the source.
    """
    axes = 0 if affine is None else len(affine)
    still = [1.0] * (len(spacing_mm) - axes)
    if affine is None:
        return still
    mm = np.diag(spacing_mm[-axes:])
    return [*still, *np.linalg.svd(mm @ np.linalg.inv(affine) @ np.linalg.inv(mm))[1]]


class WholeRegions(Regions):
    """Regions of patches whose distances are those of the whole volumes.

    The patch's own distances are exact up to the distance to its border. Beyond that, a distance is
    at least that to the border, and at most the patch's own; in between, the volume's is used.

    far: signed distances (b k *s) of the volumes in mm, resampled. peaks: the largest depth of each
    class in its volume, (b k); 0 if unknown, so that only the patch is used.
    """

    far: Tensor
    peaks: Tensor

    @classmethod
    def of(cls, regions: Regions, far: Tensor, peaks: Tensor) -> WholeRegions:
        """These regions with the distances of their volumes."""
        made = cls.of_checked(
            regions.labels, regions.num_classes, regions.spacings_mm, regions.ignore_label
        )
        assert isinstance(made, WholeRegions)
        made.__dict__.update(far=far.to(torch.float32), peaks=peaks.to(torch.float32))
        return made

    @cached_property
    def depth_mm(self) -> Tensor:
        """Like that of `Regions` for whole images. (b *s), float32."""
        near: Tensor = super().depth_mm
        labels = self.labels.long()
        fills = (self.counts == labels[0].numel()).any(dim=1)
        edge = near.masked_fill(fills.reshape(-1, *[1] * (labels.ndim - 1)), torch.inf)
        far = self.far.gather(1, labels.clamp_min(0)[:, None])[:, 0]
        peak: Tensor = self.per_voxel(self.peaks)  # 0 where ignored
        return torch.where(peak > 0, torch.minimum(self._between(edge, far), peak), near)

    @cached_property
    def peak_depth_mm(self) -> Tensor:
        """Largest depth of each class in its volume. (b k), float32."""
        near: Tensor = super().peak_depth_mm
        return torch.where(self.peaks > 0, self.peaks, near)

    def signed_distances_mm(self, *, less_inside: bool = False) -> Tensor:
        """For every class, like those of `Regions` for whole images. (b k *s), float32."""
        near: Tensor = super().signed_distances_mm()
        counts = self.counts
        unknown = self._wide((counts == 0) | (counts == self.labels[0].numel()))
        size = self._between(near.abs().masked_fill(unknown, torch.inf), self.far)
        classes = torch.arange(self.num_classes, device=near.device)
        inside = self.labels[:, None] == self._wide(classes[None])
        signed = torch.where(inside, -size, size)
        found = torch.where(self._wide(self.peaks) > 0, signed, near)
        if less_inside:
            distance.lessen_inside(found, self.smallest_spacing_mm[:, None])
        return found

    def _between(self, near: Tensor, far: Tensor) -> Tensor:
        """Distances of 0 or more: from the patch if they are exact there, else from the volume."""
        border = self._border_mm()
        if far.ndim > border.ndim:
            border = border[:, None]
        return torch.minimum(near, torch.maximum(far.abs(), border))

    def _border_mm(self) -> Tensor:
        """Distance from each voxel to the nearest voxel center outside its patch. (b *s)."""
        size = self.labels.shape[1:]
        spacings = torch.tensor(self.spacings_mm, device=self.labels.device)  # (b axes)
        border = torch.full(self.labels.shape, torch.inf, device=self.labels.device)
        for axis, length in enumerate(size):
            steps = torch.arange(1, length + 1, device=self.labels.device)
            shape = [1] * len(size)
            shape[axis] = length
            steps = torch.minimum(steps, steps.flip(0)).reshape(1, *shape)
            mm = spacings[:, axis].reshape(-1, *[1] * len(size))
            border = torch.minimum(border, steps * mm)
        return border

    def _wide(self, values: Tensor) -> Tensor:
        """Values (b k), to broadcast with (b k *s)."""
        return values.reshape(*values.shape, *[1] * (self.labels.ndim - 1))


def check_follows(expression: Expression) -> None:
    """Raise RWLossError unless the static part uses only depths and distances."""
    static = expression.static_part
    if static is None:
        raise RWLossError(f"{expression} has no static map, so there are no distances to compute")
    for term in _terms(static):
        fits = (
            term.scope == "image" and not isinstance(term.weights, str)
            if isinstance(term, Rectified)
            else isinstance(term, Boundary)
            and (term.convention, term.normalize) in {("kervadec", "none"), ("valverde", "none")}
        )
        if not fits:
            raise RWLossError(
                f"{term} can't follow nnU-Net's augmentation, because it does not use only the "
                f"distances of the whole volume: rectified (scope 'image', no rule for "
                "weights) and boundary (kervadec or valverde, not normalized) can; train with "
                "nnUNetTrainerRW, which makes the map of each augmented patch"
            )


def _terms(expression: Expression) -> Iterable[Expression]:
    inside = expression.inside
    return [expression] if not inside else [t for part in inside for t in _terms(part)]
