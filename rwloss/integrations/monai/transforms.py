"""Dictionary transforms that make the map of a label, or read it from a store."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rwloss.store
from rwloss.data.formats import case_name
from rwloss.errors import RWLossError
from rwloss.integrations.monai.map_tensor import is_map, pack, spacing_of, unpack
from rwloss.maps.expression import Expression
from rwloss.maps.parser import parse
from rwloss.regions import Regions, checked_labels
from rwloss.rwmap import RWMap
from rwloss.store import Store

try:
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms.transform import MapTransform
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"rwloss.integrations.monai needs MONAI, which is not installed ({error}): "
        "pip install 'rwloss[monai]'",
        name=error.name,
    ) from error


class _LabelToMap(MapTransform):
    """Puts the map of each label beside it."""

    def __init__(self, keys: Any, map_keys: Any, *, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.map_keys = (map_keys,) if isinstance(map_keys, str) else tuple(map_keys)
        if len(self.map_keys) != len(self.keys):
            raise RWLossError(
                f"{len(self.map_keys)} map_keys for {len(self.keys)} keys: give one per key"
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its maps."""
        sample = dict(data)
        for key, map_key in self.key_iterator(sample, self.map_keys):
            sample[map_key] = self._map(sample, key, map_key)
        return sample

    def _map(self, sample: Mapping[Hashable, Any], key: Hashable, map_key: Hashable) -> Tensor:
        """The map of one label. -> (m *s)."""
        raise NotImplementedError


class RWMapd(_LabelToMap):
    """Makes the map of a label. label (1 *s) -> map (m *s), a MetaTensor of labels and values.

    keys: of the label. map_keys: of the result, one per key. expression: an expression or its
    text; the map is of its static part. num_classes: of the label; or masks=True for a label whose
    channels (c *s) are masks of 0 and 1, which may overlap.
    spacing_mm: one number per axis; by default that of the label's affine, else 1.
    ignore_index: a label whose voxels belong to no class.

    The map goes through flips, turns by 90° and crops like an image, lazily too: add its key to
    theirs. After any other spatial transform put the same RWMapd once more: it keeps a map that was
    moved with its label by whole voxels, and makes it again where it was not. `RWLoss` refuses
    other maps. Spacings are not compared: a map of the same label that was made with another
    `spacing_mm` is kept.

    Raises RWLossError for labels that do not fit, for a map of another expression, and for one that
    has lost its record.

    >>> transform = RWMapd(keys="label", expression="rectified", num_classes=2)
    >>> tuple(transform({"label": torch.ones(1, 8, 8)})["map"].shape)
    (3, 8, 8)
    """

    def __init__(
        self,
        keys: Any,
        expression: Expression | str,
        num_classes: int | None = None,
        *,
        masks: bool = False,
        spacing_mm: Sequence[float] | None = None,
        ignore_index: int | None = None,
        map_keys: Any = "map",
        allow_missing_keys: bool = False,
    ) -> None:
        """Check the parameters; the class documents them."""
        super().__init__(keys, map_keys, allow_missing_keys=allow_missing_keys)
        whole = parse(expression) if isinstance(expression, str) else expression
        static = whole.static_part
        if static is None:
            raise RWLossError(
                f"{whole} has no static part: its map follows from the prediction, in the loss"
            )
        if (num_classes is None) != masks:
            raise RWLossError(
                "expected num_classes for a label map, or masks=True for one mask per channel"
            )
        if masks and ignore_index in {0, 1}:
            raise RWLossError(
                f"ignore_index={ignore_index} is a value of masks: ignored voxels need a third one"
            )
        self.expression: Expression = static
        self.num_classes = num_classes
        self.spacing_mm = spacing_mm
        self.ignore_index = ignore_index

    def _map(self, sample: Mapping[Hashable, Any], key: Hashable, map_key: Hashable) -> Tensor:
        label = _label(sample[key], key, self.num_classes)
        found = None if map_key == key else sample.get(map_key)
        if found is not None and self._is_of(found, label):
            return found  # type: ignore[no-any-return]
        return _map_tensor(label, self._made(label), 0 if self.num_classes else len(label))

    def _made(self, label: Tensor) -> RWMap:
        """The map of a label (c *s)."""
        spacing_mm = self.spacing_mm
        if spacing_mm is None:
            spacing_mm = spacing_of(label, label.ndim - 1)
        plain = label.as_subclass(Tensor)
        # Each mask is an image with two classes; a label map is one with all.
        rows = None if spacing_mm is None else [spacing_mm] * len(plain)
        try:
            return self.expression(Regions(plain, self.num_classes or 2, rows, self.ignore_index))
        except RWLossError as error:
            if plain.is_floating_point() and bool((plain != plain.round()).any()):
                raise RWLossError(
                    f"{error}. Spatial transforms need mode='nearest' for labels, and a lazy "
                    "Compose overrides={'label': {'mode': 'nearest'}}"
                ) from error
            if self.num_classes is None and bool((plain.double() > 1).any()):
                raise RWLossError(
                    f"{error}. With masks=True the masks must be 0 or 1; for class labels pass "
                    "num_classes instead of masks=True"
                ) from error
            raise

    def _is_of(self, packed: Any, label: Tensor) -> bool:
        """Whether a map is of this label, and was moved by whole voxels alone."""
        try:
            found = unpack(packed[None])
        except RWLossError:
            if is_map(packed):
                return False  # it was resampled with its label
            raise
        [record] = found.records
        if record.expression != str(self.expression):
            raise RWLossError(
                f"the sample has a map of {record.expression}, this RWMapd makes "
                f"{self.expression}: give both the same expression, or other map_keys; if a cache "
                "holds old maps, empty it"
            )
        return record.num_classes == (self.num_classes or 2) and torch.equal(
            found.labels[0], label.as_subclass(Tensor).to(found.labels)
        )


