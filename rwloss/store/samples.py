"""Stored maps in a torch input pipeline: a transform, a Dataset wrapper and a collate function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from rwloss import maps
from rwloss.errors import RWLossError
from rwloss.rwmap import RWMap
from rwloss.store.store import Store


@dataclass(frozen=True)
class AddMap:
    """A transform that adds the map of a sample `{"case": name, ...}` as `sample["map"]`.

    case: the key of the case's name. region: the key of the slices, one per axis of *s, that were
    cut out of the image; the map is then cut in the same way, and zarr reads no more than that.
    dense: the map as a tensor (k *s), for transforms that move tensors only. By default it is an
    RWMap of one image, tensors (1 *s), which `rwloss.moves` moves and `collate_maps` batches.
    expression: that of the loss. The loss checks the expression of an RWMap, but cannot check a
    tensor: with dense=True give it here, and a store of another map is refused. key: of the map in
    the sample.

    >>> from rwloss.data import sample_dir
    >>> from rwloss.precompute import precompute
    >>> import tempfile, rwloss.store
    >>> folder = tempfile.mkdtemp()
    >>> made = precompute(sample_dir("hippocampus"), folder, "rectified", jobs=0)
    >>> add_map = AddMap(rwloss.store.open(folder), dense=True)
    >>> tuple(add_map({"case": "hippocampus_003"})["map"].shape)
    (3, 34, 52, 35)
    """

    store: Store
    case: str = "case"
    region: str | None = None
    key: str = "map"
    dense: bool = False
    expression: str | None = None

    def __post_init__(self) -> None:
        """Raise RWLossError if the store holds maps of another expression, or of other code."""
        if self.expression is not None:
            self.store.check_map(self.expression)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample with its map. Raises RWLossError for a sample without the name of its case."""
        for wanted in (self.case, self.region):
            if wanted is not None and wanted not in sample:
                raise RWLossError(
                    f"the sample has no {wanted!r}, only {', '.join(map(repr, sample))}: "
                    "AddMap finds the map by the name of the case"
                )
        region = None if self.region is None else sample[self.region]
        found = self.store.read(sample[self.case], region).to("cpu")
        return {**sample, self.key: found.dense()[0] if self.dense else found}


class WithMaps(Dataset[Any]):
    """A Dataset wrapper that adds stored maps to the samples.

    dataset: its samples are mappings, which get the key "map", or tuples or lists, which get the
    map as one more element. cases: the case name of each index; by default a mapping's "case".
    dense, expression: as for `AddMap`. Batch RWMaps with
    `DataLoader(collate_fn=rwloss.store.collate_maps)`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        store: Store,
        cases: Sequence[str] | None = None,
        *,
        dense: bool = False,
        expression: str | None = None,
    ) -> None:
        """Raises RWLossError where the cases do not fit the dataset, or the store lacks one."""
        self.dataset = dataset
        self.cases = cases
        self.add_map = AddMap(store, dense=dense, expression=expression)
        if cases is not None:
            if len(cases) != len(self):
                raise RWLossError(f"{len(cases)} cases given for {len(self)} samples")
            if missing := [case for case in cases if case not in store]:
                raise RWLossError(
                    f"{store.place} has no map of {missing[0]!r} ({len(missing)} such cases): "
                    "precompute them"
                )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        """The sample of the dataset, with its map."""
        sample = self.dataset[index]
        named = {} if self.cases is None else {self.add_map.case: self.cases[index]}
        if isinstance(sample, Mapping):
            return self.add_map({**sample, **named})
        if self.cases is None or not isinstance(sample, (tuple, list)):
            raise RWLossError(
                f"expected samples that are mappings with {self.add_map.case!r}, or tuples with "
                f"cases= for WithMaps, got {type(sample).__name__}"
            )
        return (*sample, self.add_map(named)[self.add_map.key])


def collate_maps(samples: Sequence[Any]) -> Any:
    """torch's default collate, which also takes RWMaps of one image each, and slices.

    Maps of labels (1 *s) become one of labels (b *s), with one spacing per image and with their
    expression if all have one. Slices become a list. Raises RWLossError for maps of different
    expressions, which no loss could check.

    samples: one per image.
    """
    if not samples:
        return default_collate(list(samples))
    ours: dict[Any, Any] = {RWMap: _one_map, slice: lambda regions, **_: list(regions)}
    return collate(samples, collate_fn_map={**default_collate_fn_map, **ours})


def _one_map(rwmaps: Sequence[RWMap], **_: Any) -> RWMap:
    if len({(rwmap.num_classes, rwmap.is_compact) for rwmap in rwmaps}) > 1:
        raise RWLossError("maps of different kinds or numbers of classes can't be one batch")
    if len(shapes := sorted({tuple(rwmap.labels.shape[1:]) for rwmap in rwmaps})) > 1:
        raise RWLossError(
            f"maps of the shapes {shapes} can't be one batch: crop all to one size first"
        )
    tensors = [rwmap.to(rwmap.labels.device) for rwmap in rwmaps]
    expressions = [rwmap.expression for rwmap in rwmaps]
    known = [text for text in expressions if text is not None]
    for other in known[1:]:
        if not maps.is_same(known[0], other):
            raise RWLossError(f"maps of {known[0]} and of {other} can't be one batch")
    spacings = [rwmap.spacing_mm for rwmap in rwmaps]
    return RWMap(
        torch.cat([rwmap.labels for rwmap in tensors]),
        tensors[0].num_classes,
        tuple(map(torch.cat, zip(*(rwmap.parts for rwmap in tensors), strict=True))),
        None if None in expressions else expressions[0],
        None if None in spacings else tuple(row for rows in spacings for row in rows or ()),
    )
