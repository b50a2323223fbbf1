"""Reading a store: a mapping from case names to maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.spelling import nearest
from rwloss.store import nifti
from rwloss.store.manifest import Entry, MapInfo, StoredPart, read_entries, read_info


def open(path: str | Path) -> Store:
    """A store for reading. Raises RWLossError where the folder is none."""
    return Store(Path(path))


class Store(Mapping[str, RWMap]):
    """The maps of a folder by case name: `store["case_003"]` is an RWMap of labels (1 *s)."""

    def __init__(self, folder: Path) -> None:
        """Read map.json; the manifest is read on first use."""
        self.folder = folder
        self.info: MapInfo = read_info(folder)

    @property
    def expression(self) -> str:
        """The expression of all maps in the store, as text."""
        return self.info.expression

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Manifest lines by case name, sorted."""
        return dict(sorted(read_entries(self.folder).items()))

    def __getitem__(self, case: str) -> RWMap:
        """The map of one case, NumPy arrays with a batch axis of 1."""
        entry = self._entry(case)
        labels = self._read(entry, entry.parts["labels"], None, "labels")
        if "values" in entry.parts:
            values = self._read(entry, entry.parts["values"], labels, "values")
            return RWMap.from_dense(labels[None], values[None])
        true, other = (
            self._read(entry, entry.parts[name], labels, name)[None] for name in ("true", "other")
        )
        return RWMap.compact(labels[None], self.info.num_classes, true=true, other=other)

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
            raise KeyError(f"no case {case!r} in {self.folder}{nearest(case, self.entries)}")
        return self.entries[case]

    def _read(
        self, entry: Entry, part: StoredPart, labels: NDArray[Any] | None, name: str
    ) -> NDArray[Any]:
        if part.file is None:
            assert labels is not None
            values = np.full(entry.shape, part.constant, dtype=np.float32)
            values[labels == IGNORED] = 0.0
            return values
        if Path(part.file).name != part.file:
            raise RWLossError(f"{entry.case}: the manifest names a file elsewhere, {part.file!r}")
        path = self.folder / part.file
        array: NDArray[Any]
        if name == "labels":
            array = nifti.read_labels(path)
        else:
            array = nifti.read_values(path, ndim=len(entry.shape), classes=name == "values")
        expected = (self.info.num_classes, *entry.shape) if name == "values" else entry.shape
        if array.shape != expected:
            raise RWLossError(
                f"{path} has shape {array.shape}, the manifest says {expected}: precompute it again"
            )
        return array
