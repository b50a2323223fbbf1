"""Writing a store: a folder for one map, cases added one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rwloss.arrays import to_numpy
from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.rwmap import RWMap
from rwloss.store import nifti
from rwloss.store.atomic import TEMPORARY_PREFIX
from rwloss.store.digest import file_digest
from rwloss.store.manifest import (
    MAP_FILE,
    Entry,
    MapInfo,
    StoredPart,
    append_entry,
    read_entries,
    read_info,
    write_entries,
    write_info,
)

PartName = Literal["labels", "true", "other", "values"]


@dataclass(frozen=True)
class Writer:
    """A store that is being written. Any process may write cases; one process keeps the manifest.

    folder: where the store is. info: the map that it holds.
    """

    folder: Path
    info: MapInfo

    @classmethod
    def start(cls, folder: Path, info: MapInfo) -> Writer:
        """Make the folder, or take up a store of the same map.

        Raises RWLossError where the folder holds other things, or can't be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(f"no permission to write in {folder}")
            others = [p.name for p in folder.iterdir() if not p.name.startswith(TEMPORARY_PREFIX)]
            if MAP_FILE in others:
                _refuse_other_map(folder, read_info(folder), info)
            elif others:
                raise RWLossError(
                    f"{folder} holds other files ({sorted(others)[0]!r}): "
                    "name a new or an empty folder for the maps"
                )
            else:
                write_info(folder, info)
        except OSError as error:
            raise RWLossError(
                f"{folder} can't be written ({error}): name a folder that you may write to"
            ) from error
        return cls(folder, info)

    def add(
        self,
        case: str,
        rwmap: RWMap,
        *,
        labels_sha256: str,
        spacing_mm: tuple[float, ...],
        affine: NDArray[np.float64] | None,
    ) -> Entry:
        """Write the files of one case. rwmap: of one image, (1 *s). Its manifest line is returned.

        The line is not written yet: the process that keeps the manifest does so with `record`.
        """
        labels = to_numpy(rwmap.labels)[0]
        arrays: dict[PartName, NDArray[Any]] = {"labels": _small(labels)}
        if rwmap.is_compact:
            arrays |= {"true": to_numpy(rwmap.true)[0], "other": to_numpy(rwmap.other)[0]}
        else:
            arrays["values"] = to_numpy(rwmap.values)[0]
        parts = {
            name: self._write(case, name, array, labels, spacing_mm, affine)
            for name, array in arrays.items()
        }
        return Entry(
            case=case,
            labels_sha256=labels_sha256,
            shape=labels.shape,
            spacing_mm=spacing_mm,
            parts=parts,
        )

    def is_done(self, entry: Entry | None, labels_sha256: str) -> bool:
        """Whether this manifest line is of these labels, and its files are there and whole."""
        if entry is None or entry.labels_sha256 != labels_sha256:
            return False
        return all(
            part.file is None
            or (
                (self.folder / part.file).is_file()
                and file_digest(self.folder / part.file) == part.sha256
            )
            for part in entry.parts.values()
        )

    def entries(self) -> dict[str, Entry]:
        """Manifest lines so far, by case."""
        return read_entries(self.folder)

    def record(self, entry: Entry) -> None:
        """Add a case to the manifest."""
        append_entry(self.folder, entry)

    def finish(self, entries: Iterable[Entry]) -> None:
        """Write the manifest in its final form: each case once, sorted."""
        write_entries(self.folder, entries)

    def _write(
        self,
        case: str,
        name: PartName,
        array: NDArray[Any],
        labels: NDArray[Any],
        spacing_mm: tuple[float, ...],
        affine: NDArray[np.float64] | None,
    ) -> StoredPart:
        if name == "other":
            constant = _constant(array, labels)
            if constant is not None:
                return StoredPart(constant=constant)
        path = self.folder / f"{case}_{name}{nifti.SUFFIX}"
        error = nifti.write(path, array, affine, spacing_mm)
        return StoredPart(file=path.name, sha256=file_digest(path), max_error=error)


def _refuse_other_map(folder: Path, there: MapInfo, wanted: MapInfo) -> None:
    if there == wanted:
        return
    differing = [
        f"{field} {getattr(there, field)!r} (now {getattr(wanted, field)!r})"
        for field in MapInfo.model_fields
        if getattr(there, field) != getattr(wanted, field)
    ]
    raise RWLossError(
        f"{folder} holds another map, with {'; '.join(differing)}: name another folder"
    )


def _constant(array: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """The one value at all voxels that belong to a class, or None."""
    values = array[labels != IGNORED]
    if values.size == 0:
        return 0.0
    first = values.flat[0]
    return float(first) if np.all(values == first) else None


def _small(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels in the smallest type that viewers and NIfTI know."""
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for dtype in (np.uint8, np.int16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.astype(dtype)
    return labels.astype(np.int32)
