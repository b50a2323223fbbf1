"""A map as one MetaTensor, which MONAI transforms like an image, with a record of its origin.

Channels of one image, (m *s) float32: labels (c), c = 1 or c overlapping masks; then compact, value
at the true class (c) and at the others (c), or dense, values (c·k). The record is in its `meta`.

A map may be flipped, rotated by 90° and cropped. `applied_operations` shows interpolation and
padding. Elastic deformation, noise and functions leave no record, so `meta` also holds the map's
`moves.fingerprints`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from rwloss.arrays import eager, to_numpy
from rwloss.data.spacing import spacing_from_affine
from rwloss.errors import RWLossError
from rwloss.moves import fingerprints, is_moved
from rwloss.regions import SpacingRows
from rwloss.rwmap import RWMap

# Keys of `meta`. Texts and bytes, because MONAI's collate leaves these as they are, in lists. The
# size is that of a batch that a loss has seen.
RECORD, FINGERPRINTS, SEEN_SIZE = "rwmap", "rwmap_fingerprints", "rwmap_seen_size"
KEEP_METADATA = (
    "The record is lost with MONAI's metadata: leave set_track_meta(True), and pass "
    "PersistentDataset(..., track_meta=True, weights_only=False)"
)


def pack(label: Tensor, rwmap: RWMap) -> tuple[Tensor, dict[str, Any]]:
    """Map and meta of a label (c *s) and its map, of labels (c *s) too. -> (m *s).

    The meta are the label's. The columns of its affine get the lengths of the map's spacing, so
    that they move with the map.
    """
    plain, size = label.as_subclass(Tensor), label.shape[1:]
    record = (str(rwmap.expression), rwmap.num_classes, len(label), rwmap.is_compact)
    channels = [torch.as_tensor(part).to(plain.device, torch.float32) for part in rwmap.parts]
    packed = torch.cat([plain.float(), *(part.flatten(0, -plain.ndim) for part in channels)])
    meta = copy.deepcopy(getattr(label, "meta", {}))
    meta |= {RECORD: json.dumps(record), FINGERPRINTS: fingerprints(packed)}
    if rwmap.spacing_mm:
        affine = to_numpy(getattr(label, "affine", np.eye(4))).copy()
        found = spacing_of(label, [1] * len(size)) or ((1.0,) * len(size),)
        affine[:, : len(size)] *= np.divide(rwmap.spacing_mm[0], found[0])
        meta["affine"] = torch.from_numpy(affine)
    return packed, meta


def is_map(tensor: Any) -> bool:
    """Whether a tensor has the record of a map."""
    return RECORD in getattr(tensor, "meta", {})


def spacing_of(tensor: Any, shape: Sequence[int]) -> SpacingRows | None:
    """Spacing in mm of a MetaTensor with this spatial shape, one row per affine; None without one.

    Raises RWLossError for axes that are not at right angles, unless they have one voxel.
    """
    affine, meta = getattr(tensor, "affine", None), getattr(tensor, "meta", {})
    if affine is None:
        return None
    affines = to_numpy(affine).reshape(-1, *affine.shape[-2:])
    units = np.resize(meta.get("xyzt_units", meta.get("space units", "mm")), len(affines))
    try:
        pairs = zip(affines, units.tolist(), strict=True)
        rows = tuple(spacing_from_affine(one, unit=unit, shape=shape) for one, unit in pairs)
    except RWLossError as error:
        raise RWLossError(f"{error}; if augmentation rotated it, pass spacing_mm") from error
    notes = getattr(tensor, "applied_operations", [])
    if notes and isinstance(notes[0], Mapping):
        notes = [notes] * len(rows)
    # If nothing moved the affine, the file gives the first size.
    size = None
    if np.array_equal(to_numpy(affine), to_numpy(meta.get("original_affine", []))):
        size = tuple(np.ravel(to_numpy(meta.get("spatial_shape", shape))).tolist()[: len(shape)])
    for row, of_image in zip(rows, notes, strict=False):
        turned = _turned(of_image, size, tuple(shape)) if len(set(row)) > 1 else ""
        if turned and max(shape) > 1:
            raise RWLossError(
                f"{turned}, but the affine did not follow: use Orientationd, or pass spacing_mm "
                "in the new order"
            )
    return rows


def _turned(notes: Sequence[Any], size: tuple[int, ...] | None, shape: tuple[int, ...]) -> str:
    """How axes were permuted without the affine, according to MONAI's records, or "".

    size: before the first of them, if known. A record holds the size before its transform, but for
    functions and `Transposed`, which leave the affine unchanged, the size after it.
    """
    order = np.arange(0)
    for note in notes:
        if not isinstance(note, Mapping):  # MONAI's word for none
            continue
        found, more = tuple(note.get("orig_size", ())), note.get("extra_info") or {}
        if "indices" in more:
            taken = np.argsort(np.argsort(more["indices"][1:]))
            order = order[taken] if len(order) == len(taken) else taken
            size = found
        elif size and size != found and sorted(size) == sorted(found):
            break
        elif "Lambda" in note["class"]:
            size = found
        elif re.search("Flip|Crop|Pad", note["class"]):
            size = tuple(np.add(found, _grown(note, len(found))).tolist())
        else:  # it may have changed the size, and the affine with it
            size = None
    else:
        found = shape
    if sorted(order) != list(order):
        return f"Transposed took the axes in the order {tuple(order.tolist())}"
    if size and size != found and sorted(size) == sorted(found):
        return f"the axes of size {size} became {found}"
    return ""


def _grown(note: Any, axes: int) -> NDArray[np.int_]:
    """Net voxels per axis that padding and cropping added. (axes)."""
    if not isinstance(note, Mapping):
        return np.zeros(axes, int)
    grown = sum((_grown(each, axes) for each in note.values()), np.zeros(axes, int))
    for key, sign in (("padded", 1), ("cropped", -1)):
        if key in note:
            grown += sign * np.reshape(note[key], (-1, 2))[-axes:].sum(1)
    return grown


# No graph can read values: a compiled loss comes back to Python for it.
@eager
def unpack(packed: Any) -> RWMap:
    """A batch of maps (b m *s) as one map, of labels (b·c *s) in float32 as given.

    Raises RWLossError for maps without their record, and for transforms other than flips, 90°
    rotations and crops; deep supervision may subsample a map that was seen before.
    """
    meta, plain = getattr(packed, "meta", {}), packed.as_subclass(Tensor)
    kept = [meta.get(RECORD, []), meta.get(FINGERPRINTS), getattr(packed, "applied_operations", [])]
    records, known, notes = kept if isinstance(kept[0], list) else ([one] for one in kept)
    if len(records) != len(plain):
        raise RWLossError(
            f"map {tuple(packed.shape)} with {len(records)} records: expected what "
            "RWMapd or LoadRWMapd made, in batches of MONAI's DataLoader or list_data_collate, or "
            f"an RWMap. {KEEP_METADATA}"
        )
    if packed.dtype not in {torch.float32, torch.float64}:
        raise RWLossError(f"expected a map in float32, got {packed.dtype}: keep the map in float32")
    size, full = list(packed.shape[2:]), meta.get(SEEN_SIZE, list(packed.shape[2:]))
    is_lower = size != full and all(map(int.__le__, size, full))
    for image, found in enumerate(plain):
        changes = [note["class"] for note in notes[image] if _changes_voxels(note)]
        fault = f"went through {changes[0]}" if changes else ""
        if records[image] != records[0]:
            fault = f"is of {records[image]}, that of image 0 of {records[0]}"
        elif not (fault or is_lower or is_moved(found, known[image])):
            fault = "was resampled or changed in value"
        if fault:
            raise RWLossError(
                f"the map of image {image} of the batch {fault}: a map follows flips, rotations "
                f"by 90° and crops only. Put the same RWMapd once more after other transforms; "
                f"or leave "
                "the map out, and the loss makes it from the label"
            )
    expression, num_classes, c, is_compact = json.loads(records[0])
    labels, values = plain[:, :c].flatten(0, 1), plain[:, c:]
    if is_compact:
        parts = tuple(rearrange(values, "b (p c) ... -> p (b c) ...", c=c))
    else:
        parts = (rearrange(values, "b (c k) ... -> (b c) k ...", c=c),)
    rows = tuple(row for row in spacing_of(packed, [1] * len(size)) or () for _ in range(c))
    return RWMap(labels, num_classes, parts, expression, rows or None)


def _changes_voxels(note: Any) -> bool:
    """Whether a record of MONAI, or one inside it, shows interpolation or padding."""
    if not isinstance(note, Mapping) or not note.get("do_transforms", True):
        return False
    changes = "mode" in note and bool(np.any(note.get("padded", True)))
    return changes or any(map(_changes_voxels, note.values()))
