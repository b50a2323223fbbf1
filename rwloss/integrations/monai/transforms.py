"""Dictionary transforms that compute the map of a label, or read it from a store."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from torch import Tensor

import rwloss.store
from rwloss.data.formats import case_name
from rwloss.errors import RWLossError
from rwloss.integrations.monai.map_tensor import is_map, pack, spacing_of, unpack
from rwloss.maps.expression import Expression
from rwloss.maps.identity import check_map_of
from rwloss.maps.parser import parse
from rwloss.regions import Regions, SpacingRows, checked_labels
from rwloss.rwmap import RWMap
from rwloss.store import Store


@dataclass(eq=False)
class _LabelToMap(MapTransform):
    """Adds the map of each label to the sample, from `_map`; None keeps the old map."""

    _map: ClassVar[Callable[..., RWMap | None]]
    keys: Any
    _: KW_ONLY
    ignore_index: int | None = None
    map_keys: Any = "map"
    allow_missing_keys: bool = False

    def __post_init__(self) -> None:
        super().__init__(self.keys, self.allow_missing_keys)
        names = self.map_keys
        self.map_keys = (names,) if isinstance(names, str) else tuple(names)
        if len(self.map_keys) != len(self.keys):
            raise RWLossError(
                f"{len(self.map_keys)} map_keys for {len(self.keys)} keys: give one per key"
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its maps."""
        sample = dict(data)
        for key, map_key in self.key_iterator(sample, self.map_keys):
            label, shape = sample[key], tuple(getattr(sample[key], "shape", ()))
            if len(shape) not in {3, 4} or not (shape[0] == 1 or getattr(self, "masks", False)):
                raise RWLossError(
                    f"expected {key!r} as a label (1 *s), or masks (c *s) with masks=True, *s 2-D "
                    f"or 3-D, got {shape or type(label).__name__}: put LoadImaged and "
                    "EnsureChannelFirstd before, and one-hot after"
                )
            label, old = torch.as_tensor(label), None if map_key == key else sample.get(map_key)
            rwmap = self._map(label, old, sample)
            if rwmap is not None:
                packed, meta = pack(label, rwmap)
                sample[map_key] = MetaTensor(packed, meta=meta)
        return sample


@dataclass(eq=False)
class RWMapd(_LabelToMap):
    """Computes the map of a label. label (1 *s) -> map (m *s), a MetaTensor of labels and values.

    keys: of the label. map_keys: of the result, one per key. expression: its static part is
    computed. num_classes: of the label; or masks=True for a label whose channels (c *s) are masks
    of 0 and 1, which may overlap. spacing_mm: one number per axis; by default that of the label's
    affine, else 1. ignore_index: of voxels that belong to no class.

    The map goes through flips, 90° rotations and crops like an image, also lazily. After any other
    spatial transform put the same RWMapd once more: it keeps a map that was moved with its label by
    whole voxels, and recomputes it otherwise. Raises RWLossError for labels that do not fit, for a
    map with another expression or spacing, and for one that has lost its record.

    >>> transform = RWMapd(keys="label", expression="rectified", num_classes=2)
    >>> tuple(transform({"label": torch.ones(1, 8, 8)})["map"].shape)
    (3, 8, 8)
    """

    expression: Expression | str
    num_classes: int | None = None
    _: KW_ONLY
    masks: bool = False
    spacing_mm: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        whole = parse(self.expression) if isinstance(self.expression, str) else self.expression
        static = whole.static_part
        if static is None:
            raise RWLossError(
                f"{whole} has no static part: its map depends on the prediction and is computed "
                f"in the loss"
            )
        if static.uses_image:
            raise RWLossError(
                f"{static} uses the image, and RWMapd makes maps of labels alone: precompute it "
                "and use LoadRWMapd, or leave RWMapd out and call RWLoss(...)(input, target, "
                "image=images)"
            )
        self.static_part: Expression = static
        if (self.num_classes is None) != self.masks:
            raise RWLossError("expected num_classes, or masks=True for one mask per channel")
        if self.masks and self.ignore_index in {0, 1}:
            raise RWLossError(
                f"ignore_index={self.ignore_index} is a value of masks: ignored voxels need a "
                "third one"
            )

    def _map(self, label: Tensor, old: Any, sample: Mapping[Hashable, Any]) -> RWMap | None:
        given = None if self.spacing_mm is None else [tuple(self.spacing_mm)]
        size = label.shape[1:] if self.static_part.uses_spacing else [1] * (label.ndim - 1)
        rows = tuple((given or spacing_of(label, size) or ()) * len(label)) or None
        k, plain = self.num_classes or 2, label.as_subclass(Tensor)
        if old is not None and self._is_of(old, plain, k, rows):
            return None
        try:
            return self.static_part(Regions(plain, k, rows, self.ignore_index))
        except RWLossError as error:
            advice = ". With masks=True each channel is a mask of 0 and 1" if self.masks else ""
            raise RWLossError(f"{error}{advice}") from error

    def _is_of(self, old: Tensor, label: Tensor, k: int, rows: SpacingRows | None) -> bool:
        """Whether a map belongs to this label, and was moved only by whole voxels."""
        try:
            found = unpack(old[None])
        except RWLossError:
            if is_map(old):
                return False  # it was resampled with its label
            raise
        is_same = found.num_classes == k and torch.equal(found.labels, label.to(found.labels))
        check_map_of(found, str(self.static_part))
        found.check_spacing(rows if is_same else None)
        return is_same


@dataclass(eq=False)
class LoadRWMapd(_LabelToMap):
    """Reads the map of a label from a store. label (1 *s) -> map (m *s), as from `RWMapd`.

    keys: of the label, as it was loaded: `LoadImaged`, `EnsureChannelFirstd`, then this. map_keys:
    of the result. store: opened, or its folder. case_key: of the case's name in the sample; by
    default the name of the label's file. ignore_index: that of the store. Raises RWLossError if the
    stored map belongs to another label.
    """

    store: Store | str | Path
    _: KW_ONLY
    case_key: str | None = None

    def __post_init__(self) -> None:
        """Open the store."""
        super().__post_init__()
        given = self.store
        self.opened = given if isinstance(given, Store) else rwloss.store.open(given)

    def _map(self, label: Tensor, old: Any, sample: Mapping[Hashable, Any]) -> RWMap:
        file = getattr(label, "meta", {}).get("filename_or_obj")
        if self.case_key is None and file is not None:
            case = case_name(file)
        elif self.case_key in sample:
            case = str(sample[self.case_key])
        else:
            raise RWLossError(
                f"the sample has no {self.case_key or 'file name'!r} to tell its case: load the "
                "label with LoadImaged, or put the case's name in the sample and pass case_key"
            )
        rwmap = self.opened[case]
        stored, plain = torch.as_tensor(rwmap.labels), label.as_subclass(Tensor).cpu()
        found = checked_labels(plain, rwmap.num_classes, self.ignore_index).to(stored)
        if not torch.equal(found, stored):
            raise RWLossError(
                f"{case}: the stored map {tuple(stored.shape[1:])} is of other labels than the "
                f"sample's {tuple(found.shape[1:])}: put LoadRWMapd right after LoadImaged and "
                "EnsureChannelFirstd, before what changes the label, or precompute again; load "
                "pictures with reader='PILReader', reverse_indexing=False"
            )
        rows = spacing_of(label, plain.shape[1:])
        if rows and set(rows[0]) != {1.0}:  # which MONAI also says where it knows none
            rwmap.check_spacing(rows)
        return rwmap
