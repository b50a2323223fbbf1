"""Labels and map as one tensor, which transforms move like an image, and which tells how it moved.

Channels of one image, (m *s) float32:

    0          where each voxel was when the map was made: its coordinates modulo 251, a byte each
    1..c       labels, c = 1; or c overlapping masks
    then       compact: value at the true class (c), and at the others (c); else values (k)
    last       the same number everywhere, which says what the map is of: see `Stamp`

The first channel is what makes augmentation safe. Flips, quarter turns and crops leave a grid in
it that steps one way along each axis. Nothing else does: not interpolation, elastic deformation by
the nearest voxel, padding, blurring or noise. So no list of allowed transforms is needed, and a
transform that leaves no trace in MONAI's metadata is noticed too. (Modulo a prime, because an image
of 256 voxels that goes on at its other side would be a grid modulo 256.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwloss.errors import RWLossError
from rwloss.integrations.monai.spacing import kept_its_spacing
from rwloss.integrations.monai.stamp import Stamp, stamps_of
from rwloss.rwmap import RWMap

_CYCLE = 251


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of packed maps, taken apart.

    labels (b c *s) as they were given. parts: compact `true` and `other` (b c *s), or dense
    `values` (b k *s) for c = 1.
    """

    labels: Tensor
    true: Tensor | None = None
    other: Tensor | None = None
    values: Tensor | None = None

    def without_first_mask(self) -> Packed:
        """The same without the first of several masks."""
        assert self.true is not None
        assert self.other is not None
        return Packed(self.labels[:, 1:], self.true[:, 1:], self.other[:, 1:])

    def rwmap(self, labels: Tensor, num_classes: int) -> RWMap:
        """The map, of these labels (b c *s): whole, and -1 where ignored. -> labels (b·c *s)."""
        if self.values is not None:
            return RWMap.from_dense(labels[:, 0], self.values)
        assert self.true is not None
        assert self.other is not None
        return RWMap.compact(
            labels.flatten(0, 1),
            num_classes,
            true=self.true.flatten(0, 1),
            other=self.other.flatten(0, 1),
        )


def pack(labels: Tensor, rwmap: RWMap, stamp: Stamp) -> Tensor:
    """A map with the labels or masks it is of. labels (c *s), map of labels (c *s) -> (m *s)."""
    where = positions(labels.shape[1:], labels.device)[None]
    channels = [where, labels, *_parts(rwmap), torch.full_like(where, stamp.number)]
    return torch.cat([torch.as_tensor(part).to(labels.device, torch.float32) for part in channels])


def unpack(packed: Tensor, num_classes: int, masks: int = 0) -> Packed | None:
    """Labels and map from packed ones, or None where the channels are not those. (b m *s).

    masks: how many overlapping masks there are, 0 for class labels.
    """
    c, channels = masks or 1, packed.shape[1]
    if channels == 2 + 3 * c:  # two classes are always compact
        labels, true, other = packed[:, 1:-1].chunk(3, dim=1)
        return Packed(labels, true, other)
    if not masks and num_classes > 2 and channels == 3 + num_classes:
        return Packed(packed[:, 1:2], values=packed[:, 2:-1])
    return None


def positions(size: torch.Size, device: torch.device) -> Tensor:
    """Coordinates of each voxel modulo 251, a byte each. -> (*s), int32."""
    total = torch.zeros((), dtype=torch.int32, device=device)
    for axis, length in enumerate(size):
        steps = torch.arange(length, dtype=torch.int32, device=device) % _CYCLE
        total = total + (steps << 8 * axis).reshape(-1, *[1] * (len(size) - axis - 1))
    return total


