"""Records of a store: map.json, manifest.jsonl, log.jsonl, failures.jsonl; digests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rwloss import maps
from rwloss.errors import RWLossError
from rwloss.files.journal import json_line, parsed_lines
from rwloss.files.lock import LOCK_FILE
from rwloss.store.place import TREE_MARK, StorePlace

MAP_FILE = "map.json"
MANIFEST_FILE = "manifest.jsonl"
LOG_FILE = "log.jsonl"
FAILURES_FILE = "failures.jsonl"
# All other files belong to a case.
OWN_FILES = frozenset({MAP_FILE, MANIFEST_FILE, LOG_FILE, FAILURES_FILE, LOCK_FILE})

Format: TypeAlias = Literal["nifti", "zarr"]
"""How maps are stored."""
DType: TypeAlias = Literal["auto", "int16", "float16", "float32"]
"""The type of stored values; "auto" is 16 bits where those are within 3e-4 of each value."""
PartName: TypeAlias = Literal["labels", "true", "other", "values"]

TREE_SUFFIX = ".zarr"
_STRICT = ConfigDict(extra="forbid", frozen=True)


class Term(BaseModel):
    """A generator of the expression with all its parameters, including defaults.

    revision: of a plug-in, the version of its package or the digest of its file. Another revision
    is another map. parameters: by name.
    """

    model_config = _STRICT

    name: str
    revision: str = ""
    parameters: dict[str, Any] = {}


def terms_of(static: maps.Expression) -> tuple[Term, ...]:
    """The generators of an expression with their parameters, defaults and plug-in versions.

    static: a static expression.
    """
    return tuple(_terms(static))


def _terms(static: maps.Expression) -> Iterator[Term]:
    """The generators of an expression, with all their parameters, including defaults."""
    if isinstance(static, maps.MapGenerator):
        fields = dataclasses.fields(static)
        values = {field.name: getattr(static, field.name) for field in fields}
        yield Term(
            name=static.name,
            revision=maps.revision(type(static)),
            parameters=json.loads(json.dumps(values, default=str)),
        )
    elif isinstance(static, maps.Stabilized):
        yield from _terms(static.inner)
    else:
        for leaf in static.leaves():
            yield from _terms(leaf.term)


class MapInfo(BaseModel):
    """map.json: everything except the labels that determines the values of the maps.

    dtype: type of the stored values; "auto" is 16 bits where that is within 3e-4 of each value,
    else float32. label_sets: labels that mean one of several classes; in the maps they are the last
    of num_classes. spacing_mm: as given for files that carry none. uses_image: the maps depend on
    the images too, whose gray values are then in each case's digest. versions: those of the run
    that began the store; log.jsonl has the versions of each run. layout: of the files. format: of
    the files. terms: those of the expression.
    """

    model_config = _STRICT

    layout: Literal[1] = 1
    format: Format = "nifti"
    dtype: DType = "auto"
    expression: str
    terms: tuple[Term, ...] = ()
    num_classes: int
    class_names: tuple[str, ...] = ()
    ignore_label: int | None = None
    label_sets: dict[str, tuple[int, ...]] = {}
    spacing_mm: tuple[float, ...] | None = None
    uses_image: bool = False
    engine: str
    versions: dict[str, str]

    def difference(self, wanted: MapInfo) -> list[str]:
        """Differences from the wanted map, in words. Versions and the order of terms may differ.

        wanted: of another store.
        """
        names = [
            name
            for name in MapInfo.model_fields
            if name != "versions" and getattr(self, name) != getattr(wanted, name)
        ]
        if "expression" in names and maps.is_same(self.expression, wanted.expression):
            names.remove("expression")
        if "terms" in names and sorted(map(repr, self.terms)) == sorted(map(repr, wanted.terms)):
            names.remove("terms")
        if "expression" in names and "terms" in names:
            names.remove("terms")  # the expression says it more briefly
        changed = self.changed_code(wanted.terms) if "terms" in names else []
        if changed:
            names.remove("terms")
        return changed + [
            f"{name} {getattr(self, name)!r} (now {getattr(wanted, name)!r})" for name in names
        ]

    def changed_code(self, terms: Iterable[Term]) -> list[str]:
        """The plug-ins whose code is no longer that of these maps, in words.

        terms: of the same expression now. Maps that record no terms are not compared.
        """
        now = {term.name: term.revision for term in terms}
        return [
            f"other code of {name} ({_short(revision)}, now {_short(now[name])})"
            for name, revision in {term.name: term.revision for term in self.terms}.items()
            if revision != now.get(name, revision)
        ]


def _short(revision: str) -> str:
    """A package with its version, or the first digits of a digest."""
    is_digest = revision.startswith("sha256:")
    return revision[: len("sha256:") + 12] if is_digest else revision or "built in"


def _inside(name: str) -> str:
    """The name, if it leads to a file in the store or to an array in a tree."""
    parts = name.split("/")
    strange = any(part in {"", ".", ".."} for part in parts) or "\\" in name or "\0" in name
    if len(parts) > 2 or strange:
        raise ValueError(f"{name!r} is not the name of a file in a store")
    return name


class StoredPart(BaseModel):
    """One array of a map: a file (in zarr a tree), or one value for all voxels not ignored.

    file: its name in the store, with its sha256. constant: the one value. sha256: of the bytes of
    the file. max_error: largest difference of a stored value from the exact one.
    """

    model_config = _STRICT

    file: Annotated[str, AfterValidator(_inside)] | None = None
    sha256: str | None = None
    constant: FiniteFloat | None = None
    max_error: FiniteFloat = 0.0

    @model_validator(mode="after")
    def _one_of_two(self) -> StoredPart:
        if (self.file is None) != (self.sha256 is None) or (self.file is None) == (
            self.constant is None
        ):
            raise ValueError("expected a file with its sha256, or a constant")
        return self


class ManifestEntry(BaseModel):
    """A line of manifest.jsonl: one case, identified by its content.

    parts: the arrays of the map, by name.
    """

    model_config = _STRICT

    case: str
    labels_sha256: str
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=2, max_length=3)]
    spacing_mm: tuple[FiniteFloat, ...]
    num_classes: Annotated[int, Field(ge=2)]
    parts: dict[PartName, StoredPart]

    @model_validator(mode="after")
    def _complete_map(self) -> ManifestEntry:
        if len(self.spacing_mm) != len(self.shape):
            raise ValueError("expected one spacing per axis")
        if self.parts.keys() not in ({"labels", "true", "other"}, {"labels", "values"}):
            raise ValueError("expected the parts labels, true and other, or labels and values")
        if self.parts["labels"].file is None:
            raise ValueError("expected a file of labels")
        return self

    @property
    def line(self) -> bytes:
        """The entry as written in the manifest."""
        return json_line(self.model_dump(exclude_defaults=True))

    @property
    def files(self) -> set[str]:
        """Names of the files and trees of the case."""
        return {part.file.partition("/")[0] for part in self.parts.values() if part.file}


# --- Digests


def labels_digest(
    labels: NDArray[Any],
    spacing_mm: tuple[float, ...],
    affine: NDArray[np.float64] | None = None,
    image: NDArray[np.float32] | None = None,
) -> str:
    """SHA-256 of label values, shape, spacing and affine, independent of dtype and memory order.

    image: (c *s), whose values then count too.

    >>> labels_digest(np.zeros((2, 3), np.uint8), (1.0, 1.0)) == labels_digest(
    ...     np.zeros((2, 3), np.int64, order="F"), (1.0, 1.0))
    True
    """
    geometry = [labels.shape, tuple(map(float, spacing_mm))]
    if affine is not None:
        geometry.append(tuple(np.asarray(affine, dtype=np.float64).ravel().tolist()))
    digest = hashlib.sha256(repr(tuple(geometry)).encode())
    # As narrow as the values allow, and first axis fastest, as volumes come out of their files:
    # hashing is a large part of the time for a case that is already done.
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    dtype = "<u1" if low >= 0 and high < 2**8 else "<i8"
    digest.update(dtype.encode())
    digest.update(np.ascontiguousarray(labels.T, dtype=dtype).data)
    for channel in () if image is None else image:
        digest.update(b"image")
        digest.update(np.ascontiguousarray(channel.T, dtype="<f4").data)
    return digest.hexdigest()


def files_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of files by name; of a single file without a name, that of its bytes alone."""
    if files.keys() == {""}:
        return hashlib.sha256(files[""]).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


