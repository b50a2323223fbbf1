"""Dictionary transforms: a label's map, made or read from a store."""

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
from rwloss.integrations.monai.packed import kept_its_grid, pack, unpack
from rwloss.integrations.monai.spacing import MADE_AT, spacing_of
from rwloss.integrations.monai.stamp import EXPRESSION, Stamp, stamps_of
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


class RWMapd(MapTransform):
    """Makes the map of a label. label (1 *s) -> map (m *s), labels and values in one.

    keys: of the label. map_keys: of the result, one for each. expression: an expression or its
    text, of which the static part is made. num_classes: of the label; or masks=True for a label
    whose channels (c *s) are masks of 0 and 1, which may overlap.
    spacing_mm: a number for each axis; by default that of the label's affine, else 1.
    ignore_index: a label whose voxels belong to no class.

    The map goes through flips, turns by 90° and crops like an image, lazily too: name its key in
    them. Behind any other spatial transform put the same RWMapd once more: it keeps a map that was
    moved with its label by whole voxels, and makes it anew where it was not, or is no longer the
    map of the label. `RWLoss` refuses what is neither. Spacings are not compared: a map of the same
    label that was made with another `spacing_mm` is kept.

    Raises RWLossError for labels that do not fit, and for a map of another expression.

    >>> transform = RWMapd(keys="label", expression="rectified", num_classes=2)
    >>> tuple(transform({"label": torch.ones(1, 8, 8)})["map"].shape)
    (5, 8, 8)
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
        super().__init__(keys, allow_missing_keys)
        whole = parse(expression) if isinstance(expression, str) else expression
        static = whole.static_part
        if static is None:
            raise RWLossError(
                f"{whole} has no static part: its map follows from the prediction, in the loss"
            )
        if (num_classes is None) != masks:
            raise RWLossError(
                "expected num_classes for a label map, or masks=True for a channel a mask"
            )
        if masks and ignore_index in {0, 1}:
            raise RWLossError(
                f"ignore_index={ignore_index} is a value of masks: ignored voxels need a third one"
            )
        self.expression: Expression = static
        self.num_classes = num_classes
        self.spacing_mm = spacing_mm
        self.ignore_index = ignore_index
        self.map_keys = _names(self.keys, map_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its map."""
        sample = dict(data)
        for key, map_key in self.key_iterator(sample, self.map_keys):
            label = _label(sample[key], key, self.num_classes)
            if not self._is_kept(sample.get(map_key), label):
                sample[map_key] = _with_meta(self._made(label), label, str(self.expression))
        return sample

    def _made(self, label: Tensor) -> Tensor:
        """Labels and map in one. label (c *s) -> (m *s)."""
        spacing_mm = self.spacing_mm
        if spacing_mm is None:
            spacing_mm = spacing_of(label, label.ndim - 1)
        plain = label.as_subclass(Tensor)
        # Each mask is an image with two classes; a label map is one with all.
        rows = None if spacing_mm is None else [spacing_mm] * len(plain)
        try:
            regions = Regions(plain, self.num_classes or 2, rows, self.ignore_index)
        except RWLossError as error:
            if plain.is_floating_point() and bool((plain != plain.round()).any()):
                raise RWLossError(
                    f"{error}. Spatial transforms take labels by mode='nearest', and a lazy "
                    "Compose by overrides={'label': {'mode': 'nearest'}}"
                ) from error
            if self.num_classes is None and bool((plain.double() > 1).any()):
                raise RWLossError(
                    f"{error}. With masks=True the masks must be 0 or 1; for class labels pass "
                    "num_classes instead of masks=True"
                ) from error
            raise
        return pack(plain, self.expression(regions), self._stamp(label))

    def _stamp(self, label: Tensor) -> Stamp:
        one_mask = self.num_classes is None and len(label) == 1
        return Stamp.of(2 if one_mask else self.num_classes or 0, str(self.expression))

    def _is_kept(self, packed: Any, label: Tensor) -> bool:
        """Whether there is a map already, of this label, that was moved by whole voxels alone."""
        if not isinstance(packed, Tensor) or packed.ndim != label.ndim:
            return False
        made_of = getattr(packed, "meta", {}).get(EXPRESSION)
        if made_of not in {None, str(self.expression)}:
            raise self._of_another(made_of)
        batch = packed.as_subclass(Tensor)[None]
        masks = len(label) if self.num_classes is None else 0
        found = unpack(batch, self.num_classes or 2, masks)
        if (
            found is None
            or found.labels.shape[1:] != label.shape
            or not bool((found.labels[0] == label.as_subclass(Tensor)).all())
            or not bool(kept_its_grid(batch))
        ):
            return False
        (stamp,), wanted = stamps_of(batch), self._stamp(label)
        if stamp.digest != wanted.digest:
            raise self._of_another("another expression")
        return stamp.num_classes == wanted.num_classes

    def _of_another(self, made_of: str) -> RWLossError:
        return RWLossError(
            f"the sample has a map of {made_of}, this RWMapd makes {self.expression}: give both "
            "the same expression, or other map_keys; a cache may hold maps of before, empty it"
        )