class LoadRWMapd(_LabelToMap):
    """Reads the map of a label from a store. label (1 *s) -> map (m *s), as `RWMapd` makes it.

    keys: of the label, as it was loaded: `LoadImaged`, `EnsureChannelFirstd`, then this. map_keys:
    of the result. store: opened, or its folder. case_key: of the case's name in the sample; by
    default the name of the label's file. ignore_index: as the store was made.

    Raises RWLossError if the label is not that of the stored map.
    """

    def __init__(
        self,
        keys: Any,
        store: Store | str | Path,
        *,
        case_key: str | None = None,
        ignore_index: int | None = None,
        map_keys: Any = "map",
        allow_missing_keys: bool = False,
    ) -> None:
        """Open the store; the class documents the parameters."""
        super().__init__(keys, map_keys, allow_missing_keys=allow_missing_keys)
        self.store = store if isinstance(store, Store) else rwloss.store.open(store)
        self.case_key = case_key
        self.ignore_index = ignore_index

    def _map(self, sample: Mapping[Hashable, Any], key: Hashable, map_key: Hashable) -> Tensor:
        case = self._case(sample, key)
        rwmap = self.store[case]
        label = _label(sample[key], key, rwmap.num_classes)
        self._check_same(case, label, rwmap)
        return _map_tensor(label, rwmap, 0)

    def _case(self, sample: Mapping[Hashable, Any], key: Hashable) -> str:
        if self.case_key is not None:
            if self.case_key not in sample:
                raise RWLossError(f"the sample has no {self.case_key!r} with the case's name")
            return str(sample[self.case_key])
        file = getattr(sample[key], "meta", {}).get("filename_or_obj")
        if file is None:
            raise RWLossError(
                f"{key!r} does not say which file it is from: load it with LoadImaged, or put the "
                "case's name in the sample and pass case_key"
            )
        return case_name(file)

    def _check_same(self, case: str, label: Tensor, rwmap: RWMap) -> None:
        stored = torch.as_tensor(rwmap.labels)
        plain = label.as_subclass(Tensor).cpu()
        found = checked_labels(plain, rwmap.num_classes, self.ignore_index).to(stored)
        if torch.equal(found, stored):
            return
        turned = stored.mT if stored.ndim == 3 else stored.permute(0, 3, 2, 1)
        if torch.equal(found, turned):
            raise RWLossError(
                f"{case}: the label has its axes in reverse order, as MONAI reads pictures: use "
                "LoadImaged(..., reader='PILReader', reverse_indexing=False)"
            )
        raise RWLossError(
            f"{case}: the stored map {tuple(stored.shape[1:])} is of other labels than the "
            f"sample's {tuple(found.shape[1:])}: put LoadRWMapd right after LoadImaged and "
            "EnsureChannelFirstd, before anything that moves or changes the label; or precompute "
            "again"
        )


def _label(label: Any, key: Hashable, num_classes: int | None) -> Tensor:
    """A label as a tensor, channel first."""
    try:
        tensor = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of a path or an object
        raise RWLossError(
            f"expected {key!r} as a loaded label, got {type(label).__name__}: put LoadImaged and "
            "EnsureChannelFirstd before"
        ) from error
    if tensor.ndim not in {3, 4} or (num_classes is not None and tensor.shape[0] != 1):
        expected = "(c *s)" if num_classes is None else "(1 *s)"
        raise RWLossError(
            f"expected {key!r} as a label {expected} with *s 2-D or 3-D, got shape "
            f"{tuple(tensor.shape)}: EnsureChannelFirstd comes first, and one-hot after; "
            "for overlapping masks pass masks=True"
        )
    return tensor


def _map_tensor(label: Tensor, rwmap: RWMap, masks: int) -> Tensor:
    """The map with its record, and the label's affine: transforms that read it move both alike."""
    packed, meta = pack(label.as_subclass(Tensor), rwmap, masks=masks)
    made: Tensor = MetaTensor(packed, meta=copy.deepcopy(getattr(label, "meta", {})) | meta)
    return made
