"""A store of maps: read by case name, and written case by case."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rwloss import maps
from rwloss.arrays import to_numpy
from rwloss.errors import RWLossError
from rwloss.files.lock import LOCK_FILE
from rwloss.regions import IGNORED, spacing_text
from rwloss.rwmap import RWMap
from rwloss.store import encoding, manifest
from rwloss.store.encoding import DTYPES, NIFTI_SUFFIX
from rwloss.store.manifest import TREE_SUFFIX, Format, ManifestEntry, MapInfo, PartName, StoredPart
from rwloss.store.place import TREE_MARK, Bucket, Folder, StorePlace, place
from rwloss.words import count_of, listed, nearest


def open(
    path: str | Path, expression: str | None = None, spacing_mm: Sequence[float] | None = None
) -> Store:
    """Open a folder or an fsspec address for reading. Raises RWLossError if it is not a store.

    A folder with distance maps from MIST or a program for nnU-Net is an `OtherStore`: expression
    and spacing_mm then describe them. A store of rwloss records both itself.
    """
    where = place(path)
    if isinstance(where, Folder) and not (where.path / manifest.MAP_FILE).exists():
        from rwloss.store.other_stores import OtherStore, layout_of

        if layout_of(where.path) is not None:
            return OtherStore(where.path, expression, spacing_mm)
    return Store(where)


def is_store(source: str | Path) -> bool:
    """Whether `open` can open this: an address, or a folder of maps.

    source: a path or an address.
    """
    from rwloss.store.other_stores import layout_of

    if "://" in str(source):
        return True
    return (Path(source) / manifest.MAP_FILE).is_file() or layout_of(Path(source)) is not None


class Store(Mapping[str, RWMap]):
    """The maps of a store by case name: `store["case_003"]` is an RWMap of labels (1 *s).

    `store.read("case_003", (slice(10, 74), ...))` is a part of it; from zarr, only that part is
    read. Each map has the expression of the store and the recorded spacing of its case.
    """

    def __init__(self, place: StorePlace) -> None:
        """Read map.json; the manifest is read on first use."""
        self.place = place
        self.info: MapInfo = manifest.read_info(place)

    def __repr__(self) -> str:
        """Location, expression and number of cases of the store."""
        return f"Store({str(self.place)!r}: {self.expression}, {count_of(len(self), 'case')})"

    @property
    def expression(self) -> str:
        """The expression of all maps in the store, as text."""
        return self.info.expression

    @cached_property
    def entries(self) -> dict[str, ManifestEntry]:
        """Manifest lines by case name, sorted."""
        # Nothing can be appended to a bucket, where a run may be under way.
        read = manifest.all_entries if isinstance(self.place, Bucket) else manifest.read_entries
        return dict(sorted(read(self.place).items()))

    def __getitem__(self, case: str) -> RWMap:
        """The map of one case, NumPy arrays with a batch axis of 1."""
        return self.read(case)

    def read(self, case: str, region: Sequence[slice] | None = None) -> RWMap:
        """The map of one case, or the part in `region`: one slice per axis of *s.

        A part of the map of the whole image, which is not the map of a part. Raises KeyError for an
        unknown case, and RWLossError for a region that does not fit or a file that can't be read.
        """
        if case not in self.entries:
            raise KeyError(f"no case {case!r} in {self.place}{nearest(case, self.entries)}")
        return self.read_entry(self.entries[case], region)

    def spacing_mm(self, case: str) -> tuple[float, ...]:
        """The recorded spacing of a case; 1 if its file has none."""
        return self.entries[case].spacing_mm

    def check_map(self, expression: str) -> None:
        """Raise RWLossError unless the store holds the static part of this expression.

        A map of a Python file must have the code that made the store.

        expression: of the loss. A file that it names is executed.
        """
        static = maps.parse(expression).static_part
        if static is None or not maps.is_map_of(self.expression, str(static)):
            raise RWLossError(
                f"{self.place} holds maps of {self.expression}, not of {static}: "
                "precompute those, or correct the expression"
            )
        if changed := self.info.changed_code(manifest.terms_of(static)):
            raise RWLossError(
                f"{self.place} holds maps that were made with {listed(changed)}: "
                "precompute them again into another folder"
            )

    def check_made_of(
        self, case: str, labels: NDArray[Any], spacing_mm: Sequence[float], labels_sha256: str
    ) -> None:
        """Raise RWLossError unless the map of a case is that of these labels (*s).

        labels_sha256: their `labels_digest`, with spacing and affine.
        """
        if self.entries[case].labels_sha256 != labels_sha256:
            image = " or another image" if self.info.uses_image else ""
            raise RWLossError(
                f"the map of case {case!r} was made from other labels{image}, or at another "
                "spacing or affine, than the case has (the map: "
                f"{spacing_text([self.spacing_mm(case)])}, now {spacing_text([spacing_mm])})"
            )

    def read_entry(self, entry: ManifestEntry, region: Sequence[slice] | None = None) -> RWMap:
        """The map that a manifest line describes, or a part of it. As `read`."""
        cut = () if region is None else checked_region(region, entry.case, entry.shape)
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
        try:
            if self.info.format == "zarr":
                tree, _, inner = file.partition("/")
                found = self.place.tree_store(tree)
                ndim = len(entry.shape)
                return encoding.decode_zarr(found, where, inner, shape, ndim, cut)[None]
            content = self.place.read(file)
        except OSError as error:
            raise RWLossError(f"{where} can't be read: {error}; precompute it again") from error
        array = encoding.decode_nifti(where, content, shape, has_classes=has_classes)
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


def checked_region(region: Sequence[slice], case: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices with start and stop inside the image. Raises RWLossError where there are none."""
    wrong = RWLossError(
        f"{case} has shape {shape}: expected one slice of step 1 per axis, with voxels "
        f"inside, got {region!r}"
    )
    inside = []
    try:
        for cut, length in zip(region, shape, strict=True):
            start, stop, step = cut.indices(length)
            if step != 1 or stop <= start:
                raise wrong
            inside.append(slice(start, stop))
    except (TypeError, ValueError, AttributeError) as error:  # not a sequence, or not of slices
        raise wrong from error
    return tuple(inside)


