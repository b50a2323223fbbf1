"""A map as one MetaTensor, which MONAI moves like an image, with a record of what it is.

Channels of one image, (m *s) float32: labels (c), c = 1 or c overlapping masks; then compact, value
at the true class (c) and at the others (c), or dense, values (c·k). The record is in its `meta`.

A map may be flipped, turned by 90° and cropped. What else MONAI notes in `applied_operations` is
refused by name. Some transforms leave no note (elastic deformation, noise), so the map also carries
fingerprints: of each three voxels in a row, along any axis and in either direction. Moves by whole
voxels bring no new rows of three; interpolation, deformation and padding do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from rwloss.arrays import eager
from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap

# Keys of `meta`. Texts and bytes, because MONAI's collate leaves these as they are, in lists.
RECORD, FINGERPRINTS, CHECKED_SIZE = "rwmap", "rwmap_fingerprints", "rwmap_checked_size"
KEEP_METADATA = (
    "The record is lost with MONAI's metadata: leave set_track_meta(True), and pass "
    "PersistentDataset(..., track_meta=True, weights_only=False)"
)
_MOST_FINGERPRINTS = 1 << 14
_MOST_CHECKED = 1 << 14  # voxels of one map that are looked at, per axis


@dataclass(frozen=True)
class MapRecord:
    """What a map is of. masks: the number of overlapping masks, 0 for class labels."""

    expression: str
    num_classes: int
    masks: int
    is_compact: bool

    def channels(self, *, sigmoid: bool) -> int:
        """The number of channels of an input that it fits, 0 for none. One mask has 2 classes."""
        if sigmoid:
            return self.masks or int(self.num_classes == 2)
        return 0 if self.masks > 1 else self.num_classes


@dataclass(frozen=True, eq=False)
class UnpackedMaps:
    """A batch of maps. labels (b c *s) as they were given; parts (b c *s), dense (b c k *s)."""

    labels: Tensor
    parts: tuple[Tensor, ...]
    records: list[MapRecord]

    def rwmap(self, labels: Tensor, num_classes: int) -> RWMap:
        """The map with checked labels (b c *s), or those of the last masks. -> labels (b·c *s)."""
        first = self.labels.shape[1] - labels.shape[1]
        found = (labels, *(part[:, first:] for part in self.parts))
        flat, *parts = (rearrange(part, "b c ... -> (b c) ...") for part in found)
        return RWMap(flat, num_classes, tuple(parts), self.records[0].expression)


def pack(labels: Tensor, rwmap: RWMap, *, masks: int) -> tuple[Tensor, dict[str, Any]]:
    """Map and meta of labels (c *s) and their map, of labels (c *s) too. -> (m *s)."""
    record = MapRecord(str(rwmap.expression), rwmap.num_classes, masks, rwmap.is_compact)
    tensors = (torch.as_tensor(part) for part in (labels, *rwmap.parts))
    channels = (part.to(labels.device, torch.float32) for part in tensors)
    packed = torch.cat([part.reshape(-1, *labels.shape[1:]) for part in channels])
    known = _fingerprints_of(packed).tobytes()
    return packed, {RECORD: json.dumps(asdict(record)), FINGERPRINTS: known}


def is_map(tensor: Any) -> bool:
    """Whether a tensor has a record that says it is a map."""
    return RECORD in getattr(tensor, "meta", {})


def spacing_of(tensor: Tensor, axes: int) -> Any:
    """Voxel spacing in mm per axis, from the affine of a MetaTensor, one row per image of a batch.

    None without an affine.
    """
    affine = getattr(tensor, "affine", None)
    if affine is None:
        return None
    affine = torch.as_tensor(affine, dtype=torch.float64).as_subclass(Tensor)
    return torch.linalg.vector_norm(affine[..., :-1, :axes], dim=-2).tolist()


# No graph can read values: a compiled loss comes back to Python for it.
@eager
def unpack(packed: Any, *, may_be_thinned: bool = False) -> UnpackedMaps:
    """A batch of maps (b m *s), taken apart.

    may_be_thinned: deep supervision may have taken it to a lower resolution, after it was unpacked
    at the full one. Raises RWLossError for maps without a record, and for those that were not moved
    by flips, turns and crops alone.
    """
    if not is_map(packed):
        raise RWLossError(
            f"map {tuple(packed.shape)} has no record of what it is: expected what RWMapd or "
            f"LoadRWMapd made, or an RWMap. {KEEP_METADATA}"
        )
    if packed.dtype not in {torch.float32, torch.float64}:
        raise RWLossError(f"expected a map in float32, got {packed.dtype}: keep the map in float32")
    meta, plain, size = packed.meta, packed.as_subclass(Tensor), list(packed.shape[2:])
    kept = meta[RECORD], meta[FINGERPRINTS], packed.applied_operations
    texts, known, notes = kept if isinstance(meta[RECORD], list) else ([one] for one in kept)
    if len(texts) != len(plain):
        raise RWLossError(
            f"{len(plain)} maps with the records of {len(texts)}: make batches of maps with "
            "MONAI's DataLoader or list_data_collate"
        )
    whole = meta.get(CHECKED_SIZE, size)
    thinned = may_be_thinned and size != whole and all(map(int.__le__, size, whole))
    for image, found in enumerate(plain):
        fault = _noted_fault([] if notes[image] == "none" else notes[image])
        rows = torch.from_numpy(np.frombuffer(known[image], np.int32).copy()).to(plain.device)
        if not fault and not thinned and _has_new_rows(found, rows):
            fault = "was resampled, padded or changed in value"
        if fault:
            raise RWLossError(
                f"the map of image {image} of the batch {fault}: a map follows flips, turns by 90° "
                "and crops only. Put the same RWMapd once more after other transforms: it makes "
                "the map again where they acted; or leave the map out, and the loss makes it from "
                "the label"
            )
    if not thinned:
        meta[CHECKED_SIZE] = size
    records = [MapRecord(**json.loads(text)) for text in texts]
    c = records[0].masks or 1
    labels, rest = plain[:, :c], plain[:, c:]
    if records[0].is_compact:
        return UnpackedMaps(labels, (rest[:, :c], rest[:, c:]), records)
    return UnpackedMaps(labels, (rearrange(rest, "b (c k) ... -> b c k ...", c=c),), records)


def _noted_fault(operations: Sequence[Mapping[str, Any]]) -> str:
    """What MONAI noted that a map does not follow, in words; "" if there is nothing.

    The note of a random transform holds those of what it did, and its keys say what that was. If it
    has none (Lambdad, ToTensord), the values must show it.
    """
    for operation in operations:
        extra = operation.get("extra_info") or {}
        inner = [extra] if "class" in extra else []
        inner += [extra[name] for name in ("crop_info", "pad_info") if name in extra]
        follows = (
            not extra
            or inner
            or "cropped" in extra
            or set(extra) in ({"axes"}, {"axes", "k"}, {"original_affine"})  # flips, turns
            or not np.any(extra.get("padded", 1))
        )
        if operation.get("do_transforms", True):
            fault = _noted_fault(inner) if follows else f"went through {operation['class']}"
            if fault:
                return fault
    return ""


def _fingerprints_of(packed: Tensor) -> NDArray[np.int32]:
    """The lowest fingerprints of a whole map, sorted; all if it has few. (m *s) -> (n)."""
    known = np.empty(0, dtype=np.int32)
    for rows in _rows_of_three(packed):
        for part in torch.split(rows.flatten(), 1 << 20):
            more = part.cpu().numpy()
            if len(known) == _MOST_FINGERPRINTS:
                more = more[more < known[-1]]
            both = np.sort(np.concatenate([known, more]))  # 100 times as fast as np.union1d
            known = both[np.diff(both, append=both[-1:] - 1) != 0][:_MOST_FINGERPRINTS]
    return known


def _has_new_rows(packed: Tensor, known: Tensor) -> bool:
    """Whether a map (m *s) has rows that the whole map does not have. known: sorted fingerprints.

    Of a large map it looks at every second line of voxels, or at fewer.
    """
    step = math.ceil((packed[0].numel() / _MOST_CHECKED) ** (1 / (packed.ndim - 2)))
    for rows in _rows_of_three(packed, step) if len(known) else ():
        found = rows[rows <= known[-1]]
        if not torch.equal(known[torch.searchsorted(known, found)], found):
            return True
    return False


def _rows_of_three(packed: Tensor, step: int = 1) -> Iterator[Tensor]:
    """A fingerprint of each three voxels in a row, the same from either end. (m *s) -> int32."""
    for axis in range(1, packed.ndim):
        lines = packed.movedim(axis, 1)[:, :, *[slice(None, None, step)] * (packed.ndim - 2)]
        bits = lines.float().contiguous().view(torch.int32)
        voxels = torch.zeros_like(bits[0])
        for channel in bits:
            voxels = _mixed(voxels + channel)
        yield _mixed(_mixed(voxels[:-2] + voxels[2:]) + voxels[1:-1])


def _mixed(bits: Tensor) -> Tensor:
    """A hash of each whole number. int32 -> int32."""
    for odd in (0x7FEB352D, 0x46AC68B5):
        bits = (bits ^ bits >> 15) * odd
    return bits ^ bits >> 16
