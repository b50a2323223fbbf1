"""A map as one MetaTensor, which MONAI moves like an image, with a record of what it is.

Channels of one image, (m *s) float32: labels (c), c = 1 or c overlapping masks; then compact, value
at the true class (c) and at the others (c), or dense, values (c·k). The record is in its `meta`.

A map may be flipped, turned by 90° and cropped. `applied_operations` tells of interpolation and
padding. Elastic deformation, noise and functions leave no note, so `meta` also holds the map's
`moves.fingerprints`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from rwloss.arrays import eager
from rwloss.data.spacing import mm_per_unit, spacing_from_affine
from rwloss.errors import RWLossError
from rwloss.moves import fingerprints, is_moved
from rwloss.rwmap import RWMap

# Keys of `meta`. Texts and bytes, because MONAI's collate leaves these as they are, in lists.
RECORD, FINGERPRINTS, SEEN_SIZE = "rwmap", "rwmap_fingerprints", "rwmap_seen_size"
KEEP_METADATA = (
    "The record is lost with MONAI's metadata: leave set_track_meta(True), and pass "
    "PersistentDataset(..., track_meta=True, weights_only=False)"
)


def pack(labels: Tensor, rwmap: RWMap) -> tuple[Tensor, dict[str, Any]]:
    """Map and meta of labels (c *s) and their map, of labels (c *s) too. -> (m *s)."""
    record = (str(rwmap.expression), rwmap.num_classes, len(labels), rwmap.is_compact)
    channels = [torch.as_tensor(part).to(labels.device, torch.float32) for part in rwmap.parts]
    packed = torch.cat([labels.float(), *(part.flatten(0, -labels.ndim) for part in channels)])
    return packed, {RECORD: json.dumps(record), FINGERPRINTS: fingerprints(packed)}


def is_map(tensor: Any) -> bool:
    """Whether a tensor has a record that says it is a map."""
    return RECORD in getattr(tensor, "meta", {})


@eager
def spacing_of(tensor: Tensor, axes: int) -> Any:
    """Voxel spacing in mm per axis, from the affine of a MetaTensor, one row per image of a batch.

    None without an affine. The unit is what MONAI's readers keep of the file's: NIfTI's
    xyzt_units, NRRD's space units, else mm. Raises RWLossError for a file with a sheared affine.
    """
    affine: Any = getattr(tensor, "affine", None)
    meta: Any = getattr(tensor, "meta", {})
    if affine is None:
        return None
    affines = torch.as_tensor(affine, dtype=torch.float64).numpy(force=True)
    originals: Any = torch.as_tensor(meta.get("original_affine", affines)).numpy(force=True)
    units = meta.get("xyzt_units", meta.get("space units", "mm"))
    units = np.ravel(units.tolist() if hasattr(units, "tolist") else units).tolist()
    shape = tensor.shape[tensor.ndim - axes :]
    # A map has the affine of its label, whose spacing was checked when the map was made.
    is_resampled = is_map(tensor) or any(getattr(tensor, "applied_operations", ()))
    if affines.ndim == 2:
        return _spacing_mm(affines, originals, units[0], shape, is_resampled)
    rows = zip(affines, originals, units * len(affines), strict=False)
    return [_spacing_mm(each, first, unit, shape, is_resampled) for each, first, unit in rows]


def _spacing_mm(
    affine: Any, original: Any, unit: Any, shape: Any, is_resampled: bool
) -> tuple[float, ...]:
    """Spacing of one image. A grid that a transform has sheared keeps the lengths of its steps.

    Rotations by any angle shear a grid of unequal steps, and the anatomy in it too.
    """
    try:
        return spacing_from_affine(affine, unit=unit, shape=shape)
    except RWLossError:
        if not is_resampled:
            raise
        if not np.array_equal(original, affine):
            spacing_from_affine(original, unit=unit)
        lengths = np.linalg.norm(affine[:-1, : len(shape)], axis=0) * mm_per_unit(unit)
        return tuple(lengths.tolist())


# No graph can read values: a compiled loss comes back to Python for it.
@eager
def unpack(packed: Any, *, is_target: bool = False) -> RWMap:
    """A batch of maps (b m *s) as one, of labels (b·c *s) in float32 as they were given.

    is_target: deep supervision may have taken it to a lower resolution, after it was unpacked at
    the full one. Raises RWLossError for maps without their record, and for those that were not
    moved by flips, turns and crops alone.
    """
    meta, plain = getattr(packed, "meta", {}), packed.as_subclass(Tensor)
    kept = [meta.get(RECORD, []), meta.get(FINGERPRINTS), getattr(packed, "applied_operations", [])]
    records, known, notes = kept if isinstance(kept[0], list) else ([one] for one in kept)
    if len(records) != len(plain):
        raise RWLossError(
            f"map {tuple(packed.shape)} with {len(records)} records of what it is: expected what "
            "RWMapd or LoadRWMapd made, in batches of MONAI's DataLoader or list_data_collate, or "
            f"an RWMap. {KEEP_METADATA}"
        )
    if packed.dtype not in {torch.float32, torch.float64}:
        raise RWLossError(f"expected a map in float32, got {packed.dtype}: keep the map in float32")
    size, full = list(packed.shape[2:]), meta.get(SEEN_SIZE, list(packed.shape[2:]))
    is_lower = is_target and size != full and all(map(int.__le__, size, full))
    for image, found in enumerate(plain):
        changes = [note["class"] for note in notes[image] if _changes_voxels(note)]
        fault = f"went through {changes[0]}" if changes else ""
        if records[image] != records[0]:
            fault = f"is of {records[image]}, that of image 0 of {records[0]}"
        elif not (fault or is_lower or is_moved(found, known[image])):
            fault = "was resampled or changed in value"
        if fault:
            raise RWLossError(
                f"the map of image {image} of the batch {fault}: a map follows flips, turns by 90° "
                "and crops only. Put the same RWMapd once more after other transforms; or leave "
                "the map out, and the loss makes it from the label"
            )
    if is_target and not is_lower:
        meta[SEEN_SIZE] = size
    expression, num_classes, c, is_compact = json.loads(records[0])
    labels, values = plain[:, :c].flatten(0, 1), plain[:, c:]
    if is_compact:
        parts = tuple(rearrange(values, "b (p c) ... -> p (b c) ...", c=c))
    else:
        parts = (rearrange(values, "b (c k) ... -> (b c) k ...", c=c),)
    return RWMap(labels, num_classes, parts, expression)


def _changes_voxels(note: Any) -> bool:
    """Whether a note of MONAI's, or one within it, tells of interpolation or of padding."""
    if not isinstance(note, Mapping) or not note.get("do_transforms", True):
        return False
    changes = "mode" in note and bool(np.any(note.get("padded", True)))
    return changes or any(map(_changes_voxels, note.values()))