class LoadRWMapd(MapTransform):
    """Reads the map of a label from a store. label (1 *s) -> map (m *s), labels and values in one.

    keys: of the label, as it was loaded: `LoadImaged`, `EnsureChannelFirstd`, then this. map_keys:
    of the result. store: opened, or where it is. case_key: of the case's name in the sample; by
    default the name of the label's file. ignore_index: as the store was made.

    From there on the map goes through transforms as that of `RWMapd` does.

    Raises RWLossError where the label is not that of the stored map.
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
        super().__init__(keys, allow_missing_keys)
        self.store = store if isinstance(store, Store) else rwloss.store.open(store)
        self.case_key = case_key
        self.ignore_index = ignore_index
        self.map_keys = _names(self.keys, map_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its map."""
        sample = dict(data)
        for key, map_key in self.key_iterator(sample, self.map_keys):
            case = self._case(sample, key)
            rwmap = self.store[case]
            label = _label(sample[key], key, rwmap.num_classes)
            self._check_same(case, label, rwmap)
            stamp = Stamp.of(rwmap.num_classes, self.store.expression)
            packed = pack(label.as_subclass(Tensor), rwmap, stamp)
            sample[map_key] = _with_meta(packed, label, self.store.expression)
        return sample

    def _case(self, sample: Mapping[Hashable, Any], key: Hashable) -> str:
        if self.case_key is not None:
            if self.case_key not in sample:
                raise RWLossError(f"the sample has no {self.case_key!r} with the case's name")
            return str(sample[self.case_key])
        file = getattr(sample[key], "meta", {}).get("filename_or_obj")
        if file is None:
            raise RWLossError(
                f"{key!r} does not say which file it is from: load it with LoadImaged, or name "
                "the case in the sample and give case_key"
            )
        return case_name(file)

    def _check_same(self, case: str, label: Tensor, rwmap: RWMap) -> None:
        stored = torch.as_tensor(rwmap.labels)
        plain = label.as_subclass(Tensor).cpu()
        found = checked_labels(plain, rwmap.num_classes, self.ignore_index)
        if found.shape == stored.shape and bool((found == stored).all()):
            return
        turned = stored.mT if stored.ndim == 3 else stored.permute(0, 3, 2, 1)
        if turned.shape == found.shape and bool((turned == found).all()):
            raise RWLossError(
                f"{case}: the label has its axes in reverse order: MONAI's readers of pictures do "
                "that unless told LoadImaged(..., reader='PILReader', reverse_indexing=False)"
            )
        raise RWLossError(
            f"{case}: the stored map {tuple(stored.shape[1:])} is of other labels than the "
            f"sample's {tuple(found.shape[1:])}: put LoadRWMapd right behind LoadImaged and "
            "EnsureChannelFirstd, before what moves or changes the label; or precompute again"
        )


def _names(keys: Sequence[Hashable], map_keys: Any) -> tuple[Hashable, ...]:
    names = (map_keys,) if isinstance(map_keys, str) else tuple(map_keys)
    if len(names) != len(keys):
        raise RWLossError(f"{len(names)} map_keys for {len(keys)} keys: give one for each")
    return names


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


def _with_meta(packed: Tensor, label: Tensor, expression: str) -> Tensor:
    """The map with the label's affine, so that transforms which read it move both alike."""
    if not isinstance(label, MetaTensor):
        return packed
    meta = copy.deepcopy(label.meta)
    meta[EXPRESSION] = expression
    meta[MADE_AT] = torch.tensor(spacing_of(label, label.ndim - 1), dtype=torch.float64)
    moved: Tensor = MetaTensor(packed, meta=meta)
    return moved
