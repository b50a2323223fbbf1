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
from rwloss.store import manifest
from rwloss.store.encoding import decode_nifti, decode_zarr
from rwloss.store.manifest import ManifestEntry, MapInfo, PartName
from rwloss.store.place import Bucket, StorePlace, place
from rwloss.words import count_of, nearest


def open(path: str | Path) -> Store:
    """Open a folder or an fsspec address for reading. Raises RWLossError if it is not a store."""
    return Store(place(path))


class Store(Mapping[str, RWMap]):
    """The maps of a store by case name: `store["case_003"]` is an RWMap of labels (1 *s).

    `store.read("case_003", (slice(10, 74), ...))` is a part of it; from zarr, the rest is not read.
    Each map has the expression of the store and the recorded spacing of its case.
    """

    def __init__(self, place: StorePlace) -> None:
        """Read map.json; the manifest is read on first use."""
        self.place = place
        self.info: MapInfo = manifest.read_info(place)

    def __repr__(self) -> str:
        """Where the store is, what it holds, and of how many cases."""
        return f"Store({str(self.place)!r}: {self.expression}, {count_of(len(self), 'case')})"

    @property
    def expression(self) -> str:
        """The expression of all maps in the store, as text."""
        return self.info.expression

    @cached_property
    def entries(self) -> dict[str, ManifestEntry]:
        """Manifest lines by case name, sorted."""
        entries = manifest.read_entries(self.place)
        if isinstance(self.place, Bucket):  # nothing can be appended there: a run may be under way
            entries |= manifest.find_unlisted(self.place, entries)
        return dict(sorted(entries.items()))

    def __getitem__(self, case: str) -> RWMap:
        """The map of one case, NumPy arrays with a batch axis of 1."""
        return self.read(case)

    def read(self, case: str, region: Sequence[slice] | None = None) -> RWMap:
        """The map of one case, or the part that `region` cuts out: one slice per axis of *s.

        A part of the map of the whole image, which is not the map of a part. Raises KeyError for an
        unknown case, and RWLossError for a region that does not fit or a file that can't be read.
        """
        if case not in self.entries:
            raise KeyError(f"no case {case!r} in {self.place}{nearest(case, self.entries)}")
        return self.read_entry(self.entries[case], region)

    def read_entry(self, entry: ManifestEntry, region: Sequence[slice] | None = None) -> RWMap:
        """The map that a manifest line describes, or a part of it. As `read`."""
        cut = () if region is None else _checked(region, entry)
        labels = self._array(entry, "labels", cut)
        names: tuple[PartName, ...] = ("values",) if "values" in entry.parts else ("true", "other")
        parts = []
        for name in names:
            constant = entry.parts[name].constant
            if constant is None:
                parts.append(self._array(entry, name, cut).astype(np.float32, copy=False))
            else:
                parts.append(np.where(labels == IGNORED, np.float32(0), np.float32(constant)))
        return RWMap(labels, entry.num_classes, tuple(parts), self.expression, (entry.spacing_mm,))

    def _array(self, entry: ManifestEntry, name: PartName, cut: tuple[slice, ...]) -> NDArray[Any]:
        """A part that has a file, (1 *s) or (1 k *s), or what `cut` leaves of it."""
        file = entry.parts[name].file or ""
        where, has_classes = f"{self.place}/{file}", name == "values"
        shape = (entry.num_classes, *entry.shape) if has_classes else entry.shape
        if self.info.format == "zarr":
            tree, _, inner = file.partition("/")
            return decode_zarr(self.place.tree_store(tree), where, inner, shape, cut)[None]
        try:
            content = self.place.read(file)
        except OSError as error:
            raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error
        array = decode_nifti(where, content, shape, has_classes=has_classes)
        return np.array(array[(None, ..., *cut)], order="C")

    def __iter__(self) -> Iterator[str]:
        """Case names, sorted."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.entries)

    def __contains__(self, case: object) -> bool:
        """Whether the manifest has the case; reads no map."""
        return case in self.entries


def _checked(region: Sequence[slice], entry: ManifestEntry) -> tuple[slice, ...]:
    """Slices with start and stop inside the image."""
    wrong = RWLossError(
        f"{entry.case} has shape {entry.shape}: expected one slice of step 1 per axis, with voxels "
        f"inside, got {region!r}"
    )
    inside = []
    try:
        for cut, length in zip(region, entry.shape, strict=True):
            start, stop, step = cut.indices(length)
            if step != 1 or stop <= start:
                raise wrong
            inside.append(slice(start, stop))
    except (TypeError, ValueError, AttributeError) as error:  # not a sequence, or not of slices
        raise wrong from error
    return tuple(inside)