# --- map.json


def read_info(place: StorePlace) -> MapInfo:
    """Read map.json. Raises RWLossError if it is missing or damaged."""
    try:
        return MapInfo.model_validate_json(place.read(MAP_FILE))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RWLossError(
            f"{place} is not a store of maps: it has no {MAP_FILE}; `rwloss precompute` makes one"
        ) from error
    except (OSError, ValidationError) as error:
        raise RWLossError(
            f"{MAP_FILE} of {place} is damaged or from another version of rwloss "
            f"({_in_words(error)}): use that version, or precompute into another folder"
        ) from error


# --- manifest.jsonl


def read_entries(place: StorePlace) -> dict[str, ManifestEntry]:
    """The manifest by case name; the last line of a case counts.

    A killed run may leave an incomplete last line: that case counts as missing. Raises RWLossError
    for any other line that can't be read.
    """
    entries, wrong = readable_entries(place)
    for number, reason in wrong.items():
        raise RWLossError(
            f"{MANIFEST_FILE} of {place} is damaged in line {number}: `rwloss verify --repair` "
            f"recomputes that map ({reason})"
        )
    return entries


def readable_entries(place: StorePlace) -> tuple[dict[str, ManifestEntry], dict[int, str]]:
    """The readable lines, by case name, and the errors of the others, by line number."""
    try:
        lines = place.read(MANIFEST_FILE).split(b"\n")
    except FileNotFoundError:
        return {}, {}
    except OSError as error:
        raise RWLossError(f"{MANIFEST_FILE} of {place} can't be read: {error}") from error
    entries, wrong = {}, {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = ManifestEntry.model_validate(json.loads(line))
        except (ValueError, RecursionError) as error:  # pydantic's is a ValueError
            wrong[number] = _in_words(error)
        else:
            entries[entry.case] = entry
    return entries, wrong


def _in_words(error: Exception) -> str:
    """The first problem, without the text that pydantic puts around it."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def marked_entry(place: StorePlace, tree: str) -> ManifestEntry | None:
    """The manifest line in a tree's own metadata; None where it is not a complete case."""
    try:
        mark = json.loads(place.read(f"{tree}/{TREE_MARK}"))
        return ManifestEntry.model_validate(mark["attributes"]["rwloss"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def find_unlisted(place: StorePlace, entries: dict[str, ManifestEntry]) -> dict[str, ManifestEntry]:
    """Complete trees that the manifest does not list yet, each by the line it carries."""
    found = {}
    for name in place.names():
        case = name.removesuffix(TREE_SUFFIX)
        entry = None if case == name or case in entries else marked_entry(place, name)
        if entry is not None and entry.case == case:
            found[case] = entry
    return found


def all_entries(place: StorePlace) -> dict[str, ManifestEntry]:
    """The manifest by case name, and complete trees that it does not list yet."""
    entries = read_entries(place)
    return entries | find_unlisted(place, entries)


def write_entries(place: StorePlace, entries: Iterable[ManifestEntry]) -> None:
    """Write the whole manifest, sorted by case."""
    lines = (entry.line for entry in sorted(entries, key=lambda entry: entry.case))
    place.write(MANIFEST_FILE, b"".join(lines))


# --- log.jsonl and failures.jsonl


def log(place: StorePlace, event: str, **fields: Any) -> None:
    """Add an event to log.jsonl, with the time in UTC."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    place.append(LOG_FILE, json_line({"time": now, "event": event, **fields}))


def last_start(place: StorePlace) -> dict[str, Any]:
    """The latest start in log.jsonl; empty if none can be read."""
    starts = [fields for fields in _lines(place, LOG_FILE) if fields.get("event") == "start"]
    return starts[-1] if starts else {}


def write_failures(place: StorePlace, failures: Iterable[tuple[str, str]]) -> None:
    """Write failures.jsonl: a case and a reason per line. Without failures, remove it."""
    lines = [json_line({"case": case, "reason": reason}) for case, reason in failures]
    if lines:
        place.write(FAILURES_FILE, b"".join(lines))
    else:
        place.remove(FAILURES_FILE)


def read_failures(place: StorePlace) -> dict[str, str]:
    """Why the last run failed on a case, by case name."""
    failures = _lines(place, FAILURES_FILE)
    return {
        str(each["case"]): str(each["reason"]) for each in failures if {"case", "reason"} <= {*each}
    }


def _lines(place: StorePlace, name: str) -> list[dict[str, Any]]:
    try:
        return list(parsed_lines(place.read(name)))
    except OSError:
        return []