# --- Writing


def check_format(place: StorePlace, kind: Format, dtype: str) -> None:
    """Raise RWLossError where the format does not fit the place or the type of values."""
    if kind not in DTYPES:
        raise RWLossError(f"expected the format {' or '.join(DTYPES)}, got {kind!r}")
    if dtype not in DTYPES[kind]:
        raise RWLossError(f"{kind} stores values as {', '.join(DTYPES[kind])}, not as {dtype!r}")
    if isinstance(place, Bucket) and kind != "zarr":
        raise RWLossError(f"{place} is not a local folder: it holds maps in the format zarr only")


@dataclass(frozen=True)
class EncodedCase:
    """A case as it is stored: its manifest line, and its files by name."""

    entry: ManifestEntry
    files: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


@dataclass(frozen=True)
class Writer:
    """A store that is being written. Any process may write cases; one process writes the
    manifest."""

    place: StorePlace
    info: MapInfo

    @classmethod
    @contextmanager
    def open(cls, place: StorePlace, info: MapInfo) -> Iterator[Writer]:
        """Begin a store, or resume one of the same map. No other process writes meanwhile.

        Raises RWLossError where the place holds other things, can't be written, or is in use.
        """
        check_format(place, info.format, info.dtype)
        try:
            place.start()
            with place.lock():
                found = _info_in(place, info)
                if found is None:
                    # Earlier versions, which know no label sets, can read a store without any.
                    unused = set() if info.label_sets else {"label_sets"}
                    text = info.model_dump_json(indent=2, exclude=unused) + "\n"
                    place.write(manifest.MAP_FILE, text.encode())
                yield cls(place, found or info)
        except OSError as error:
            raise RWLossError(f"{place} can't be written: {error}") from error

    @classmethod
    def look(cls, place: StorePlace, info: MapInfo) -> Writer:
        """The store that `open` would begin or resume, without writing. Raises as `open` does."""
        check_format(place, info.format, info.dtype)
        return cls(place, _info_in(place, info) or info)

    def encode(
        self,
        case: str,
        rwmap: RWMap,
        *,
        labels_sha256: str,
        spacing_mm: tuple[float, ...],
        affine: NDArray[np.float64] | None,
    ) -> EncodedCase:
        """The files of one case, not written yet. rwmap: of one image, labels (1 *s)."""
        labels = to_numpy(rwmap.labels)[0]
        arrays: dict[PartName, NDArray[Any]] = {"labels": _small(labels)}
        for name, values in zip(rwmap.part_names, rwmap.parts, strict=True):
            arrays[cast(PartName, name)] = to_numpy(values)[0]
        parts: dict[PartName, StoredPart] = {}
        if "other" in arrays and (constant := _constant(arrays["other"], labels)) is not None:
            single, error = encoding.as_float32(np.array([constant]))
            parts["other"] = StoredPart(constant=float(single[0]), max_error=error)
            del arrays["other"]
        dtype, tree = self.info.dtype, f"{case}{TREE_SUFFIX}"
        files: dict[str, bytes] = {}
        if self.info.format == "zarr":
            files, errors = encoding.encode_zarr(arrays, labels.ndim, dtype)
            for part in arrays:
                start = f"{part}/"
                inside = {
                    name.removeprefix(start): content
                    for name, content in files.items()
                    if name.startswith(start)
                }
                parts[part] = _stored(f"{tree}/{part}", inside, errors[part])
        else:
            for part, array in arrays.items():
                file = f"{case}_{part}{NIFTI_SUFFIX}"
                files[file], error = encoding.encode_nifti(array, affine, spacing_mm, dtype)
                parts[part] = _stored(file, {"": files[file]}, error)
        entry = ManifestEntry(
            case=case,
            labels_sha256=labels_sha256,
            shape=labels.shape,
            spacing_mm=spacing_mm,
            num_classes=rwmap.num_classes,
            parts=dict(sorted(parts.items())),
        )
        if self.info.format == "zarr":
            # With the manifest line, so that a tree can be found without a manifest.
            mark = json.loads(files[TREE_MARK])
            mark["attributes"] = {"rwloss": json.loads(entry.line)}
            if affine is not None:
                mark["attributes"]["affine"] = affine.tolist()
            files[TREE_MARK] = json.dumps(mark, indent=2).encode()
        return EncodedCase(entry, files)

    def put(self, made: EncodedCase) -> None:
        """Write the files of a case; `record` then adds its line to the manifest.

        made: what `encode` gave.
        """
        if self.info.format == "zarr":
            self.place.write_tree(f"{made.entry.case}{TREE_SUFFIX}", made.files)
        else:
            for name, content in made.files.items():
                self.place.write(name, content)

    def size(self, entry: ManifestEntry) -> int:
        """Bytes of the files of a case."""
        return sum(self.place.size(name) for name in entry.files)

    def is_done(self, entry: ManifestEntry | None, labels_sha256: str) -> bool:
        """Whether this manifest line is of these labels, and its files are intact."""
        return (
            entry is not None
            and entry.labels_sha256 == labels_sha256
            and entry.num_classes == self.info.num_classes
            and not damaged_files(self.place, entry)
        )

    def entries(self) -> dict[str, ManifestEntry]:
        """Cases so far: those of the manifest, and trees that a killed run did not list."""
        entries = manifest.all_entries(self.place)
        # Complete lines, before any is appended.
        manifest.write_entries(self.place, entries.values())
        return entries

    def record(self, entry: ManifestEntry) -> None:
        """Add a case to the manifest."""
        self.place.append(manifest.MANIFEST_FILE, entry.line)