def kept_its_grid(packed: Tensor, *, thinned: bool = False) -> Tensor:
    """Whether each image was only mirrored, turned by 90° and cropped. (b m *s) -> (b), boolean.

    thinned: it may also have lost every second voxel or more, as for deep supervision.
    """
    code = packed[:, 0].float()
    code = code.reshape(*code.shape, *[1] * (4 - code.ndim))  # (b x y z)
    # In a grid every byte changes along one axis at most, so three edges give all the rest.
    edges = [_edge(code, axis) for axis in (1, 2, 3)]
    corner = edges[0][:, :1]
    x, y, z = edges[0], edges[1] ^ corner, edges[2] ^ corner
    grid = x[:, :, None, None] ^ y[:, None, :, None] ^ z[:, None, None, :]
    same = (grid == code).flatten(1).all(dim=1)
    # Lines of voxels are few, and NumPy is quicker with few.
    lines = [edge.cpu().numpy() for edge in edges]
    # fits[i][j] (b): coordinate i steps one way along axis j of the array, and along no other.
    changes = [[np.diff(line >> 8 * i & 255, axis=1) % _CYCLE for line in lines] for i in range(3)]
    still = [[(steps == 0).all(axis=1) for steps in along] for along in changes]
    fits = [
        [
            _one_way(changes[i][j], thinned)
            & np.all([still[i][k] for k in {0, 1, 2} - {j}], axis=0)
            for j in range(3)
        ]
        for i in range(3)
    ]
    orders = [
        np.all([fits[i][j] for i, j in enumerate(order)], axis=0)
        for order in permutations(range(3))
    ]
    return same & torch.from_numpy(np.any(orders, axis=0)).to(same.device)


# In a compiled loss it is not called; where a graph breaks before it, it is no work for another.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def refuse_if_warped(packed: Tensor, *, may_be_thinned: bool = False) -> None:
    """Raise RWLossError for a batch (b m *s) with a map that was not moved by whole voxels.

    may_be_thinned: deep supervision may have taken it to a lower resolution, by the nearest voxel.
    Transforms can do the same, but note it in the affine, and are refused.
    """
    plain = packed.as_subclass(Tensor)
    if plain.dtype not in {torch.float32, torch.float64}:
        raise RWLossError(f"expected a map in float32, got {plain.dtype}: keep the map in float32")
    kept = kept_its_grid(plain)
    if may_be_thinned and not bool(kept.all()) and kept_its_spacing(packed):
        kept = kept_its_grid(plain, thinned=True)
    if not bool(kept.all()):
        raise RWLossError(
            f"the map of image {int((~kept).nonzero()[0])} of the batch was resampled, padded or "
            "changed in value: a map follows flips, turns by 90° and crops only. Put the same "
            "RWMapd once more behind such transforms: it makes the map anew where they acted; or "
            "leave the map out, and the loss makes it from the label"
        )
    if not all(stamp.digest for stamp in stamps_of(plain)):
        raise RWLossError(
            "the last channel of the map, which says what it is of, was changed in value: keep the "
            "map in float32, and its values as they are"
        )


def _edge(code: Tensor, axis: int) -> Tensor:
    """The first line of voxels along an axis, as whole numbers. (b x y z) -> (b n), int32."""
    for other in {1, 2, 3} - {axis}:
        code = code.narrow(other, 0, 1)
    return code.flatten(1).nan_to_num(-1, -1, -1).clamp(-1, 2**24).to(torch.int32)


def _one_way(steps: NDArray[Any], thinned: bool) -> NDArray[Any]:
    """Whether a coordinate goes on by one voxel at a time, up or down. (b n) -> (b)."""
    found = np.zeros(len(steps), dtype=bool)
    for way in (steps, (_CYCLE - steps) % _CYCLE):
        found |= (way == 1).all(axis=1)
        if thinned:  # a zoom by the nearest voxel leaves out one here and there
            found |= ((way > 1) & (way <= _CYCLE // 2)).all(axis=1)
    return found


def _parts(rwmap: RWMap) -> list[Any]:
    """What a map of labels (c *s) holds: compact with two classes, however it was made."""
    if rwmap.is_compact:
        return [rwmap.true, rwmap.other]
    if rwmap.num_classes > 2:
        return [rwmap.values[0]]
    values, labels = torch.as_tensor(rwmap.values), torch.as_tensor(rwmap.labels)
    true = labels.long().clamp_min(0)[:, None]  # of ignored voxels both values are 0
    return [values.gather(1, true)[:, 0], values.gather(1, 1 - true)[:, 0]]
