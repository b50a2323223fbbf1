"""Reading a store: a mapping from case names to maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.store import nifti, zarr_tree
from rwloss.store.manifest import (
    Entry,
    MapInfo,
    PartName,
    find_unlisted,
    read_entries,
    read_info,
)
from rwloss.store.place import Bucket, Place, place
from rwloss.words import nearest


def open(path: str | Path) -> Store:
    """A store for reading: a folder, or an fsspec address. Raises RWLossError where it is none."""
    return Store(place(path))


class Store(Mapping[str, RWMap]):
    """The maps of a store by case name: `store["case_003"]` is an RWMap of labels (1 *s).

    `store.read("case_003", (slice(10, 74), ...))` is a part of it; from zarr, the rest is not read.
    """

    def __init__(self, place: Place) -> None:
        """Read map.json; the manifest is read on first use."""
        self.place = place
        self.info: MapInfo = read_info(place)

    @property
    def expression(self) -> str:
        """The expression of all maps in the store, as text."""
        return self.info.expression

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Manifest lines by case name, sorted."""
        entries = read_entries(self.place)
        if isinstance(self.place, Bucket):  # no manifest grows there: a run may be under way
            entries |= find_unlisted(self.place, entries)
        return dict(sorted(entries.items()))

    def __getitem__(self, case: str) -> RWMap:
        """The map of one case, NumPy arrays with a batch axis of 1."""
        return self.read(case)

    def read(self, case: str, region: Sequence[slice] | None = None) -> RWMap:
        """The map of one case, or the part that `region` cuts out: a slice for each axis of *s.

        The part of a map of the whole image, not the map of a part. Raises KeyError for an unknown
        case and RWLossError for a region that does not fit, or a file that can't be read.
        """
        entry = self._entry(case)
        cut = None if region is None else _checked(region, entry)
        labels = self._read(entry, "labels", None, cut)
        if "values" in entry.parts:
            return RWMap.from_dense(labels[None], self._read(entry, "values", labels, cut)[None])
        true, other = (self._read(entry, name, labels, cut)[None] for name in ("true", "other"))
        return RWMap.compact(labels[None], entry.num_classes, true=true, other=other)

    def __iter__(self) -> Iterator[str]:
        """Case names, sorted."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.entries)

    def __contains__(self, case: object) -> bool:
        """Whether the manifest has the case; reads no map."""
        return case in self.entries

    def _entry(self, case: str) -> Entry:
        if case not in self.entries:
            raise KeyError(f"no case {case!r} in {self.place}{nearest(case, self.entries)}")
        return self.entries[case]

    def _read(
        self,
        entry: Entry,
        name: PartName,
        labels: NDArray[Any] | None,
        cut: tuple[slice, ...] | None,
    ) -> NDArray[Any]:
        part = entry.parts[name]
        if part.file is None:
            assert labels is not None
            values = np.full(labels.shape, part.constant, dtype=np.float32)
            values[labels == IGNORED] = 0.0
            return values
        where, axes = f"{self.place}/{part.file}", len(entry.shape)
        shape = (entry.num_classes, *entry.shape) if name == "values" else entry.shape
        if self.info.format == "zarr":
            tree, _, inner = part.file.partition("/")
            array = zarr_tree.decode(self.place.tree_store(tree), where, inner, shape, cut)
            return array if name == "labels" else array.astype(np.float32, copy=False)
        try:
            content = self.place.read(part.file)
        except OSError as error:
            raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error
        if name == "labels":
            array = nifti.decode_labels(where, content)
        else:
            array = nifti.decode_values(where, content, ndim=axes, classes=name == "values")
        if array.shape != shape:
            raise RWLossError(
                f"{where} has shape {array.shape}, the manifest says {shape}: precompute it again"
            )
        inside: Any = (..., *(cut or ()))
        return np.ascontiguousarray(array[inside])


def _checked(region: Sequence[slice], entry: Entry) -> tuple[slice, ...]:
    """Slices with start and stop inside the image."""
    wrong = RWLossError(
        f"{entry.case} has shape {entry.shape}: expected for each axis a slice of step 1 with "
        f"voxels inside, got {region!r}"
    )
    inside = []
    try:
        for cut, length in zip(region, entry.shape, strict=True):
            start, stop, step = cut.indices(length)
            if step != 1 or stop <= start:
                raise wrong
            inside.append(slice(start, stop))
    except (TypeError, ValueError, AttributeError) as error:  # no sequence, or not of slices
        raise wrong from error
    return tuple(inside)