def _info_in(place: StorePlace, wanted: MapInfo) -> MapInfo | None:
    """map.json of an earlier run, which must be of the same map; None where nothing was made."""
    names = [name for name in place.names() if name != LOCK_FILE]
    if manifest.MAP_FILE not in names:
        if names:
            raise RWLossError(
                f"{place} holds other files ({names[0]!r}): "
                "name a new or an empty folder for the maps"
            )
        return None
    found = manifest.read_info(place)
    if differing := found.difference(wanted):
        if set(names) <= manifest.OWN_FILES and not manifest.all_entries(place):
            return None  # every case of that run failed: it made nothing to protect
        raise RWLossError(
            f"{place} holds another map, with {'; '.join(differing)}: name another folder"
        )
    return found


def damaged_files(place: StorePlace, entry: ManifestEntry) -> dict[str, str]:
    """Files of a case that differ from the manifest, with the error of each."""
    wrong = {}
    for part in entry.parts.values():
        if part.file is None:
            continue
        content = place.read_tree(part.file)
        if not content:
            wrong[part.file] = "is missing"
        elif manifest.files_digest(content) != part.sha256:
            wrong[part.file] = "is damaged: its bytes differ from those that were written"
    for tree in entry.files:
        if tree.endswith(TREE_SUFFIX) and manifest.marked_entry(place, tree) != entry:
            wrong[f"{tree}/{TREE_MARK}"] = "is missing, damaged or belongs to another map"
    return wrong


def _stored(file: str, content: dict[str, bytes], error: float) -> StoredPart:
    return StoredPart(file=file, sha256=manifest.files_digest(content), max_error=error)


def _constant(array: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """The value that all voxels with a class share, or None."""
    if all(stride == 0 for stride in array.strides) and array.size:
        return float(array.flat[0])
    values = array[labels != IGNORED]
    if values.size == 0:
        return 0.0
    first = values.flat[0]
    return float(first) if np.all(values == first) else None


def _small(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels in the smallest type that viewers and NIfTI support."""
    if labels.dtype == np.uint8:
        return labels
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    small = np.uint8 if low >= 0 and high < 2**8 else np.int16
    fits = np.iinfo(small).min <= low and high <= np.iinfo(small).max
    return labels.astype(small if fits else np.int32)
